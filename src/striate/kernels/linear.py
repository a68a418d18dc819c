"""Products of a small exact matrix with a list of registers.

Zeros cost nothing and ones no multiplication. Rows that differ only in the sign of their odd
entries, as the rows of the points a and −a do, share their even and odd sums:

    r₊ = even + odd        r₋ = ±(even − odd)
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


def _sum(k: Kernel, row: Row, values: Sequence[Any]) -> Any:
    """Σ row[j] · values[j], starting with a term that needs no multiplication if there is one."""
    terms = [(c, v) for c, v in zip(row, values, strict=True) if c]
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
