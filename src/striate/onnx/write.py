"""Nets as ONNX files, in the form of inference."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from striate.errors import ArgumentError, FormatError, ShapeError, UnsupportedError
from striate.graph import Trace, Value
from striate.graph.symbol import Symbol
from striate.io.atomic import write_atomic
from striate.nn.module import Module
from striate.nn.tracing import symbolic_call
from striate.onnx.write_calls import piece_of_call
from striate.onnx.write_nodes import piece_of_node
from striate.onnx.writer import FixedSizeError, Piece, Sizes, Traced, Writer

OPSET, IR_VERSION = 17, 8  # onnx 1.12: what every runtime of the last years reads
FREE = ("size", "batch", "nothing")
MOST_BYTES = 2**31 - 1  # of one protobuf message
AXES = ("batch", "channels", "height", "width")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        free: "size" (batch, height and width may vary), "batch" or "nothing".
        nodes: number of ONNX nodes.
        error: largest difference between ONNX Runtime's outputs and ours, as a share of the
            largest output; None where ONNX Runtime is not installed.
    """

    path: str
    free: str
    nodes: int
    error: float | None


def export(
    net: Module,
    path: str | os.PathLike[str],
    input_shape: Sequence[int] | Sequence[Sequence[int]],
    *,
    free: str | None = None,
    classes: Sequence[str] | None = None,
    recipe: Mapping[str, Any] | None = None,
    check: bool = True,
) -> Exported:
    """Write a net as an ONNX file (opset 17, IR version 8) in its inference form.

    Batch norm uses its running statistics and dropout is gone; kernels of true convolutions
    (`flip_kernel=True`) are turned, since ONNX has cross-correlation only.

    Args:
        net: any module; its weights are copied into the file under their names.
        path: usually `….onnx`. The file is whole or absent.
        input_shape: of one picture, (C, H, W), or one such shape for each input of `forward`.
        free: which sizes may vary: "size" (batch, height and width), "batch" or "nothing".
            Default: as much as the net allows.
        classes: names, kept in the file's metadata as JSON under "classes"; default: the net's.
        recipe: preprocessing, kept under "recipe" alike.
        check: check the file by `onnx.checker` and, where ONNX Runtime is installed, compare its
            outputs with the net's.

    Raises:
        UnsupportedError: something in the net has no ONNX form (the message names the layer), or
            the sizes cannot be as free as asked.
        FormatError: the check failed; no file is written.
        ImportError: the package onnx is missing (`pip install striate[onnx]`).
    """
    shapes = _shapes(input_shape)
    model, chosen = _model(net, shapes, _asked(free))
    facts = {"classes": classes or getattr(net, "classes", None)}
    facts["recipe"] = recipe or getattr(net, "recipe", None)
    for key, value in facts.items():
        if value is not None:
            model.metadata_props.add(key=key, value=json.dumps(value))
    if model.ByteSize() > MOST_BYTES:
        raise UnsupportedError("the net has more than 2 GB of weights, which one ONNX file cannot")
    data = model.SerializeToString()
    error = _check(net, model, data, shapes) if check else None
    write_atomic(path, [data])
    return Exported(os.fspath(path), chosen, len(model.graph.node), error)


def _shapes(input_shape: Any) -> list[tuple[int, ...]]:
    several = bool(input_shape) and not hasattr(input_shape[0], "__index__")
    shapes = [tuple(int(n) for n in s) for s in (input_shape if several else [input_shape])]
    if not shapes or any(min(s, default=1) < 1 for s in shapes):
        raise ArgumentError(
            f"input_shape must be (C, H, W) or a list of such shapes, got {input_shape!r}"
        )
    return shapes


def _asked(free: str | None) -> tuple[str, ...]:
    if free is not None and free not in FREE:
        raise ArgumentError(f"free must be one of {', '.join(FREE)} or None, got {free!r}")
    return FREE if free is None else (free,)


def _model(net: Module, shapes: list[tuple[int, ...]], asked: tuple[str, ...]) -> tuple[Any, str]:
    """The model with the most freedom that works, and which that is."""
    first = _traced(net, [(2, *s) for s in shapes])
    reason = ""
    for free in asked:
        try:
            second = None
            if free != "nothing":
                second = _traced(net, [_other(s, free) for s in shapes])
            return _written(net, Sizes(first, second)), free
        except (FixedSizeError, ShapeError) as error:
            reason = str(error)
    what = "batch, height and width" if asked[0] == "size" else "the batch size"
    raise UnsupportedError(
        f"{type(net).__name__} cannot be exported with {what} free: "
        f"{reason or 'something in it depends on that size'}"
    )


def _other(shape: tuple[int, ...], free: str) -> tuple[int, ...]:
    """Another size of the same input: a batch of 3, and larger images."""
    if free == "size" and len(shape) == 3:
        shape = (shape[0], shape[1] + 64, shape[2] + 96)
    return (3, *shape)


