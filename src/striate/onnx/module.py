"""`OnnxModule`: an ONNX graph as a module like any other."""

from __future__ import annotations

import ast
import hashlib
import json
import warnings
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from striate import engine
from striate.errors import ArgumentError, StriateError, UnsupportedError
from striate.graph import Graph as Traced
from striate.graph import Param, Trace, current_trace
from striate.graph.ops.leaf import Input, ParamLeaf
from striate.graph.symbol import Symbol, as_value
from striate.graph.value import topological
from striate.nn.module import Module
from striate.nn.tracing import Programs, as_input, call_on_symbols, named, run_on_arrays
from striate.onnx.arrays import beyond_float32, bytes_of, finished, plain, read_array
from striate.onnx.evaluate import Layer, evaluate
from striate.onnx.handlers import HANDLERS
from striate.onnx.read import Graph, Node, Port
from striate.onnx.value import (
    FLOAT32,
    Array,
    DType,
    Item,
    NeedsValue,
    Tensor,
    as_float32,
    cast_array,
    fits_float32,
    is_real,
    is_whole,
)
from striate.pixels import Pixels

SMALL = 16  # elements up to which a float Constant stays a number of the graph
SLOW = 65536  # elements of an input from which on it is slow to trace anew for each content


class Plan(NamedTuple):
    """The program of one key.

    Attributes:
        run: from arrays to arrays; None if every output is known.
        stateful: whether it changes weights, statistics or dropout keys.
        outputs: for each output of the graph its numbers, if known, else its symbol.
    """

    run: Any
    stateful: bool
    outputs: tuple[Tensor | Array, ...]


