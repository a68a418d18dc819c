"""`summary`: what each layer of a net gives and costs, found by tracing, with no data."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple, TypedDict

import numpy as np

from striate import engine
from striate.arith.receptive_field import ReceptiveField
from striate.errors import ArgumentError
from striate.graph import Graph, Node, Trace, Value
from striate.graph.symbol import Symbol
from striate.nn.module import Module
from striate.nn.tracing import Call, symbolic_call, trace_module
from striate.report.fields import receptive_fields
from striate.train.optim import Optimizer
from striate.train.step import compile_step


class Field(TypedDict):
    """Output (i, j) sees the input rows offset[0] + i·stride[0] … + size[0] − 1, columns alike.

    Each is (height, width) in input pixels; a stride of 0: every output sees the same part.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]


class Row(TypedDict):
    """One run of one layer.

    Attributes:
        name: its path. kind: its class.
        output: shape without the batch axis.
        params: number of weights; 0 for a later run of a layer that has run before.
        macs: multiply-accumulates of convolutions and dense layers for one image.
        receptive_field: None where no one rule holds for all outputs (transposed convolution,
            resizing, branches of different stride).
        memory: bytes of the output for one image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    receptive_field: Field | None
    memory: int


class Totals(TypedDict):
    """Of the whole net.

    Attributes:
        params, trainable_params: numbers of weights.
        macs, memory: multiply-accumulates and bytes of the outputs of all layers, for one image.
        param_memory: bytes of the weights.
        peak_memory: bytes that a run takes, as planned: the sum of the next six.
        peak_params: weights and statistics; in training also the optimiser's state.
        peak_constants: packed weights and folded factors (inference).
        peak_arena: activations, gradients and what else lives within a run.
        peak_scratch: working memory of the threads.
        peak_arrays: the images, and the arrays that a run gives.
        peak_tables: numbers of the plan.
    """

    params: int
    trainable_params: int
    macs: int
    memory: int
    param_memory: int
    peak_memory: int
    peak_params: int
    peak_constants: int
    peak_arena: int
    peak_scratch: int
    peak_arrays: int
    peak_tables: int


class Summary(NamedTuple):
    """A table of layers that prints itself.

    Attributes:
        name: class of the net. input: shape of an image, without the batch axis.
        rows: one for each run of a layer, in order.
        totals: sums; `macs` also counts what stands in `forward` itself.
        batch, training: of the run whose peak `totals` tells.
    """

    name: str
    input: tuple[int, ...]
    rows: list[Row]
    totals: Totals
    batch: int
    training: bool

    def to_dict(self) -> dict[str, Any]:
        """`{"layers": rows, "totals": {…}}`, plain values for JSON."""
        return {"layers": [dict(row) for row in self.rows], "totals": dict(self.totals)}

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Names of the columns, and a row of texts for each row."""
        head = ("layer", "kind", "output", "params", "MACs", "receptive field", "memory")
        return head, [_cells(row) for row in self.rows]

    def lines(self) -> list[str]:
        """What is said of the whole net, below the table."""
        totals = self.totals
        params = f"{totals['params']:,} ({_bytes(totals['param_memory'])})"
        return [
            f"parameters  {params}, {totals['trainable_params']:,} trained",
            f"MACs        {totals['macs']:,} an image ({2 * totals['macs']:,} FLOPs)",
            f"memory      {_bytes(totals['memory'])} for the outputs of all layers, an image",
            f"peak        {self._peak()}",
        ]

    def __str__(self) -> str:
        head, rows = self.table()
        table = [head, *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = [_line(row, widths) for row in table]
        rule = "─" * max(len(line) for line in lines)
        title = f"{self.name}, input {_shape(self.input)}"
        return "\n".join([title, rule, lines[0], rule, *lines[1:], rule, *self.lines()])

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        head, rows = self.table()
        cells = "".join(f"<th>{escape(name)}</th>" for name in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        below = "<br>".join(escape(line) for line in self.lines())
        title = escape(f"{self.name}, input {_shape(self.input)}")
        return (
            f"<table><caption>{title}</caption><thead><tr>{cells}</tr></thead>"
            f"<tbody>{body}</tbody></table><p>{below}</p>"
        )

    def _peak(self) -> str:
        """What a run takes of memory, and of what it consists."""
        totals = self.totals
        images = f"a batch of {self.batch}" if self.batch > 1 else "one image"
        work = f"to train on {images}" if self.training else f"for {images}"
        weights = totals["peak_params"] + totals["peak_constants"]
        names = "weights and optimiser" if self.training else "weights, also packed"
        return (
            f"{_bytes(totals['peak_memory'])} {work}: {_bytes(weights)} {names}, "
            f"{_bytes(totals['peak_arena'])} activations"
        )

    def __repr__(self) -> str:
        return str(self)


def summary(
    net: Module,
    input_shape: Sequence[int],
    *,
    batch: int = 1,
    training: bool = False,
    optimizer: Optimizer | None = None,
    checkpoint: bool = False,
) -> Summary:
    """Summarise a net for images of one shape; nothing is compiled or computed.

    Args:
        net: any module of one input.
        input_shape: (C, H, W), without the batch axis.
        batch: images of the run whose peak memory is stated.
        training: state that of a training step instead of inference.
        optimizer: of that step; default `SGD(lr=0.1, momentum=0.9)`.
        checkpoint: of that step; see `compile_step`.

    Returns: a `Summary`: print it, or read `.rows`, `.totals`, `.to_dict()`. Figures are for
    evaluation mode. MACs count the multiplications of convolutions and dense layers, without bias
    and pooling. The peak is what the net and a run of it add to the memory of the process; it
    holds for the number of threads that programs use now.

    Raises: ArgumentError for a batch below 1; ShapeError, naming the layer, if the net cannot take
    such images.
    """
    if batch < 1:
        raise ArgumentError(f"batch must be at least 1, got {batch}")
    shape = tuple(int(size) for size in input_shape)
    with Trace() as trace:
        output, calls = symbolic_call(net, trace, [(1, *shape)], training=False)
        values = output if isinstance(output, (tuple, list)) else (output,)
        graph = trace.graph(*values)
    fields = receptive_fields(graph)
    seen: set[Module] = set()
    rows = [
        _row(call, fields, seen)
        for call in calls
        if isinstance(call.output, Symbol) and next(call.module.children(), None) is None
    ]
    params = list(net.parameters())
    images = (batch, *shape)
    if training:
        peak = _peak_of_training(net, images, graph.outputs[0], optimizer, checkpoint)
    else:
        peak = _peak_of_inference(net, images)
    totals = Totals(
        params=net.num_parameters(),
        trainable_params=net.num_parameters(trainable=True),
        macs=graph.macs(),
        memory=sum(row["memory"] for row in rows),
        param_memory=sum(4 * param.size for param in params),
        peak_memory=peak.total,
        peak_params=peak.params,
        peak_constants=peak.constants,
        peak_arena=peak.arena,
        peak_scratch=peak.scratch,
        peak_arrays=peak.inputs + peak.outputs,
        peak_tables=peak.tables,
    )
    return Summary(type(net).__name__, shape, rows, totals, batch, training)


def _peak_of_inference(net: Module, shape: tuple[int, ...]) -> engine.Footprint:
    """Of a run in evaluation mode on (N, C, H, W)."""

    def trace(images: int) -> Graph:
        return trace_module(net, [(images, *shape[1:])], training=False).graph

    return engine.footprint(trace(shape[0]), trace=trace)


def _peak_of_training(
    net: Module,
    shape: tuple[int, ...],
    output: Value,
    optimizer: Optimizer | None,
    checkpoint: bool,
) -> engine.Footprint:
    """Of a step on (N, C, H, W): by cross-entropy on classes, else by squared error."""
    of_classes = output.ndim == 2
    step = compile_step(
        net, "cross_entropy" if of_classes else "mse", optimizer, checkpoint=checkpoint
    )
    rest = output.shape[1:]
    target = np.zeros(shape[0], np.int64) if of_classes else np.zeros((shape[0], *rest))
    return step.footprint(np.zeros(shape, np.float32), target)


def _row(call: Call, fields: dict[Value, ReceptiveField | None], seen: set[Module]) -> Row:
    output: Value = call.output.as_value()
    field = fields.get(output)
    first = call.module not in seen
    seen.add(call.module)
    return Row(
        name=call.path,
        kind=call.module._get_name(),
        output=output.shape[1:],
        params=call.module.num_parameters() if first else 0,
        macs=sum(n.op.macs(*(v.type for v in n.inputs)) for n in _between(call)),
        receptive_field=None
        if field is None
        else Field(size=field.size, stride=field.stride, offset=field.offset),
        memory=4 * output.size,
    )


def _between(call: Call) -> set[Node]:
    """The nodes that a run of a layer has added: from its output back to its inputs."""
    stop = {x.as_value() for x in call.inputs if isinstance(x, Symbol)}
    nodes: set[Node] = set()
    pending = [call.output.as_value()]
    while pending:
        value = pending.pop()
        if value not in stop and value.node not in nodes:
            nodes.add(value.node)
            pending += value.node.inputs
    return nodes


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "1"


def _square(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def _cells(row: Row) -> tuple[str, ...]:
    field = row["receptive_field"]
    seen = "–" if field is None else f"{_square(field['size'])} every {_square(field['stride'])}"
    return (
        row["name"],
        row["kind"],
        _shape(row["output"]),
        f"{row['params']:,}" if row["params"] else "",
        f"{row['macs']:,}" if row["macs"] else "",
        seen,
        _bytes(row["memory"]),
    )


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """Text to the left, numbers to the right."""
    padded = [
        cell.ljust(width) if i < 3 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _bytes(count: int) -> str:
    """With a unit of 1024: 1536 → "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
