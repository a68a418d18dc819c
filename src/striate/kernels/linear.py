"""Products of a small exact matrix with a list of registers.

Zeros cost nothing and ones no multiplication. Rows that differ only in the sign of their odd
entries, as the rows of the points a and −a do, share their even and odd sums:

    r₊ = even + odd        r₋ = ±(even − odd)

Where columns differ so, as those of Aᵀ do, the sum and the difference of their two values are
shared by the even and by the odd rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from striate.ir import vec
from striate.ir.kernel import Kernel

Row = Sequence[Fraction]


def combine(k: Kernel, matrix: Sequence[Row], values: Sequence[Any]) -> list[Any]:
    """[Σ_j row[j] · values[j] for each row]."""
    pairs = _mirrored_columns(matrix)
    if pairs:
        return _combine_paired(k, matrix, values, pairs)
    out: list[Any] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if out[i] is not None:
            continue
        partner, sign = _mirrored(matrix, i)
        if partner is None:
            out[i] = _sum(k, row, values)
            continue
        even = _sum(k, [c if j % 2 == 0 else Fraction(0) for j, c in enumerate(row)], values)
        odd = _sum(k, [c if j % 2 else Fraction(0) for j, c in enumerate(row)], values)
        out[i] = k.b.fadd(even, odd)
        out[partner] = k.b.fsub(even, odd) if sign > 0 else k.b.fsub(odd, even)
    return out


def _mirrored(matrix: Sequence[Row], i: int) -> tuple[int | None, int]:
    """A later row that is ± row i with the signs of odd entries changed."""
    row = matrix[i]
    if not any(row[0::2]) or not any(row[1::2]):
        return None, 1
    for other in range(i + 1, len(matrix)):
        for sign in (1, -1):
            if all(
                b == sign * (-1) ** j * a
                for j, (a, b) in enumerate(zip(row, matrix[other], strict=True))
            ):
                return other, sign
    return None, 1


def _mirrored_columns(matrix: Sequence[Row]) -> list[tuple[int, int]]:
    """Pairs of columns that agree in the even rows, several of them, and differ in sign elsewhere.

    With fewer rows nothing would be shared.
    """
    columns = list(zip(*matrix, strict=True))
    pairs: list[tuple[int, int]] = []
    for i, column in enumerate(columns):
        if sum(map(bool, column[0::2])) < 2 or any(i in pair for pair in pairs):
            continue
        turned = tuple(-c if row % 2 else c for row, c in enumerate(column))
        if turned != column and turned in columns[i + 1 :]:
            pairs.append((i, columns.index(turned, i + 1)))
    return pairs


def _combine_paired(
    k: Kernel, matrix: Sequence[Row], values: Sequence[Any], pairs: list[tuple[int, int]]
) -> list[Any]:
    """Even rows combine the sums of paired values, odd rows their differences."""
    others = [j for j in range(len(values)) if not any(j in pair for pair in pairs)]
    kept = [i for i, _ in pairs] + others
    alone = [values[j] for j in others]
    sums = [k.b.fadd(values[i], values[j]) for i, j in pairs] + alone
    differences = [k.b.fsub(values[i], values[j]) for i, j in pairs] + alone
    return [
        _sum(k, [row[j] for j in kept], differences if r % 2 else sums)
        for r, row in enumerate(matrix)
    ]


def _sum(k: Kernel, row: Row, values: Sequence[Any]) -> Any:
    """Σ row[j] · values[j], starting with a term that needs no multiplication if there is one."""
    terms = [(c, v) for c, v in zip(row, values, strict=True) if c]
    if not terms:
        return vec.constant(k, 0.0)
    terms.sort(key=lambda term: abs(term[0]) != 1)
    (first, total), *rest = terms
    if first == -1:
        total = k.b.fneg(total)
    elif first != 1:
        total = k.b.fmul(total, vec.constant(k, float(first)))
    for c, value in rest:
        if c == 1:
            total = k.b.fadd(total, value)
        elif c == -1:
            total = k.b.fsub(total, value)
        else:
            total = vec.fma(k, value, vec.constant(k, float(c)), total)
    return total
