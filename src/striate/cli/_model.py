"""A model as it is given on the command line: a file, or the name of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import nearest
from striate.cli._build import create_net, usual_stem
from striate.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    from striate.nn import Module
    from striate.onnx import OnnxModule

Shape = tuple[int, int, int]


class InputShape(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """`3,224,224` → (3, 224, 224)."""

    name = "C,H,W"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shape:
        """The shape of one picture; raises a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        sides = [side.strip() for side in str(value).split(",")]
        if len(sides) != 3 or not all(side.isdigit() and int(side) > 0 for side in sides):
            self.fail(f"{value!r} is no shape; give channels, height, width: 3,224,224", param, ctx)
        return int(sides[0]), int(sides[1]), int(sides[2])


def open_model(
    model: str, shape: Shape | None, classes: int | None = None, stem: str | None = None
) -> tuple[Module, Shape]:
    """The net, and the shape of the pictures it takes: `shape`, or what it was made for.

    Raises ArgumentError, with the nearest name, if there is neither such a file nor such a
    network, and for a file that does not say which pictures it takes when `shape` is None.
    """
    if Path(model).is_file():
        net, usual = _from_file(Path(model))
    else:
        net, usual = _by_name(model, shape, classes, stem)
    shape = shape or usual
    if shape is None:
        raise ArgumentError(f"{model}: the file does not say which pictures it takes; give --input")
    return net, shape


def _from_file(path: Path) -> tuple[Module, Shape | None]:
    if path.suffix == ".onnx":
        onnx_net = open_onnx(path)
        channels, size = declared(onnx_net)
        return onnx_net, (channels, *size) if channels and size else None
    from striate.io.model import load

    net = load(path)
    recipe = getattr(net, "recipe", None) or {}
    size = recipe.get("size")
    return net, (recipe["channels"], *size) if size else None


def open_onnx(path: Path) -> OnnxModule:
    """A net from an ONNX file. Raises UnsupportedError unless it takes one input, images."""
    from striate import onnx

    net = onnx.load(path)
    ports = [port for port in net.graph.inputs if port.name in net.input_names]
    if len(ports) != 1 or len(ports[0].shape or ()) != 4:
        raise UnsupportedError(
            f"{path}: pictures need a model of one input (N, C, H, W); its inputs are "
            f"{', '.join(net.input_names)}; call striate.onnx.load(path)(…) from Python"
        )
    return net


def declared(net: OnnxModule) -> tuple[int | None, tuple[int, int] | None]:
    """Channels and size of the pictures that an ONNX file declares; None where they are free."""
    port = next(p for p in net.graph.inputs if p.name == net.input_names[0])
    _, channels, h, w = port.shape or (None,) * 4
    size = (h, w) if isinstance(h, int) and isinstance(w, int) and min(h, w) > 0 else None
    return channels if isinstance(channels, int) and channels > 0 else None, size


def _by_name(
    name: str, shape: Shape | None, classes: int | None, stem: str | None
) -> tuple[Module, Shape]:
    """A registered net made for pictures of this shape."""
    from striate import models

    try:
        name = models.canonical(name)
    except ArgumentError:
        known = models.list()
        hint = nearest(name, known) or f"; networks are {', '.join(known)}"
        raise ArgumentError(
            f"{name}: there is no such file, and no network of that name{hint}"
        ) from None
    if shape is None:
        options = models.options(name)
        side = options.get("image_size") or int(stem or options.get("stem", 224))
        shape = (options["in_channels"], side, side)
    size = shape[1:]
    return create_net(name, classes, shape[0], size, stem or usual_stem(name, size)), shape
