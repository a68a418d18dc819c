"""One function for symbols and for arrays.

On symbols (inside `forward`) a function builds nodes. On arrays it traces itself once for the
shapes and arguments it is called with, and runs the resulting program from then on.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import numpy as np

from striate.engine import build
from striate.errors import ArgumentError, DTypeError
from striate.graph import Param, Trace, Value, current_trace
from striate.graph.value import Array, as_value

P = ParamSpec("P")

# A graph value inside `forward`; outside, anything that NumPy can make a number array of.
Tensor: TypeAlias = Any
Check: TypeAlias = Callable[[Mapping[str, Array], Mapping[str, Any]], None]


class Spec(NamedTuple):
    """What a program's input depends on."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def is_symbolic(*operands: object) -> bool:
    """Whether a call belongs to a graph: some operand is a Value, or a Param during tracing."""
    if any(isinstance(x, Value) for x in operands):
        return True
    return current_trace() is not None and any(isinstance(x, Param) for x in operands)


def to_value(x: Tensor) -> Value | None:
    """An operand of a symbolic call; arrays become fixed parameters."""
    return None if x is None else as_value(np.asarray(x) if isinstance(x, (list, tuple)) else x)


def to_array(function: str, name: str, x: Tensor, *, integers: bool = False) -> Array:
    """An operand of an array call as float32 in C order, without changing or keeping the original.

    float16, float64, integer and bool arrays of any strides and byte order are converted. With
    `integers`, integer arrays become int32 instead. Raises DTypeError.
    """
    array = x.data if isinstance(x, Param) else np.asarray(x)
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    kind = array.dtype.kind
    if kind not in "biuf":
        raise DTypeError(
            f"{function}: {name} has dtype {array.dtype}; give numbers of a float or integer dtype"
        )
    if integers and kind in "iu":
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise DTypeError(f"{function}: {name} holds values that do not fit in int32")
        return np.asarray(array, np.int32, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array, np.float32, order="C")


def note(function: str, operands: Mapping[str, Value | None], options: Any, result: object) -> None:
    """Tell the trace, if there is one, what a function has made of its operands."""
    trace = current_trace()
    if trace is not None:
        trace.note(function, operands, options, result)


def run(body: Callable[..., Any], arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Any:
    """Call `body` on arrays through a cached program: an array, or a tuple of arrays."""
    specs = tuple(
        Spec(name, a.shape, "i32" if a.dtype.kind == "i" else "f32") for name, a in arrays.items()
    )
    frozen = tuple((name, _freeze(name, value)) for name, value in options.items())
    program, is_tuple = _program(body, specs, frozen)
    results = program(*arrays.values())
    return results if is_tuple else results[0]


@functools.lru_cache(maxsize=256)
def _program(
    body: Callable[..., Any], specs: tuple[Spec, ...], options: tuple[tuple[str, Any], ...]
) -> tuple[Callable[..., tuple[Array, ...]], bool]:
    with Trace() as trace:
        values = {s.name: trace.input(s.name, s.shape, s.dtype) for s in specs}
        result = body(**values, **dict(options))
    is_tuple = isinstance(result, tuple)
    return build(trace.graph(*(result if is_tuple else (result,)))), is_tuple


def _freeze(name: str, value: Any) -> Any:
    """An option as a hashable value. Raises ArgumentError."""
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(name, item) for item in value)
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, np.ndarray):
        return _freeze(name, value.tolist())
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ArgumentError(f"{name} cannot be {value!r:.80}")


def _explain(name: str, signature: inspect.Signature, args: Any, kwargs: Any) -> None:
    """Raise the TypeError of a call that does not fit the signature."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None


def functional(
    *tensors: str, integers: tuple[str, ...] = (), check: Check | None = None
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Make a function written for symbols take arrays too.

    `tensors` names its operands; those also in `integers` may be integer labels. `check` sees
    the arrays and options of an array call first, to refuse what a graph cannot see.
    """

    def decorate(body: Callable[P, Any]) -> Callable[P, Any]:
        signature = inspect.signature(body)
        parameters = signature.parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        required = {p.name for p in parameters if p.default is p.empty}
        name = body.__name__

        @functools.wraps(body)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            # As signature.bind, which takes longer than a small kernel.
            options: dict[str, Any] = dict(zip(positional, args, strict=False)) | kwargs
            if (
                len(options) < len(args) + len(kwargs)
                or not required <= options.keys() <= signature.parameters.keys()
            ):
                _explain(name, signature, args, kwargs)
            operands = {t: options.pop(t) for t in tensors if t in options}
            if is_symbolic(*operands.values()):
                values = {t: to_value(x) for t, x in operands.items()}
                result = body(**values, **options)  # type: ignore[arg-type, call-arg]
                note(name, values, options, result)
                return result
            arrays = {
                t: to_array(name, t, x, integers=t in integers)
                for t, x in operands.items()
                if x is not None
            }
            if check is not None:
                check(arrays, options)
            return run(body, arrays, options)

        return call

    return decorate
