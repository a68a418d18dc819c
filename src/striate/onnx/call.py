"""One call of a function, seen by what writes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import striate.functional as F
from striate.arith.padding import Pair, Sides, normalise
from striate.graph import Param, Value
from striate.graph.ops.leaf import ParamLeaf
from striate.graph.trace import Composite
from striate.onnx.writer import FixedSizeError, Piece, Sizes, Writer


class Call:
    """One call of a function, with what its arguments are for both traced sizes."""

    def __init__(self, composite: Composite, value: Value, w: Writer, sizes: Sizes) -> None:
        self.value, self.w, self.sizes = value, w, sizes
        self.operands: Mapping[str, Value] = composite.operands
        known = inspect.signature(getattr(F, composite.function)).parameters.values()
        self.options = {p.name: p.default for p in known} | dict(composite.options)

    def __getitem__(self, name: str) -> Any:
        return self.options[name]

    @property
    def x(self) -> Value:
        """The image."""
        return self.operands["x"]

    def param(self, name: str) -> Param | None:
        """The parameter that an operand is, if it is one."""
        op = self.operands[name].node.op if name in self.operands else None
        return op.param if isinstance(op, ParamLeaf) else None

    def single(self, kind: str, **attributes: Any) -> Piece:
        """One node that reads the image."""
        return Piece((self.x,), lambda x: self.w.node(kind, x, **attributes))

    def pads(self, kernel: Pair, strides: Pair, dilations: Pair) -> Sides | None:
        """The padding, if it is the same for every size; None for "same" with a free one."""
        free = None in self.sizes.of(self.x)[2:]
        if self["padding"] == "same" and free and strides != (1, 1):
            return None
        found = [
            normalise(self["padding"], (v.shape[2], v.shape[3]), kernel, strides, dilations)
            for v in (self.x, self.sizes.twin(self.x))
        ]
        if found[0] != found[1]:
            raise FixedSizeError
        return found[0]
