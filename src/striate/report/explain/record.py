"""Everything that the page shows, as one JSON-able record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from striate import engine
from striate.data import Recipe
from striate.engine.choice import layer_name
from striate.engine.stopwatch import Stopwatch
from striate.errors import UnsupportedError
from striate.graph import Value
from striate.graph.ops.conv import Conv2d
from striate.nn.module import Module
from striate.report.bench import describe as describe_work
from striate.report.explain import heat
from striate.report.explain.amount import factor, fill, grid, most_active
from striate.report.explain.boxes import Boxes, boxes
from striate.report.explain.gathers import cost, gather, source
from striate.report.explain.pack import Array, as_bytes, number, packed
from striate.report.explain.points import Numbers, Way, Where, branch, describe, walk
from striate.report.explain.sizes import size_lines
from striate.report.explain.traced import Layer, Traced, before, run, trace
from striate.report.summary import Row, summary

Record: TypeAlias = "dict[str, Any]"

MAP_BYTES = 1_300_000  # of all maps as bytes
MOST_KERNELS, LARGEST_KERNEL = 64, 15
ROUNDS = 9  # of measuring time


@dataclass(frozen=True)
class Picture:
    """A picture as a net takes it: `samples` (h, w, c) uint8 to show, and `x` (1, C, H, W)."""

    samples: Array
    x: Array
    grey: Array


def picture_of(samples: Array, recipe: Recipe) -> Picture:
    """A picture, (h, w) or (h, w, c) samples, prepared as the recipe says; grey is half of white.

    Raises: DataError for a picture that the recipe refuses.
    """
    fitted = recipe.fit(samples)
    grey = np.full((1, 1, 1, recipe.channels), 0.5, np.float32)
    shown = fitted if fitted.dtype == np.uint8 else np.rint(np.clip(fitted, 0, 1) * 255)
    x = recipe.normalise(fitted[None])
    return Picture(shown.astype(np.uint8), x, recipe.normalise(grey)[0, :, 0, 0])


@dataclass(frozen=True)
class _Group:
    """Layers whose elements are gathered by the same operation, at the same places."""

    layers: tuple[Layer, ...]
    gathered: Value
    maps: Array
    rows: Array
    cols: Array

    def where(self) -> Where:
        """The places of the points in the layers' output, (maps, 1) and (1, points)."""
        shape = self.layers[0].output.shape
        first = np.zeros((1, 1), np.int64)
        if len(shape) == 2:
            return first, self.maps[:, None]
        i, j = np.meshgrid(self.rows, self.cols, indexing="ij")
        return first, self.maps[:, None], i.reshape(1, -1), j.reshape(1, -1)


def explain(
    net: Module,
    picture: Picture,
    *,
    title: str,
    names: Sequence[str] | None = None,
    top: int = 5,
    wanted: Sequence[int] = (),
) -> Record:
    """What a classifier does with one picture.

    Args:
        net: of one input (n, C, H, W) and one output (n, classes).
        picture: see `Picture`.
        title: of the page.
        names: of the classes, by position.
        top: classes that are explained, the most probable first.
        wanted: further classes.

    Raises: ArgumentError for another net, ShapeError for a picture that it cannot take.
    """
    traced = trace(net, picture.x.shape[1:])
    ways = {layer: _way(traced, layer) for layer in traced.layers if layer.output.ndim in {2, 4}}
    sources = [source(way.gathered) for way in ways.values()]
    below = [before(v) for v in sources if v is not None]
    known = run(traced, picture.x, [v for v in below if traced.moving(v)])
    numbers = Numbers(traced, known)
    scores = known[traced.output]
    ready = heat.gives_probabilities(scores)
    shares = heat.probabilities(scores, ready=ready)[0]
    order = np.argsort(-shares, kind="stable")[:top].tolist()
    classes = [*order, *(c for c in wanted if c not in order)]
    groups = _groups(ways, known)
    places = boxes(traced.graph)
    rows = {(r["name"], i): r for r, i in _numbered(summary(net, picture.x.shape[1:]).rows)}
    executable = engine.build(traced.graph)
    seconds = _times(executable, picture.x, traced, ways)
    layers: list[tuple[Layer, Record]] = []
    blocks: list[Record] = []
    for group in groups:
        block, records = _explained(group, numbers, len(blocks))
        blocks.append(block)
        layers += [(layer, {**_facts(traced, layer, rows, seconds, places), **r})
                   for layer, r in records]  # fmt: skip
    shown = {layer for layer, _ in layers}
    layers += [(layer, _facts(traced, layer, rows, seconds, places))
               for layer in traced.layers if layer not in shown]  # fmt: skip
    position = {layer: i for i, layer in enumerate(traced.layers)}
    layers.sort(key=lambda pair: position[pair[0]])
    return {
        "title": title,
        "net": net._get_name(),
        "picture": _picture(picture),
        "classes": [_class(c, names, shares, scores) for c in classes],
        "layers": [record for _, record in layers],
        "blocks": blocks,
        "kernels": _kernels(traced, numbers),
        "totals": _totals(net, traced, executable.stopwatch(picture.x)),
        **_heat(traced, executable, picture, classes, ready),
    }


