"""From a module to a graph: run `forward` once on symbols; and the programs kept for arrays."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from striate.errors import ArgumentError, DTypeError, TraceError
from striate.graph import Graph, Trace, Value, current_trace
from striate.graph.ops.pixels import NormalisePixels
from striate.graph.symbol import Symbol, current
from striate.pixels import Pixels

if TYPE_CHECKING:
    from striate.nn.module import Module

Array = np.ndarray[Any, Any]

PROGRAMS_KEPT = 64  # for each module that is called on arrays


@dataclass(frozen=True)
class Raw:
    """An input of bytes (N, H, W, C), and the operation that makes images (N, C, H, W) of it."""

    shape: tuple[int, ...]
    op: NormalisePixels


# What a graph depends on of an input: a shape is that of a float32 array.
Kind: TypeAlias = tuple[int, ...] | Raw


class Call(NamedTuple):
    """One run of one layer on symbols."""

    path: str
    module: Module
    inputs: tuple[Any, ...]
    output: Any


class _State(threading.local):
    """What this thread is tracing."""

    def __init__(self) -> None:
        self.training: bool | None = None  # overrides every module's own mode
        self.paths: dict[Module, str] = {}
        self.calls: list[Call] = []


_state = _State()


def forced_training() -> bool | None:
    """The mode that `training_mode` asks for in this thread, or None."""
    return _state.training


@contextmanager
def training_mode(mode: bool | None) -> Iterator[None]:
    """Every module of this thread says `training == mode` inside; None changes nothing."""
    before = _state.training
    _state.training = before if mode is None else mode
    try:
        yield
    finally:
        _state.training = before


@contextmanager
def named(root: Module) -> Iterator[list[Call]]:
    """Inside, the layers of `root` run in scopes called by their paths.

    Gives the list that collects the runs of layers in the order in which they end.
    """
    before = _state.paths, _state.calls
    _state.paths = {module: path for path, module in root.named_modules()}
    _state.calls = []
    try:
        yield _state.calls
    finally:
        _state.paths, _state.calls = before


def call_on_symbols(module: Module, inputs: Sequence[Any]) -> Any:
    """Run `forward` in the scope of the module's path, and note its output."""
    path = _state.paths.get(module)
    if path is None:
        path = type(module).__name__  # not an attribute of the net that is traced
    outer = f"{current.scope}." if current.scope else ""
    trace = current_trace()
    with ExitStack() as stack:
        if trace is not None and path:
            # A layer's path begins with that of the layer which calls it, as a rule.
            stack.enter_context(trace.scope(path.removeprefix(outer)))
        output = module.forward(*inputs)
    _state.calls.append(Call(path, module, tuple(inputs), output))
    return output


class Traced(NamedTuple):
    """A graph of a module, and whether `forward` gave one value (not a tuple)."""

    graph: Graph
    single: bool


def trace_module(
    module: Module,
    shapes: Sequence[Kind],
    *,
    training: bool | None = None,
    features: Sequence[str] | None = None,
) -> Traced:
    """Run `forward` on symbols of the given input shapes.

    Args:
        module: the net.
        shapes: one for each input of `forward`, or what `as_inputs` says of it.
        training: the mode of every layer; None: each its own.
        features: paths of layers whose outputs to take instead of the net's.

    Raises:
        ShapeError and other errors of the layers, beginning with the layer's path.
        TraceError: `forward` gives something else than symbols.
        ArgumentError: a feature that no layer of the net, as it ran, has given.
    """
    with Trace() as trace:
        output, calls = symbolic_call(module, trace, shapes, training)
        if features is not None:
            outputs = {call.path: call.output for call in calls}
            output = tuple(_feature(name, outputs) for name in features)
        values = output if isinstance(output, (tuple, list)) else (output,)
        for value in values:
            if not isinstance(value, Symbol):
                raise TraceError(
                    f"forward of {type(module).__name__} gave {type(value).__name__}, not a symbol "
                    "or a tuple of symbols"
                )
        return Traced(trace.graph(*values), values is not output)


def symbolic_call(
    module: Module, trace: Trace, shapes: Sequence[Kind], training: bool | None
) -> tuple[Any, list[Call]]:
    """Add inputs and the nodes of `forward` to a trace.

    Returns: what `forward` gives, and every run of a layer, in the order in which they end.
    """
    names = input_names(module, len(shapes))
    for path, param in [*module.named_parameters(), *module.named_buffers(transient=True)]:
        param.name = path  # the one a reader of the graph looks for
    with training_mode(training), named(module) as calls:
        symbols = [_input(trace, n, kind) for n, kind in zip(names, shapes, strict=True)]
        return call_on_symbols(module, symbols), calls