class OnnxModule(Module):
    """A network read from an ONNX file, at first in evaluation mode.

    `net(*arrays)` takes the inputs in the graph's order, or by name; those with a default in the
    file may be left out. It gives arrays of the model's dtypes, one or a tuple, computed in
    float32. Any size may differ from the declared one as far as the graph's nodes allow.

    Weights are parameters under their ONNX names, running statistics buffers; the nodes are its
    layers, so `net.features(x, ["node name"])`, `summary` and training work as in other nets.

    Attributes:
        graph: the records that were read.
        input_names: of the inputs that have no default.
        output_names: of the outputs, in the order in which they are given.
        metadata: what the file says about itself, key → text.
        classes: names of classes from the metadata, or None.
        recipe: preprocessing, as `export` writes it in the metadata, or None.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.metadata = dict(graph.metadata)
        self.classes = class_names(graph.metadata)
        self.recipe = recipe(graph.metadata)
        self.input_names = tuple(p.name for p in graph.inputs if p.name not in graph.initialisers)
        self.output_names = tuple(port.name for port in graph.outputs)
        self.weight_dtypes: dict[str, DType] = {}
        self.constants = dict(_own_values(self, graph))
        # Inputs and weights whose contents are part of the program, and why. It only ever grows,
        # and the keys of programs say which were in it, so no lock is needed.
        self.static: dict[str, str] = {}
        self._plans = Programs[Plan]()
        for node in graph.nodes:
            weights = tuple(self._parameters[n] for n in node.inputs if n in self._parameters)
            self._modules[node.name] = Layer(node, graph.opset.get(node.domain, 1), weights)
        self._changed()
        self.eval()

    # ------------------------------------------------------------------ calls

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        """Run on arrays, or inside the trace of another module on symbols.

        Args:
            inputs: in the order of `graph.inputs`; trailing ones with a default may be missing.
            more: inputs by name.

        Raises: ShapeError, ArgumentError, DTypeError, UnsupportedError, which begin with the name
            of the node that cannot go on.
        """
        if current_trace() is not None or any(isinstance(x, Symbol) for x in inputs):
            return call_on_symbols(self, inputs)
        if any(isinstance(x, Pixels) for x in inputs):
            results = self._run_pixels(inputs)
        else:
            results = self.run_arrays(self._bind(inputs, more))
        return results[0] if len(results) == 1 else results

    def run_arrays(self, arrays: Mapping[str, Array]) -> tuple[Array, ...]:
        """The outputs for arrays by name."""
        while True:
            moving = {n: a for n, a in arrays.items() if not self._is_static(n, a)}
            key = self._key(arrays, moving)
            try:
                plan: Plan = self._plans.get(key, lambda m=moving: self._plan(arrays, m))  # type: ignore[misc]
            except NeedsValue as need:
                self._make_static(need, arrays)
                continue
            results: tuple[Array, ...] = ()
            if plan.run is not None:
                results = self._plans.call(plan, [as_input(plain(a)) for a in moving.values()])
            return tuple(finished(plan.outputs, results))

    def _run_pixels(self, inputs: tuple[Any, ...]) -> tuple[Array, ...]:
        """For pictures of bytes, which the program makes images of: no input may be static."""
        results, _ = run_on_arrays(self, inputs)
        ports = zip(self.graph.outputs, results, strict=True)
        return tuple(a if port.dtype is None else cast_array(a, port.dtype) for port, a in ports)

    def forward(self, *inputs: Any) -> Any:
        """On symbols, in the order of the inputs: symbols of the outputs."""
        if len(inputs) > len(self.graph.inputs) or len(inputs) < len(self.input_names):
            raise ArgumentError(
                f"the model takes {len(self.input_names)} inputs "
                f"({', '.join(self.input_names)}), got {len(inputs)}"
            )
        items: dict[str, Item] = {}
        for port, x in zip(self._ports(len(inputs)), inputs, strict=True):
            dtype = FLOAT32 if port.dtype is None else port.dtype
            items[port.name] = Tensor(as_value(x), dtype, is_real(dtype) or fits_float32(dtype))
        try:
            outputs = self._evaluate(items)
        except NeedsValue as need:
            raise UnsupportedError(
                f"{need.reason}, which depends on an input; call the module on arrays by itself"
            ) from None
        values = tuple(
            o.value if isinstance(o, Tensor) else as_value(as_float32(o)) for o in outputs
        )
        return values[0] if len(values) == 1 else values

    # ------------------------------------------------------------------ tracing

    def _ports(self, count: int) -> list[Port]:
        """The inputs that `count` arrays are for: those without a default if that is enough."""
        plain = [p for p in self.graph.inputs if p.name in self.input_names]
        return plain if count <= len(plain) else list(self.graph.inputs)[:count]

    def _bind(self, inputs: tuple[Any, ...], more: Mapping[str, Any]) -> dict[str, Array]:
        """Arrays by the names of the inputs. Raises ArgumentError, ShapeError, DTypeError."""
        ports = {port.name: port for port in self.graph.inputs}
        if len(inputs) > len(ports) or not more.keys() <= ports.keys():
            raise ArgumentError(
                f"the model's inputs are {', '.join(ports)}; got {len(inputs)} arrays"
                + (f" and {', '.join(more)}" if more else "")
            )
        given = {
            port.name: x
            for port, x in zip(self._ports(len(inputs)), inputs, strict=False)
            if x is not None
        }
        given |= more
        missing = [name for name in self.input_names if name not in given]
        if missing:
            raise ArgumentError(f"the model also needs the inputs {', '.join(missing)}")
        return {name: read_array(ports[name], x) for name, x in given.items()}

    def _is_static(self, name: str, array: Array) -> bool:
        return (
            name in self.static
            or array.size == 0
            or array.dtype.kind in "OUS"
            or beyond_float32(array)
        )

    def _key(self, arrays: Mapping[str, Array], moving: Mapping[str, Array]) -> Hashable:
        fixed = tuple(
            (name, a.shape, a.dtype.str, hashlib.blake2b(bytes_of(a)).digest())
            for name, a in arrays.items()
            if name not in moving
        )
        shapes = tuple((name, a.shape) for name, a in moving.items())
        own = self._weights()
        read = tuple((n, own[n].version) for n in self.static if n in own and n not in arrays)
        return shapes, fixed, read, self.signature(), self.kernel_options

    def _make_static(self, need: NeedsValue, arrays: Mapping[str, Array]) -> None:
        """Take as known what the value follows from. Raises UnsupportedError if that is nothing."""
        names = []
        for node in topological([need.value]):
            if isinstance(node.op, Input):
                names.append(node.op.name)
            elif isinstance(node.op, ParamLeaf) and node.op.param.name in self._weights():
                names.append(node.op.param.name)
        new = [name for name in names if name not in self.static]
        if not new:
            raise UnsupportedError(f"{need.reason}, which is not known before the model runs")
        for name in new:
            self.static[name] = need.reason
            if name in arrays and arrays[name].size > SLOW:
                warnings.warn(
                    f"{need.reason}, which follows from the input {name!r}: the model is traced "
                    f"anew for each new content of its {arrays[name].size} elements, which is slow",
                    stacklevel=4,
                )

    def _weights(self) -> dict[str, Param]:
        return {**self._parameters, **self._buffers}

    def _plan(self, arrays: Mapping[str, Array], moving: Mapping[str, Array]) -> Plan:
        """Trace and compile for arrays of which `moving` are the inputs of the program."""
        shapes = {name: a.shape for name, a in moving.items()}
        graph, outputs = self._trace(arrays, shapes)
        if not graph.outputs:
            return Plan(None, False, outputs)
        options = vars(self.kernel_options)
        stateful = bool(graph.assigns or graph.host_updates)
        if stateful or self.training:
            run = engine.build(graph, training=self.training, **options)
            return Plan(run, stateful, outputs)

        def piece(images: int) -> Traced:
            fewer = {name: (images, *shape[1:]) for name, shape in shapes.items()}
            # A graph that holds its batch as a number cannot be traced for another one.
            with suppress(StriateError, NeedsValue):
                return self._trace(arrays, fewer)[0]
            return graph

        return Plan(engine.build_batch(graph, piece, **options), False, outputs)

    def _trace(
        self, arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[Traced, tuple[Tensor | Array, ...]]:
        """The graph for inputs of these shapes, the others being known, and the model's outputs."""
        for name, param in self._weights().items():
            param.name = name
        with Trace() as trace, named(self):
            items: dict[str, Item] = {}
            for name, array in arrays.items():
                if name in shapes:
                    exact = is_real(array.dtype) or fits_float32(array.dtype)
                    items[name] = Tensor(trace.input(name, shapes[name]), array.dtype, exact)
                else:
                    items[name] = array
            outputs = self._evaluate(items)
            for output in outputs:
                if isinstance(output, Tensor) and not output.exact and is_whole(output.dtype):
                    raise NeedsValue(output.value, f"the output needs {output.dtype} numbers")
            return trace.graph(*(o.value for o in outputs if isinstance(o, Tensor))), outputs

    def _evaluate(self, items: Mapping[str, Item]) -> tuple[Tensor | Array, ...]:
        """The model's outputs for its inputs."""
        values: dict[str, Item] = dict(self.constants)
        for name, param in self._weights().items():
            dtype = self.weight_dtypes[name]
            if name in self.static:
                values[name] = np.array(param.data).astype(dtype)
            else:
                values[name] = Tensor(param.as_value(), dtype)
        values |= items
        layers: dict[str, Layer] = self._modules  # type: ignore[assignment]
        found = evaluate(self.graph, layers, values)
        outputs = []
        for name in self.output_names:
            item = found[name]
            if item is None:
                raise UnsupportedError(f"the output {name!r} is not computed by its node")
            outputs.append(item)
        return tuple(outputs)

    def extra_repr(self) -> str:
        """Inputs and outputs."""
        return f"{', '.join(self.input_names)} -> {', '.join(self.output_names)}"