def _way(traced: Traced, layer: Layer) -> Way:
    origin = tuple(np.zeros((1, 1), np.int64) for _ in layer.output.shape)
    return walk(traced, layer.output, origin)


def _numbered(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Each row of the summary with the number of the run of its layer."""
    runs: dict[str, int] = {}
    numbered = []
    for row in rows:
        runs[row["name"]] = runs.get(row["name"], 0) + 1
        numbered.append((row, runs[row["name"]]))
    return numbered


# ---------------------------------------------------------------------------- what is shown


def _groups(ways: dict[Layer, Way], known: dict[Value, Array]) -> list[_Group]:
    """Layers by what gathers their elements; the most active maps; points as many as fit."""
    together: dict[tuple[Value, tuple[int, ...]], list[Layer]] = {}
    for layer, way in ways.items():
        together.setdefault((way.gathered, layer.output.shape), []).append(layer)
    share = MAP_BYTES // max(1, len(ways))
    picked = []
    for (gathered, _), layers in together.items():
        maps = most_active(known[layers[-1].output][0], share)
        steps = sum(12 + 16 * len(ways[layer].steps) for layer in layers)
        picked.append((gathered, layers, maps, len(maps) * (cost(gathered) + steps)))
    counts = fill([(each, math.prod(layers[0].output.shape[2:])) for _, layers, _, each in picked])
    groups = []
    for (gathered, layers, maps, _), count in zip(picked, counts, strict=True):
        rows, cols = grid(layers[0].output.shape[2:], count)
        groups.append(_Group(tuple(layers), gathered, maps, rows, cols))
    return groups


def _explained(
    group: _Group, numbers: Numbers, index: int
) -> tuple[Record, list[tuple[Layer, Record]]]:
    """The record of what gathers, and that of each layer of the group."""
    where = group.where()
    way = walk(numbers.traced, group.layers[0].output, where)
    block, totals = gather(way.gathered, way.where, numbers)
    below = source(way.gathered)
    block["source"] = "" if below is None else numbers.traced.name(below)
    if below is not None and below.shape[2:] == (1, 1) and before(below).ndim == 4:
        block["flattened"] = list(before(below).shape[1:])
    records = []
    for layer in group.layers:
        record = _maps(numbers.known[layer.output][0], group)
        record["block"] = index
        record["values"] = packed(numbers.at(layer.output, where), "<f4")
        steps = walk(numbers.traced, layer.output, where).steps
        record["steps"] = _steps(steps, totals, numbers)
        records.append((layer, record))
    return block, records


def _steps(steps: Sequence[Any], totals: Array, numbers: Numbers) -> list[Record] | None:
    """What follows on a gathered number, with the number after each step; None if not known."""
    current, found = totals, []
    for step in steps:
        try:
            current = numbers.after(step, current)
        except UnsupportedError:
            return None
        word, formulas = describe(step, numbers)
        other = branch(step, numbers)
        shape = totals.shape
        found.append({
            "word": word,
            "formulas": formulas,
            "other": None if other is None else packed(np.broadcast_to(other, shape), "<f8"),
            "results": packed(np.broadcast_to(current, shape), "<f8"),
        })  # fmt: skip
    return found


def _maps(numbers: Array, group: _Group) -> Record:
    chosen = numbers[group.maps]
    if chosen.ndim == 1:
        chosen = chosen[:, None, None]
    smaller = factor(*chosen.shape[1:])
    small = _halved(chosen, smaller)
    pixels, low, high = as_bytes(small)
    return {
        "maps": group.maps.tolist(),
        "factor": smaller,
        "side": list(small.shape[1:]),
        "low": [number(v) for v in low],
        "high": [number(v) for v in high],
        "pixels": packed(pixels, "u1"),
        "rows": group.rows.tolist(),
        "cols": group.cols.tolist(),
    }


def _halved(maps: Array, by: int) -> Array:
    """Means of by × by elements; what is left over at the border is left out."""
    if by == 1:
        return maps
    k, h, w = (maps.shape[0], maps.shape[1] // by, maps.shape[2] // by)
    cut = maps[:, : h * by, : w * by].astype(np.float64)
    return np.asarray(cut.reshape(k, h, by, w, by).mean((2, 4)))


# ---------------------------------------------------------------------------- facts


def _facts(
    traced: Traced,
    layer: Layer,
    rows: dict[tuple[str, int], Row],
    seconds: dict[Layer, float],
    places: dict[Value, Boxes],
) -> Record:
    row = rows.get((layer.path, layer.run)) if layer.call is not None else None
    field = row["receptive_field"] if row else None
    box = places[layer.output]
    return {
        "path": layer.path,
        "title": layer.title,
        "kind": layer.kind,
        "detail": layer.call.module.extra_repr() if layer.call is not None else "",
        "shape": list(layer.output.shape[1:]),
        "arithmetic": size_lines(traced, layer),
        "params": row["params"] if row else 0,
        "macs": row["macs"] if row else 0,
        "field": field,
        "seconds": seconds.get(layer),
        "inputs": [traced.name(value) for value in layer.inputs],
        "box_rows": box.rows.tolist(),
        "box_cols": box.cols.tolist(),
    }


def _times(
    executable: engine.Executable, x: Array, traced: Traced, ways: dict[Layer, Way]
) -> dict[Layer, float]:
    """Median seconds of the program's steps, by the layer that a step is named for.

    That is the first whose elements the step gathers, or else the first run of the layer itself.
    """
    watch = executable.stopwatch(x)
    each = np.median([watch.each() for _ in range(ROUNDS)], axis=0)
    named: dict[str, float] = {}
    for work, time in zip(describe_work(executable.program), each, strict=True):
        named[work.layer] = named.get(work.layer, 0.0) + float(time)
    seconds: dict[Layer, float] = {}
    for layer in traced.layers:
        names = [layer_name(ways[layer].gathered.node)] if layer in ways else []
        for name in [*names, layer.path]:
            if name in named:
                seconds[layer] = named.pop(name)
                break
    return seconds


def _totals(net: Module, traced: Traced, watch: Stopwatch) -> Record:
    return {
        "params": net.num_parameters(),
        "macs": traced.graph.macs(),
        "seconds": float(np.median([watch.whole() for _ in range(ROUNDS)])),
        "threads": engine.get_num_threads(),
    }


def _picture(picture: Picture) -> Record:
    h, w, channels = picture.samples.shape
    pixels = packed(picture.samples, "u1")
    return {"height": h, "width": w, "channels": channels, "pixels": pixels}


def _class(index: int, names: Sequence[str] | None, shares: Array, scores: Array) -> Record:
    return {
        "index": index,
        "name": names[index] if names and index < len(names) else f"class {index}",
        "probability": number(shares[index]),
        "score": number(scores[0, index]),
    }


def _kernels(traced: Traced, numbers: Numbers) -> Record | None:
    """Those of the first convolution of the picture; of three channels they have colours."""
    for layer in traced.layers:
        node = walk(traced, layer.output, tuple(np.zeros((1, 1), int) for _ in range(
            layer.output.ndim))).gathered.node  # fmt: skip
        if not isinstance(node.op, Conv2d):
            continue
        weights = np.asarray(numbers.full(node.inputs[1]))[:MOST_KERNELS]
        if max(weights.shape[2:]) > LARGEST_KERNEL or max(weights.shape[2:]) == 1:
            return None
        return {
            "layer": layer.title,
            "count": int(node.inputs[1].shape[0]),
            "shape": list(weights.shape),
            "weights": packed(weights if weights.shape[1] == 3 else weights[:, :1], "<f4"),
        }
    return None


def _heat(
    traced: Traced, executable: engine.Executable, picture: Picture, classes: list[int], ready: bool
) -> Record:
    cam = heat.grad_cam(traced, picture.x, classes)
    shade = heat.occlude(
        lambda x: executable(x)[0], picture.x, picture.grey, classes, ready=ready
    )  # fmt: skip
    return {
        "cam": {
            "layer": cam.title,
            "why": cam.why,
            "shape": [] if cam.maps is None else list(cam.maps.shape[1:]),
            "maps": None if cam.maps is None else packed(cam.maps, "<f4"),
        },
        "occlusion": {
            "rows": shade.rows,
            "cols": shade.cols,
            "size": list(shade.size),
            "maps": packed(shade.maps, "<f4"),
        },
    }
