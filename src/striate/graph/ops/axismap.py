"""Sparse linear maps along the height or width of images.

    out[…, j, …] = Σ_t weight[j, t] · x[…, index[j, t], …]

Average pooling, interpolation, every padding mode and slices are such maps, and so are all
their gradients: the transposed map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from striate.arith import pool
from striate.arith.padding import Pair
from striate.errors import ArgumentError, DTypeError, ShapeError
from striate.graph.value import Array, Node, Op, TensorType, Value

# For each output, the inputs it reads and their weights, ascending in the input index.
Rows: TypeAlias = tuple[tuple[tuple[int, float], ...], ...]


class Rule(ABC):
    """What an AxisMap does along its axis: a frozen dataclass with sizes and rows."""

    in_size: int

    @property
    @abstractmethod
    def out_size(self) -> int:
        """Size of the axis in the output."""

    @abstractmethod
    def compute_rows(self) -> Rows:
        """The rows; any order and repeated indices are allowed here."""

    def rows(self) -> Rows:
        """For each output a tuple of (index, weight): indices ascend, no weight is 0 (cached)."""
        return _rows(self)


@lru_cache(maxsize=1024)
def _rows(rule: Rule) -> Rows:
    result = []
    for row in rule.compute_rows():
        weights: dict[int, float] = {}
        for index, weight in row:
            weights[index] = weights.get(index, 0.0) + weight
        result.append(tuple(sorted((i, w) for i, w in weights.items() if w != 0)))
    return tuple(result)


@dataclass(frozen=True)
class Transposed(Rule):
    """The transpose of `rule`: what each of its inputs gives to its outputs."""

    rule: Rule

    @property
    def in_size(self) -> int:  # type: ignore[override]
        """The rule's outputs."""
        return self.rule.out_size

    @property
    def out_size(self) -> int:
        """The rule's inputs."""
        return self.rule.in_size

    def compute_rows(self) -> Rows:
        """Rows and columns exchanged."""
        rows: list[list[tuple[int, float]]] = [[] for _ in range(self.out_size)]
        for j, row in enumerate(self.rule.rows()):
            for i, weight in row:
                rows[i].append((j, weight))
        return tuple(tuple(row) for row in rows)