# ---------------------------------------------------------------------------- weights


def _own_values(module: OnnxModule, graph: Graph) -> Iterator[tuple[str, Array]]:
    """Make parameters and buffers of a graph's weights; gives everything else that is known.

    A float initialiser, and a float Constant of more than a few elements, is a weight, unless it
    has no axes or stands only where its numbers have to be known.
    """
    uses: dict[str, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            uses.setdefault(name, []).append((node, i))
    for name, array in graph.initialisers.items():
        if not _keep(module, name, array, uses.get(name, ())):
            yield name, array
    for node in graph.nodes:
        value = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value, np.ndarray) and value.size > SMALL:
            _keep(module, node.outputs[0], value, uses.get(node.outputs[0], ()))


def _keep(
    module: OnnxModule, name: str, array: Array, uses: Any
) -> bool:  # fmt: skip
    """Make an array a parameter, or a buffer if it is a running statistic; whether it was done."""
    if not is_real(array.dtype) or array.ndim == 0 or array.size == 0 or not uses:
        return False
    entries = [(HANDLERS.get((node.domain, node.op)), i) for node, i in uses]
    if all(entry is not None and i in entry.known for entry, i in entries):
        return False
    statistic = all(node.op == "BatchNormalization" and i in (3, 4) for node, i in uses)
    register = module._buffers if statistic else module._parameters
    register[name] = Param(name, as_float32(array), trainable=not statistic)
    module.weight_dtypes[name] = array.dtype
    return True


def class_names(metadata: Mapping[str, str]) -> list[str] | None:
    """Names of classes from a list, or a dictionary of numbers, under a usual key."""
    for key in ("classes", "names", "labels", "class_names"):
        if key not in metadata:
            continue
        with suppress(ValueError, SyntaxError, RecursionError):  # a list in JSON reads the same
            found = ast.literal_eval(metadata[key])
            if isinstance(found, dict) and all(isinstance(k, int) for k in found):
                found = [found[k] for k in sorted(found)]
            if isinstance(found, (list, tuple)):
                return [str(name) for name in found]
    return None


def recipe(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The preprocessing that `export` has written, as a dictionary."""
    with suppress(ValueError, RecursionError):
        found = json.loads(metadata.get("recipe", ""))
        return found if isinstance(found, dict) else None
    return None
