"""Which way computes a convolution, and why.

In this order: what `algorithm` asks for, what `max_relative_error` leaves, what the cost model of
`arith.winograd` prefers; where its two best are close, what a `Timer` has measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from striate.arith.conv import ConvShape
from striate.arith.cook_toom import Filtering
from striate.arith.machine import Machine
from striate.arith.rounding import relative_error
from striate.arith.winograd import (
    ALGORITHMS,
    DIRECT,
    GRADIENT_TILE,
    L3_OF_L2,
    Candidate,
    candidates,
    gradient_candidates,
    transforms_inside,
)
from striate.engine.layout import ConvOp, Reorder, allows_winograd, conv_of, conv_shape
from striate.engine.options import DEFAULT, Options
from striate.errors import ArgumentError
from striate.graph.ops.conv import Conv2d, ConvInputGrad, ConvWeightGrad
from striate.graph.ops.eltwise import Fused, Map
from striate.graph.ops.leaf import ParamLeaf
from striate.graph.ops.shape import Reshape
from striate.graph.value import Graph, Node

# The cost model is right within some 30 %: rivals nearer than that are timed.
CLOSE = 1.3
# So much slower for one image may be a way that needs CLOSE times less work in a batch.
AS_GOOD = 1.3
WORK = {"Conv2d": "forward", "ConvInputGrad": "input gradient", "ConvWeightGrad": "weight gradient"}


@dataclass(frozen=True)
class Choice:
    """How one convolution is computed. `ways` are all that could, the cheapest first.

    "direct" stands for the sum of products itself, whichever kernel computes it. `inside`: the
    kernel of Winograd's method transforms the weights itself.
    """

    layer: str
    work: str
    way: Candidate
    ways: tuple[Candidate, ...]
    reason: str
    inside: bool = False

    def __str__(self) -> str:
        known = " · ".join(map(str, self.ways))
        inside = ", weights transformed inside" if self.inside else ""
        return f"{self.layer}: {self.work}: {self.way.name}{inside} ({self.reason}); {known}"


@dataclass(frozen=True)
class Verdict:
    """The better of two ways, by its tile, and what both took; no seconds: it was not measured."""

    tile: int
    seconds: dict[int, float]


# Of a convolution (its node, its shape), which of two ways is faster.
Timer = Callable[[Node, ConvShape, Candidate, Candidate], Verdict]


@dataclass(frozen=True)
class Chooser:
    """Decides for each convolution of a program.

    Inference decides for one image, so that an image gives the same bits in every batch; a
    training step decides for its batch. Threads count for nothing. Where the weights of Winograd's
    method are transformed changes no bit, so there the batch counts. `cold`: see `leaves_caches`.
    """

    machine: Machine
    options: Options = DEFAULT
    training: bool = False
    timer: Timer | None = None
    cold: bool = False

    def __call__(self, node: Node) -> Choice:
        """The way for the convolution of this node.

        Raises ArgumentError if none is within the error bound.
        """
        op = conv_of(node)
        assert op is not None
        shape = conv_shape(op, node)
        ways = self._ways(op, shape)
        work = f"{WORK[type(op).__name__]} {_described(shape)}"
        layer = layer_name(node) or "conv"
        allowed, reasons = self._allowed(f"{layer} ({work})", op, ways)
        way, reason = self._best(node, shape, allowed)
        why = "; ".join([*reasons, *reason])
        return Choice(layer, work, way, tuple(ways), why, self._inside(op, shape, way))

    def _inside(self, op: ConvOp, shape: ConvShape, way: Candidate) -> bool:
        if not way.tile or isinstance(op, ConvWeightGrad):
            return False
        out, channels = (shape.out_h, shape.out_w), (shape.ci, shape.co)
        if isinstance(op, ConvInputGrad):
            out, channels = (shape.h, shape.w), (shape.co, shape.ci)
        return transforms_inside(
            Filtering(way.tile, shape.kh, shape.stride[0], shape.dilation[0]),
            *(shape.n, out, *channels, self.machine),
            changing=self.training,
            cold=self.cold,
        )

    def _ways(self, op: ConvOp, shape: ConvShape) -> list[Candidate]:
        images = shape.n if self.training else 1
        ci, co, out = shape.ci, shape.co, (shape.out_h, shape.out_w)
        dilation = shape.dilation[0]
        if isinstance(op, ConvWeightGrad):
            if allows_winograd(op, shape):
                return gradient_candidates(images, out, ci, co, self.machine)
            products = images * out[0] * out[1]
        elif isinstance(op, Conv2d):
            if allows_winograd(op, shape):
                met = _computed(shape, shape.out_w)
                kernel, stride = shape.kh, shape.stride[0]
                return candidates(images, out, ci, co, self.machine, kernel, stride, dilation, met)
            products = shape.kh * shape.kw * (ci // shape.groups)
        else:
            if allows_winograd(op, shape):
                met, size = _computed(shape, shape.w), (shape.h, shape.w)
                return candidates(images, size, co, ci, self.machine, shape.kh, 1, dilation, met)
            products = max(len(phase.taps) for phase in shape.phases()) * (co // shape.groups)
        macs = shape.macs // max(1, shape.n) * images
        return [Candidate(DIRECT, macs, 0, relative_error(products))]

    def _allowed(
        self, what: str, op: ConvOp, ways: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[str]]:
        """The ways that the options leave, and what they say about it."""
        asked, limit = ALGORITHMS[self.options.algorithm], self.options.max_relative_error
        gradient = isinstance(op, ConvWeightGrad)
        left, reasons = list(ways), []
        if len(ways) == 1:
            reasons = ["the only way"]
        elif asked is not None:
            most = GRADIENT_TILE if asked and gradient else asked
            tile = max(way.tile for way in ways if way.tile <= most)
            left, reasons = [way for way in ways if way.tile == tile], ["asked for"]
        if limit is None:
            return left, reasons
        within = [way for way in left if way.error <= limit]
        if not within and gradient:
            # As many products as a batch has pixels: no way of adding them meets every bound.
            return [min(left, key=lambda way: way.error)], [*reasons, "the least error"]
        if not within:
            best = min(left, key=lambda way: way.error)
            raise ArgumentError(
                f"max_relative_error={limit:g} cannot be met by {what}: {best.name} is expected to "
                f"err by {best.error:.1e} of its results' RMS; allow that much, or leave it out"
            )
        reasons += [
            f"error budget excludes {way.name}: {way.error:.1e} > {limit:g}"
            for way in left
            if way.error > limit
        ]
        return within, reasons

    def _best(
        self, node: Node, shape: ConvShape, ways: Sequence[Candidate]
    ) -> tuple[Candidate, list[str]]:
        """The best of the ways, and what speaks for it."""
        first = ways[0]
        if len(ways) == 1:
            return first, []
        second = ways[1]
        ratio = second.cost / max(1, first.cost)
        if not self.training and ratio <= AS_GOOD and second.work * CLOSE < first.work:
            # The bits of an image are those of one image: a batch cannot decide otherwise.
            saved = f"{first.work / second.work:.2f} × fewer multiply-adds a batch"
            return second, [f"cost model: as cheap as {first.name} for one image, {saved}"]
        model = f"cost model: {ratio:.2f} × cheaper than {second.name}"
        timed = self.timer is not None and not isinstance(conv_of(node), ConvWeightGrad)
        if not timed or ratio > CLOSE or not first.cost:
            return first, [model]
        assert self.timer is not None
        verdict = self.timer(node, shape, first, second)
        if not verdict.seconds:
            return first, [f"{model}; not timed, for the time budget was spent"]
        best, other = (first, second) if verdict.tile == first.tile else (second, first)
        ms = {tile: f"{1e3 * seconds:.3g} ms" for tile, seconds in verdict.seconds.items()}
        return best, [f"measured {ms[best.tile]} against {ms[other.tile]} of {other.name}"]


def leaves_caches(graph: Graph, machine: Machine) -> bool:
    """Whether the weights of a net exceed a core's share of L3: none is there when it is wanted."""
    weights = 4 * sum(param.size for param in graph.params())
    return weights > L3_OF_L2 * machine.l2_bytes