def _traced(net: Module, shapes: list[tuple[int, ...]]) -> Traced:
    with Trace() as trace:
        output, _ = symbolic_call(net, trace, shapes, training=False)
        values = output if isinstance(output, (tuple, list)) else (output,)
        if not all(isinstance(v, Symbol) for v in values):
            raise UnsupportedError(f"forward of {type(net).__name__} does not give symbols only")
        graph = trace.graph(*values)
        return Traced(graph.inputs, graph.outputs, graph.nodes(), trace.composites)


def _written(net: Module, sizes: Sizes) -> Any:
    """The checked protobuf model."""
    from onnx import helper, numpy_helper

    w, traced = Writer(), sizes.first
    names: dict[Value, str] = {}
    inputs = []
    for i, value in enumerate(traced.inputs):
        name = names[value] = w.unique(value.node.op.name)  # type: ignore[attr-defined]
        # The sides of a further input need not be those of the first.
        inputs.append(_info(name, sizes.of(value), f"{name}_" if i else ""))
    for value, piece in _pieces(w, sizes, names):
        w.scope = value.node.scope
        names[value] = piece.write(*(names[v] for v in piece.inputs))
    outputs = []
    for i, value in enumerate(traced.outputs):
        name = w.unique("output" if len(traced.outputs) == 1 else f"output{i}")
        _name_output(w, names, value, name, again=value in traced.outputs[:i])
        outputs.append(_info(name, sizes.of(value), f"{name}_"))
    arrays = [numpy_helper.from_array(a, name) for name, a in w.arrays.items()]
    graph = helper.make_graph(w.nodes, type(net).__name__, inputs, outputs, arrays)
    opset = [helper.make_opsetid("", OPSET)]
    from striate import __version__

    return helper.make_model(
        graph,
        opset_imports=opset,
        ir_version=IR_VERSION,
        producer_name="striate",
        producer_version=__version__,
    )


def _name_output(
    w: Writer, names: dict[Value, str], value: Value, wanted: str, *, again: bool
) -> None:
    """Give an output its own name; one that is there `again`, an input or a weight is copied."""
    made = {output for node in w.nodes for output in node.output}
    if names[value] in made and not again:
        w.rename(names[value], wanted)
        names[value] = wanted
    else:
        from onnx import helper

        w.nodes.append(helper.make_node("Identity", [names[value]], [wanted], name=wanted))


def _pieces(w: Writer, sizes: Sizes, given: Mapping[Value, str]) -> Iterator[tuple[Value, Piece]]:
    """What has to be written, each after what it reads."""
    pieces: dict[Value, Piece] = {}
    stack = list(reversed(sizes.first.outputs))
    done: set[Value] = set(given)
    while stack:
        value = stack[-1]
        if value in done:
            stack.pop()
            continue
        if value not in pieces:
            w.scope = value.node.scope
            pieces[value] = piece_of_call(w, sizes, value) or piece_of_node(w, sizes, value)
        missing = [v for v in pieces[value].inputs if v not in done]
        if missing:
            stack.extend(reversed(missing))
        else:
            done.add(value)
            yield value, pieces[value]
            stack.pop()


def _info(name: str, shape: tuple[int | None, ...], prefix: str) -> Any:
    """A declaration; free sizes are called batch, and after the prefix height, width …"""
    from onnx import TensorProto, helper

    dims: list[int | str] = []
    for i, size in enumerate(shape):
        letter = AXES[i] if len(shape) == len(AXES) else f"d{i}"
        free = "batch" if i == 0 else prefix + letter
        dims.append(free if size is None else size)
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def _check(net: Module, model: Any, data: bytes, shapes: list[tuple[int, ...]]) -> float | None:
    """Largest error of ONNX Runtime beside the net, as a share of the largest output."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FormatError(f"the exported model is not valid ONNX: {error}") from error
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    fixed = isinstance(session.get_inputs()[0].shape[0], int)
    arrays = [rng.standard_normal((2 if fixed else 3, *s), np.float32) for s in shapes]
    feeds = {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}
    theirs = session.run(None, feeds)
    was_training = net.training
    try:
        results = net.eval()(*arrays)
    finally:
        net.train(was_training)
    ours = results if isinstance(results, tuple) else (results,)
    return max(_error(a, b) for a, b in zip(ours, theirs, strict=True))


def _error(ours: Any, theirs: Any) -> float:
    if ours.shape != theirs.shape:
        raise FormatError(
            f"the exported model gives the shape {theirs.shape} in ONNX Runtime, "
            f"the net {ours.shape}"
        )
    largest = float(np.max(np.abs(ours), initial=0.0))
    error = float(np.max(np.abs(ours - theirs), initial=0.0)) / (largest or 1.0)
    if not error < 1e-2:
        raise FormatError(
            f"the exported model differs from the net by {error:.2g} of its largest output in ONNX "
            "Runtime; please report it"
        )
    return error
