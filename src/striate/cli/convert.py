"""`striate convert IN OUT --model NAME`: weights of another maker as a Striate model file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from striate.cli._app import Name, common, nearest
from striate.cli._output import note, print_json
from striate.cli._settings import ImageSize
from striate.errors import ArgumentError, DataError, ShapeError, StriateError

if TYPE_CHECKING:
    from striate.data import Recipe
    from striate.nn import Module

Array = np.ndarray[Any, Any]

# Mean and deviation of ImageNet's training pictures, channels red, green, blue, 1 is white.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@click.command(
    epilog="Example: striate convert resnet50.pth resnet50.safetensors --model resnet50 "
    "--recipe imagenet --classes imagenet.txt"
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", required=True, metavar="NAME",
              help="The network that the weights are of, such as resnet50.")  # fmt: skip
@click.option("--classes", type=click.Path(path_type=Path, dir_okay=False),
              help="Text file with a class name a line, in the order of the outputs. "
              "[default: 0, 1, 2, …]")  # fmt: skip
@click.option("--recipe", metavar="imagenet|FILE",
              help="How pictures are prepared: ImageNet's mean and deviation at --image-size, or "
              "a JSON file with the fields of striate.data.Recipe. striate predict needs it."
              )  # fmt: skip
@click.option("--image-size", type=ImageSize(),
              help="Size of the pictures. [default: 224 with --recipe imagenet]")  # fmt: skip
@click.option("--stem", type=Name(["32", "224"]),
              help="First layers of a network that has the choice. [default: by the file]"
              )  # fmt: skip
@click.option("--key", metavar="NAME",
              help="Where in a checkpoint the weights are, such as ema. "
              "[default: state_dict, model, …]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite OUT.")
@common
def convert(
    source: Path,
    target: Path,
    model: str,
    classes: Path | None,
    recipe: str | None,
    image_size: tuple[int, int] | None,
    stem: str | None,
    key: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make a Striate model file of IN: PyTorch weights (.pth, .pt) or any safetensors file.

    PyTorch is not needed, and nothing that IN holds is executed. Numbers of classes and channels
    are taken from IN; names of torchvision and timm are understood.
    """
    from striate import models
    from striate.io.model import save
    from striate.io.weights import read_weights

    if model not in models.list():
        hint = nearest(model, models.list()) or f"; networks are {', '.join(models.list())}"
        raise ArgumentError(f"--model {model}: there is no network of that name{hint}")
    if target.exists() and not force:
        raise ArgumentError(f"{target} exists; --force overwrites it")
    if target.suffix != ".safetensors":
        raise ArgumentError(f"{target}: the name of a model file must end in .safetensors")
    names = None if classes is None else _names(classes)
    net = _fitted(model, read_weights(source, key), source, image_size, stem)
    width = net.arch["arguments"]["num_classes"] if net.arch else 0
    if names is not None and len(names) != width:
        raise DataError(f"{classes}: {len(names)} names, but the net has {width} classes")
    meta: dict[str, Any] = {"classes": names or [str(i) for i in range(width)]}
    if recipe is not None:
        meta["recipe"] = asdict(_recipe(recipe, net, image_size))
    save(net, target, **meta)
    if recipe is None:
        note("note: without --recipe the file does not say how pictures are prepared; striate "
             "predict needs it")  # fmt: skip
    if as_json:
        print_json({"model": str(target), "arch": net.arch, "parameters": net.num_parameters()})
    else:
        click.echo(f"{model}, {net.num_parameters():,} parameters, {width} classes → {target}")


def _names(path: Path) -> list[str]:
    """The class names in a text file, one a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the class {twice!r} is named twice")
    return names


def _recipe(wanted: str, net: Module, size: tuple[int, int] | None) -> Recipe:
    from striate.data import Recipe

    if wanted != "imagenet":
        return Recipe.from_json(Path(wanted).read_text(encoding="utf-8"))
    channels = net.arch["arguments"]["in_channels"] if net.arch else 3
    if channels != 3:
        raise ArgumentError(f"--recipe imagenet is for colour pictures, the net has {channels}")
    return Recipe(3, size or (224, 224), "crop", *IMAGENET)


# ------------------------------------------------------------------ which net it is


def _fitted(
    model: str,
    arrays: dict[str, Array],
    source: Path,
    size: tuple[int, int] | None,
    stem: str | None,
) -> Module:
    """The network with the file's weights; channels, classes and stem are those of the file."""
    from striate import models
    from striate.io.weights import fit_weights

    known = models.options(model)
    if stem is not None and "stem" not in known:
        raise ArgumentError(f"--stem: {model} has no choice of stems; leave it out")
    stems = (stem,) if stem or "stem" not in known else ("224", "32")
    failure: StriateError | None = None
    for candidate in stems:
        arguments = _arguments(model, arrays, candidate, size)
        net = models.create(model, **arguments)
        try:
            fit_weights(net, arrays, source)
        except (ArgumentError, ShapeError) as error:
            failure = failure or error
        else:
            return net
    assert failure is not None
    raise failure


def _arguments(
    model: str, arrays: dict[str, Array], stem: str | None, size: tuple[int, int] | None
) -> dict[str, Any]:
    """What the file says of classes and channels: the heights of the last layer, the first."""
    from striate import models
    from striate.io.weights import head_of, match_names
    from striate.nn import init

    arguments: dict[str, Any] = {} if stem is None else {"stem": stem}
    known = models.options(model)
    if size is not None and "image_size" in known:
        if size[0] != size[1]:
            raise ArgumentError(f"--image-size: {model} takes square pictures, not {size}")
        arguments["image_size"] = size[0]
    with init.skipped():
        net = models.create(model, **arguments)
    own = {name: param.shape for name, param in net.named_parameters()}
    found = match_names(own, arrays)
    head = found.get(f"{head_of(net)}.weight")
    first = found.get(next(name for name, shape in own.items() if len(shape) == 4))
    if head is not None and head.ndim in {2, 4}:
        arguments["num_classes"] = head.shape[0]
    if first is not None and first.ndim == 4:
        arguments["in_channels"] = first.shape[1]
    return arguments