def layer_name(node: Node) -> str:
    """Path of the layer: the one whose weights a convolution reads, else the scope of the node.

    Fusion gives a convolution the scope of the last thing in its epilogue. Weights may come in
    another order or shape, or times the factors of a batch norm.
    """
    above = [node.inputs[1]] if isinstance(conv_of(node), (Conv2d, ConvInputGrad)) else []
    while above:
        value = above.pop()
        op = value.node.op
        if isinstance(op, ParamLeaf) and op.param.size == node.inputs[1].size:
            return op.param.name.removesuffix(".weight")
        if isinstance(op, (Reorder, Reshape, Map, Fused)):
            above += value.node.inputs
    return node.scope


def _computed(shape: ConvShape, width: int) -> int:
    """Pairs of a pixel of a result so wide and a tap that the direct convolution computes.

    It leaves out kernel rows outside the image, and columns where they are products of their own.
    """
    return shape.met(0) * (shape.met(1) if shape.dilation[1] > 1 else shape.kw * width)


def _described(shape: ConvShape) -> str:
    stride = f"/{shape.stride[0]}" if shape.stride != (1, 1) else ""
    groups = f" groups={shape.groups}" if shape.groups > 1 else ""
    size = f"{shape.out_h}×{shape.out_w}"
    return f"{shape.kh}×{shape.kw}{stride} {shape.ci}→{shape.co}{groups} of {size}"
