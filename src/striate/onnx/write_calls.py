"""Functions of `striate.functional` as ONNX operators: the form that other tools know best.

A rule gives None where ONNX has no equal form; then the nodes which the function is made of are
written instead, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from striate.arith.padding import Pair, Sides, pair
from striate.arith.pool import pool_size
from striate.graph import Value
from striate.graph.ops.eltwise import Map
from striate.graph.ops.reduce import Reduce
from striate.graph.ops.shape import Reshape
from striate.onnx.call import Call
from striate.onnx.write_activations import ACTIVATIONS, Rule
from striate.onnx.writer import FixedSizeError, Piece, Sizes, Writer


def piece_of_call(w: Writer, sizes: Sizes, value: Value) -> Piece | None:
    """How to write the function that gave a value; None if its nodes are to be written."""
    composite = sizes.first.composites.get(value)
    if composite is None:
        return _mean(w, value)
    rule = RULES.get(composite.function)
    if sizes.second is not None:
        twin = sizes.second.composites.get(sizes.twin(value))
        if twin is None or twin.options != composite.options:
            return None  # an argument follows from the size of the image
    return None if rule is None else rule(Call(composite, value, w, sizes))


def _window(kernel: Pair, strides: Pair, sides: Sides | None) -> dict[str, Any]:
    """The attributes that convolution and pooling share."""
    found: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(strides)}
    if sides is None:
        return found | {"auto_pad": "SAME_UPPER"}
    return found | {"pads": [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]}


def _mean(w: Writer, value: Value) -> Piece | None:
    """A sum times 1 / count is a mean, whatever the count."""
    node = value.node
    if node.op != Map("mul"):
        return None
    for total, factor in (node.inputs, node.inputs[::-1]):
        dropped = isinstance(total.node.op, Reshape)  # the axes of the sum
        source = total.node.inputs[0] if dropped else total
        op, number = source.node.op, getattr(factor.node.op, "value", None)
        if not isinstance(op, Reduce) or op.kind != "sum" or not isinstance(number, float):
            continue
        (x,) = source.node.inputs
        kept = tuple(n for i, n in enumerate(x.shape) if i not in op.axes)
        if number == source.size / x.size and (not dropped or total.shape == kept):
            attributes = {"axes": list(op.axes), "keepdims": int(not dropped)}
            return Piece((x,), partial(w.node, "ReduceMean", **attributes))
    return None


# ---------------------------------------------------------------------------- layers with weights


def _conv2d(call: Call) -> Piece | None:
    weights = call.operands["w"]
    flipped = call["flip_kernel"]
    kernel = (weights.shape[2], weights.shape[3])
    strides, dilations = pair("stride", call["stride"]), pair("dilation", call["dilation"])
    sides = call.pads(kernel, strides, dilations)
    if call["padding_mode"] != "zeros" or (flipped and call.param("w") is None):
        if sides is None:
            raise FixedSizeError
        return None
    attributes = _window(kernel, strides, sides)
    attributes |= {"dilations": list(dilations), "group": int(call["groups"])}
    inputs = [call.x, weights, *([call.operands["bias"]] if "bias" in call.operands else [])]
    if not flipped:
        return Piece(inputs, lambda *names: call.w.node("Conv", *names, **attributes))
    # A true convolution: ONNX has cross-correlation only, so the kernel itself is turned.
    param = call.param("w")
    assert param is not None

    def write(x: str, *rest: str) -> str:
        turned = call.w.param(param, "turned", lambda a: a[:, :, ::-1, ::-1])
        return call.w.node("Conv", x, turned, *rest, **attributes)

    return Piece([inputs[0], *inputs[2:]], write)


def _conv_transpose2d(call: Call) -> Piece:
    weights = call.operands["w"]
    kernel = (weights.shape[2], weights.shape[3])
    strides, dilations = pair("stride", call["stride"]), pair("dilation", call["dilation"])
    attributes = _window(kernel, strides, call.pads(kernel, strides, dilations))
    attributes |= {
        "dilations": list(dilations),
        "group": int(call["groups"]),
        "output_padding": list(pair("output_padding", call["output_padding"], 0)),
    }
    inputs = [call.x, weights, *([call.operands["bias"]] if "bias" in call.operands else [])]
    return Piece(inputs, lambda *names: call.w.node("ConvTranspose", *names, **attributes))


def _linear(call: Call) -> Piece | None:
    weights = call.operands["w"]
    bias = [call.operands["bias"]] if "bias" in call.operands else []
    if call.x.ndim == 2:
        inputs = [call.x, weights, *bias]
        return Piece(inputs, lambda *names: call.w.node("Gemm", *names, transB=1))
    param = call.param("w")
    if param is None:
        return None

    def write(x: str, *rest: str) -> str:
        turned = call.w.param(param, "transposed", lambda a: a.T)
        y = call.w.node("MatMul", x, turned)
        return call.w.node("Add", y, *rest) if rest else y

    return Piece([call.x, *bias], write)


def _batch_norm(call: Call) -> Piece | None:
    if call["training"] or call.x.ndim not in (2, 4):
        return None
    w, channels = call.w, call.x.shape[1]
    inputs = [call.x, call.operands["running_mean"], call.operands["running_var"]]
    given = [name for name in ("weight", "bias") if name in call.operands]

    def write(x: str, mean: str, var: str, *rest: str) -> str:
        factors = {"weight": w.constant([1.0] * channels), "bias": w.constant([0.0] * channels)}
        factors |= dict(zip(given, rest, strict=True))
        return w.node(
            "BatchNormalization",
            x,
            factors["weight"],
            factors["bias"],
            mean,
            var,
            epsilon=float(call["eps"]),
        )

    return Piece([*inputs, *(call.operands[name] for name in given)], write)


# ---------------------------------------------------------------------------- pooling, resizing


def _max_pool2d(call: Call) -> Piece | None:
    kernel, dilations = pair("kernel_size", call["kernel_size"]), pair("dilation", call["dilation"])
    strides = kernel if call["stride"] is None else pair("stride", call["stride"])
    sides = call.pads(kernel, strides, dilations)
    attributes = _window(kernel, strides, sides) | {"dilations": list(dilations)}
    if call["ceil_mode"] and sides is not None:
        if any(map(any, sides)):
            # What runtimes do with a window that starts in the padding differs: pad instead.
            attributes["pads"] = _ceiling(call, kernel, strides, sides, dilations)
        else:
            attributes["ceil_mode"] = 1
    return call.single("MaxPool", **attributes)


def _ceiling(call: Call, kernel: Pair, strides: Pair, sides: Sides, dilations: Pair) -> list[int]:
    """Padding with which rounding down gives as many windows as rounding up."""
    call.sizes.fixed(call.x, 2, 3)
    ends = []
    for i in (0, 1):
        size, (begin, end) = call.x.shape[2 + i], sides[i]
        wanted = pool_size(size, kernel[i], strides[i], sides[i], dilations[i], True)
        extent = (wanted - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        ends.append(max(end, extent - size - begin))
    return [sides[0][0], sides[1][0], *ends]


def _avg_pool2d(call: Call) -> Piece | None:
    if call["ceil_mode"] or call["divisor_override"] is not None:
        return None  # runtimes disagree about the divisor at the border
    kernel = pair("kernel_size", call["kernel_size"])
    strides = kernel if call["stride"] is None else pair("stride", call["stride"])
    attributes = _window(kernel, strides, call.pads(kernel, strides, (1, 1)))
    include = int(bool(call["count_include_pad"]))
    return call.single("AveragePool", **attributes, count_include_pad=include)


def _adaptive(average: bool) -> Callable[[Call], Piece | None]:
    kind = "AveragePool" if average else "MaxPool"

    def rule(call: Call) -> Piece | None:
        out = call.value.shape[2:]
        if out == (1, 1):
            return call.single(f"Global{kind}")
        size = call.x.shape[2:]
        if any(n % m for n, m in zip(size, out, strict=True)):
            return None
        call.sizes.fixed(call.x, 2, 3)
        window = [n // m for n, m in zip(size, out, strict=True)]
        return call.single(kind, kernel_shape=window, strides=window)

    return rule


def _interpolate(call: Call) -> Piece | None:
    mode, w = call["mode"], call.w
    if mode == "area" or call["antialias"]:
        return None
    attributes: dict[str, Any] = {"mode": "nearest"}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif mode == "nearest-exact":
        attributes |= {
            "coordinate_transformation_mode": "half_pixel",
            "nearest_mode": "round_prefer_ceil",
        }
    else:
        where = "align_corners" if call["align_corners"] else "pytorch_half_pixel"
        attributes = {
            "mode": "linear" if mode == "bilinear" else "cubic",
            "coordinate_transformation_mode": where,
            "cubic_coeff_a": -0.75,
        }
    if call["scale_factor"] is not None and not call["recompute_scale_factor"]:
        factors = call["scale_factor"]
        h, v = factors if isinstance(factors, (tuple, list)) else (factors, factors)
        scales = w.constant([1.0, 1.0, h, v])
        return Piece((call.x,), lambda x: w.node("Resize", x, "", scales, **attributes))
    call.sizes.fixed(call.value, 2, 3)
    size = w.ints(call.value.shape[2:])

    def write(x: str) -> str:
        front = w.node("Slice", w.node("Shape", x), w.ints([0]), w.ints([2]))
        return w.node("Resize", x, "", "", w.node("Concat", front, size, axis=0), **attributes)

    return Piece((call.x,), write)


PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


def _pad(call: Call) -> Piece | None:
    if call["mode"] not in PAD_MODES:
        return None
    numbers = [call["pad"]] if isinstance(call["pad"], int) else list(call["pad"])
    begins, ends = [0] * 4, [0] * 4
    for axis, (begin, end) in zip(
        (3, 2, 1, 0), zip(numbers[::2], numbers[1::2], strict=True), strict=False
    ):
        begins[axis], ends[axis] = begin, end
    w, fill = call.w, float(call["value"] or 0.0)
    mode = PAD_MODES[call["mode"]]
    return Piece(
        (call.x,), lambda x: w.node("Pad", x, w.ints(begins + ends), w.constant(fill), mode=mode)
    )


def _channel_shuffle(call: Call) -> Piece:
    w, groups, channels = call.w, int(call["groups"]), call.x.shape[1]

    def write(x: str) -> str:
        y = w.node("Reshape", x, w.ints([0, groups, channels // groups, -1]))
        y = w.node("Transpose", y, perm=[0, 2, 1, 3])
        return w.node("Reshape", y, w.node("Shape", x))

    return Piece((call.x,), write)


RULES: dict[str, Rule] = ACTIVATIONS | {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive(average=True),
    "adaptive_max_pool2d": _adaptive(average=False),
    "interpolate": _interpolate,
    "pad": _pad,
    "channel_shuffle": _channel_shuffle,
}
