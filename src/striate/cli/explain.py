"""`striate explain MODEL IMAGE --out page.html`: what does a net see in a picture?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import common, nearest
from striate.cli._model import InputShape, Shape, open_model
from striate.cli._output import note, print_json
from striate.errors import ArgumentError
from striate.io.atomic import write_atomic

if TYPE_CHECKING:
    from striate.data import Recipe
    from striate.nn import Module


@click.command(epilog="Example: striate explain runs/1/best.safetensors dress.png --out page.html")
@click.argument("model")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="The page to write, an .html file.")  # fmt: skip
@click.option("--class", "wanted", multiple=True, metavar="NAME",
              help="Explain this class too; may be given several times.")  # fmt: skip
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, metavar="K",
              help="Explain the K most probable classes.")  # fmt: skip
@click.option("--input", "shape", type=InputShape(),
              help="Shape of one picture. [default: what the model was made for]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over an existing file.")
@common
def explain(
    model: str,
    image: Path,
    out: Path,
    wanted: tuple[str, ...],
    top: int,
    shape: Shape | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a page that shows what MODEL does with IMAGE.

    MODEL is a model file, an .onnx file, or the name of a network, which then has random weights.
    The page is one file that needs no server and no network: the layers with their arithmetic,
    feature maps, what a point of a map sees and the sum behind it, kernels, class probabilities,
    Grad-CAM and occlusion.
    """
    from striate.data import read_image
    from striate.report.explain import explain as collect
    from striate.report.explain import picture_of, render

    if out.suffix not in {".html", ".htm"}:
        raise ArgumentError(f"--out {out}: the name must end in .html")
    if out.exists() and not force:
        raise ArgumentError(f"{out} exists; give another name, or --force to write over it")
    net, recipe, names = _opened(model, shape)
    picture = picture_of(read_image(image, recipe.channels), recipe)
    title = f"{Path(model).name} on {image.name}"
    record = collect(
        net, picture, title=title, names=names, top=top, wanted=_positions(wanted, names)
    )
    page = render(record).encode()
    write_atomic(out, [page])
    best = record["classes"][0]
    if as_json:
        classes = [{"class": c["name"], "probability": c["probability"]} for c in record["classes"]]
        print_json({"path": str(out), "bytes": len(page), "layers": len(record["layers"]),
                    "top": classes})  # fmt: skip
        return
    click.echo(
        f"{out}: {len(record['layers'])} layers, {len(page) / 1e6:.1f} MB; "
        f"{image} looks like {best['name']} ({best['probability']:.1%})"
    )


def _opened(model: str, shape: Shape | None) -> tuple[Module, Recipe, list[str] | None]:
    """The net in evaluation mode, the preprocessing, and the names of its classes."""
    from striate.data import Recipe

    if Path(model).suffix == ".onnx" and Path(model).is_file():
        return _from_onnx(Path(model), shape)
    net, (channels, height, width) = open_model(model, shape)
    stored = getattr(net, "recipe", None)
    if stored:
        recipe = Recipe.from_json(json.dumps(stored))
        if shape is not None:
            recipe = Recipe(shape[0], shape[1:], recipe.resize, recipe.mean, recipe.std)
    else:
        recipe = Recipe(channels, (height, width))
        note(f"striate: {model} names no preprocessing: pixels are given to it as 0 to 1")
    if not Path(model).is_file():
        note(f"striate: {model} is the name of a network, not a file: its weights are random")
    return net.eval(), recipe, getattr(net, "classes", None)


def _from_onnx(path: Path, shape: Shape | None) -> tuple[Module, Recipe, list[str] | None]:
    from striate import onnx
    from striate.data import Recipe

    net = onnx.load(path)
    names = net.classes
    text = net.metadata.get("recipe")
    stored: Any = json.loads(text) if text else None
    if stored:
        recipe = Recipe.from_json(json.dumps(stored))
        if recipe.size is not None and shape is None:
            return net, recipe, names
        shape = shape or _declared(net)
        size = recipe.size if shape is None else shape[1:]
        return net, Recipe(recipe.channels, size, recipe.resize, recipe.mean, recipe.std), names
    shape = shape or _declared(net)
    if shape is None:
        raise ArgumentError(f"{path}: the file does not say which pictures it takes; give --input")
    note(f"striate: {path} names no preprocessing: pixels are given to it as 0 to 1")
    return net, Recipe(shape[0], shape[1:]), names


def _declared(net: Any) -> Shape | None:
    """(C, H, W) of the first input, if the file fixes them."""
    ports = [port for port in net.graph.inputs if port.name in net.input_names]
    shape = ports[0].shape if ports else None
    if shape is None or len(shape) != 4 or None in shape[1:]:
        return None
    return shape[1], shape[2], shape[3]


def _positions(wanted: tuple[str, ...], names: list[str] | None) -> list[int]:
    """Positions of classes given by name, or by number where there are no names."""
    found = []
    for name in wanted:
        if names and name in names:
            found.append(names.index(name))
        elif name.isdigit() and (not names or int(name) < len(names)):
            found.append(int(name))
        else:
            hint = nearest(name, names or []) or "; give the number of a class"
            raise ArgumentError(f"--class {name}: the model has no such class{hint}")
    return found