def _input(trace: Trace, name: str, kind: Kind) -> Value:
    """The images of an input."""
    if isinstance(kind, Raw):
        return kind.op(trace.input(name, kind.shape, "u8"))
    return trace.input(name, kind)


def _feature(name: str, outputs: dict[str, Any]) -> Value:
    if name not in outputs:
        raise ArgumentError(
            f"no layer named {name!r} has run; there are: {', '.join(p for p in outputs if p)}"
        )
    if not isinstance(outputs[name], Symbol):
        raise ArgumentError(f"layer {name!r} does not give exactly one output")
    value: Value = outputs[name].as_value()
    return value


def input_names(module: Module, count: int) -> list[str]:
    """The argument names of `forward`. Raises ArgumentError if it cannot take `count` inputs."""
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*range(count))
    except TypeError as error:
        raise ArgumentError(
            f"forward of {type(module).__name__} takes {signature}, got {count} inputs"
        ) from error
    names: list[str] = []
    for name, value in bound.arguments.items():
        names += [f"{name}{i}" for i in range(len(value))] if isinstance(value, tuple) else [name]
    return names


def as_input(array: Any) -> Array:
    """A C-ordered float32 array of the same numbers; `array` itself if it is one.

    Raises DTypeError for complex numbers, text and objects.
    """
    if type(array) is np.ndarray and array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    source = np.asarray(array)
    if source.dtype.kind not in "biuf":
        raise DTypeError(f"an input array must hold real numbers, got dtype {source.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 becomes infinite
        return np.asarray(source, np.float32, order="C")


def as_inputs(given: Sequence[Any]) -> tuple[list[Array], tuple[Kind, ...]]:
    """What a program is given for each input, and what its graph depends on of it.

    `Pixels` stay bytes; everything else is made float32 by `as_input`.
    """
    arrays: list[Array] = []
    kinds: list[Kind] = []
    for x in given:
        if isinstance(x, Pixels):
            arrays.append(np.ascontiguousarray(x.samples))
            kinds.append(Raw(x.samples.shape, NormalisePixels(x.mean, x.std)))
        else:
            arrays.append(as_input(x))
            kinds.append(arrays[-1].shape)
    return arrays, tuple(kinds)


def _of_images(kind: Kind, images: int) -> Kind:
    """The same input with another number of images."""
    if isinstance(kind, Raw):
        return replace(kind, shape=(images, *kind.shape[1:]))
    return (images, *kind[1:])


class Runnable(Protocol):
    """A graph that can be run."""

    @property
    def run(self) -> Callable[..., tuple[Array, ...]]:
        """From input arrays to output arrays."""

    @property
    def stateful(self) -> bool:
        """Whether it changes weights, statistics or dropout keys: then one run at a time."""


P = TypeVar("P", bound=Runnable)


class Programs(Generic[P]):
    """The least recently used programs of one module or step.

    Neither copied nor pickled with their owner: a copy starts with none.
    """

    def __init__(self, most: int = PROGRAMS_KEPT) -> None:
        self._most = most
        self._programs: OrderedDict[Hashable, P] = OrderedDict()
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type[Programs[Any]], tuple[int]]:
        return Programs, (self._most,)

    def get(self, key: Hashable, make: Callable[[], P]) -> P:
        """The program of `key`, made if it is not there."""
        with self._lock:
            program = self._programs.get(key)
            if program is None:
                program = self._programs[key] = make()
                if len(self._programs) > self._most:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
            return program

    def call(self, program: P, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Run, one at a time if the program changes anything."""
        if not program.stateful:
            return program.run(*inputs)
        with self._lock:
            return program.run(*inputs)


class Program(NamedTuple):
    """A module's `forward` for one input shape."""

    run: Callable[..., tuple[Array, ...]]
    stateful: bool
    single: bool


def run_on_arrays(
    module: Module, inputs: Sequence[Any], features: tuple[str, ...] | None = None
) -> tuple[tuple[Array, ...], bool]:
    """The outputs for arrays, and whether `forward` gives a single one."""
    (arrays, kinds), options = as_inputs(inputs), module.kernel_options

    def make() -> Program:
        from striate import engine

        graph, single = trace_module(module, kinds, features=features)
        stateful = bool(graph.assigns or graph.host_updates)
        if stateful or module.training:
            run = engine.build(graph, training=module.training, **vars(options))
            return Program(run, stateful, single)

        def piece(images: int) -> Graph:
            pieces = [_of_images(kind, images) for kind in kinds]
            return trace_module(module, pieces, features=features).graph

        return Program(engine.build_batch(graph, piece, **vars(options)), stateful, single)

    key = (kinds, features, module.signature(), options)
    program = module.programs.get(key, make)
    return module.programs.call(program, arrays), program.single