@dataclass(frozen=True)
class AveragePool1d(Rule):
    """Sums over pooling windows, divided by the average-pool count of this axis or `divisor`."""

    in_size: int
    kernel: int
    stride: int
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None
    dilation: int = 1

    @property
    def out_size(self) -> int:
        """PyTorch's pooling size."""
        return pool.pool_size(
            self.in_size, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def compute_rows(self) -> Rows:
        """1 / count for every element of the window."""
        args = (self.in_size, self.kernel, self.stride, self.padding)
        counts = pool.average_counts(*args, self.ceil_mode, self.count_include_pad, self.dilation)
        windows = pool.windows(*args, self.dilation, self.ceil_mode)
        return tuple(
            tuple((i, 1 / (self.divisor or count)) for i in range(*window))
            for window, count in zip(windows, counts, strict=True)
        )


@dataclass(frozen=True)
class AdaptiveAverage1d(Rule):
    """Means over the bins of adaptive pooling."""

    in_size: int
    outputs: int

    @property
    def out_size(self) -> int:
        """`outputs`."""
        return self.outputs

    def compute_rows(self) -> Rows:
        """1 / bin size for every element of the bin."""
        bins = pool.adaptive_windows(self.in_size, self.outputs)
        return tuple(tuple((i, 1 / len(range(*b))) for i in range(*b)) for b in bins)


@dataclass(frozen=True)
class Pad1d(Rule):
    """`begin` and `end` more elements, by `mode`; negative counts crop.

    Modes: "zeros", "reflect" (the border is not repeated), "replicate" (the border is repeated),
    "circular" (of what is left after cropping).
    """

    in_size: int
    begin: int
    end: int
    mode: str = "zeros"

    def __post_init__(self) -> None:
        n, most = self.in_size, max(self.begin, self.end)
        if self.mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ArgumentError(f"unknown padding mode {self.mode!r}")
        if self.out_size < 1:
            raise ShapeError(f"padding ({self.begin}, {self.end}) leaves nothing of size {n}")
        if (self.mode == "reflect" and most >= n) or (self.mode == "circular" and most > n):
            bound = "less than" if self.mode == "reflect" else "at most"
            raise ShapeError(
                f"{self.mode} padding must be {bound} the size of the axis, got "
                f"({self.begin}, {self.end}) for size {n}"
            )

    @property
    def out_size(self) -> int:
        """Size with the padding."""
        return self.in_size + self.begin + self.end

    def compute_rows(self) -> Rows:
        """One element each, or none in padding of zeros."""
        n = self.in_size
        low, high = max(0, -self.begin), n - max(0, -self.end)
        rows = []
        for j in range(-self.begin, n + self.end):
            if 0 <= j < n:
                i = j
            elif self.mode == "zeros":
                rows.append(())
                continue
            elif self.mode == "reflect":
                i = -j if j < 0 else 2 * (n - 1) - j
            elif self.mode == "replicate":
                i = min(max(j, 0), n - 1)
            else:
                i = low + (j - low) % (high - low)
            rows.append(((i, 1.0),))  # type: ignore[arg-type]
        return tuple(rows)


@dataclass(frozen=True)
class Slice1d(Rule):
    """Elements start, start + step, … below stop; nothing out of range."""

    in_size: int
    start: int
    stop: int
    step: int = 1

    @property
    def out_size(self) -> int:
        """Number of elements taken."""
        return len(range(self.start, self.stop, self.step))

    def compute_rows(self) -> Rows:
        """One element each."""
        return tuple(((i, 1.0),) for i in range(self.start, self.stop, self.step))


@dataclass(frozen=True)
class Take1d(Rule):
    """The elements at `indices`, in any order; 0 where the index is -1."""

    in_size: int
    indices: tuple[int, ...]

    @property
    def out_size(self) -> int:
        """Number of indices."""
        return len(self.indices)

    def compute_rows(self) -> Rows:
        """One element each, or none."""
        return tuple(((i, 1.0),) if i >= 0 else () for i in self.indices)


@dataclass(frozen=True)
class AxisMap(Op):
    """`rule` along `axis` (2: height, 3: width) of an image (N, C, H, W)."""

    axis: int
    rule: Rule

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """The rule's output size at the axis."""
        (x,) = inputs
        if x.dtype != "f32":
            raise DTypeError(f"AxisMap takes f32, got {x}")
        if len(x.shape) != 4 or self.axis not in (2, 3):
            raise ShapeError(f"AxisMap takes images (N, C, H, W), axis 2 or 3; got {x.shape}")
        if x.shape[self.axis] != self.rule.in_size:
            raise ShapeError(f"{self} takes size {self.rule.in_size}, got {x.shape}")
        shape = (*x.shape[: self.axis], self.rule.out_size, *x.shape[self.axis + 1 :])
        return (TensorType(shape),)

    def numpy(self, *arrays: Array) -> tuple[Array, ...]:
        """Tap by tap; only elements that a row names are read, so a NaN elsewhere stays there."""
        x = np.moveaxis(arrays[0], self.axis, 0)
        rows = self.rule.rows()
        y = np.zeros((len(rows), *x.shape[1:]), np.float64)
        with np.errstate(all="ignore"):
            for t in range(max(map(len, rows))):
                js = [j for j, row in enumerate(rows) if t < len(row)]
                index = [rows[j][t][0] for j in js]
                weight = np.array([rows[j][t][1] for j in js]).reshape(-1, 1, 1, 1)
                y[js] += weight * x[index]
            return (np.moveaxis(y, 0, self.axis).astype(arrays[0].dtype),)

    def grad(self, node: Node, *g: Value | None) -> tuple[Value | None, ...]:
        """The transposed rule."""
        rule = self.rule
        back = rule.rule if isinstance(rule, Transposed) else Transposed(rule)
        return (None if g[0] is None else AxisMap(self.axis, back)(g[0]),)
