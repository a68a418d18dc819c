"""`striate export MODEL model.onnx`: a model for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from striate.cli._app import Name, common
from striate.cli._model import InputShape, Shape, open_model
from striate.cli._output import print_json
from striate.errors import ArgumentError


@click.command(epilog="Example: striate export runs/1/best.safetensors model.onnx")
@click.argument("model")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--input", "shape", type=InputShape(),
              help="Shape of one picture. [default: what the model was made for]")  # fmt: skip
@click.option("--free", type=Name(["size", "batch", "nothing"]),
              help="Which sizes may vary: batch, height and width (size), the batch, or nothing. "
              "[default: as much as the net allows]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over an existing file.")
@common
def export(
    model: str, target: Path, shape: Shape | None, free: str | None, force: bool, as_json: bool
) -> None:
    """Write MODEL, a model file, as the ONNX file TARGET.

    The file has class names and preprocessing in its metadata, is checked, and compared with the
    net by ONNX Runtime where that is installed. Needs the extra striate[onnx].
    """
    from striate.onnx import export as write

    if target.exists() and not force:
        raise ArgumentError(f"{target} exists; give another name, or --force to write over it")
    if target.suffix != ".onnx":
        raise ArgumentError(f"{target}: name the file ….onnx; no other format is written")
    net, shape = open_model(model, shape)
    found = write(net, target, shape, free=free)
    if as_json:
        result = {"path": found.path, "free": found.free, "nodes": found.nodes}
        print_json(result | {"error": found.error, "bytes": target.stat().st_size})
        return
    sizes = {"size": "any batch, height and width", "batch": "any batch", "nothing": "fixed sizes"}
    click.echo(
        f"{target}: {found.nodes} nodes, {target.stat().st_size / 1e6:.1f} MB, {sizes[found.free]}"
    )
    if found.error is None:
        click.echo("valid ONNX; not compared: ONNX Runtime is not installed")
    else:
        click.echo(f"ONNX Runtime's outputs differ by {found.error:.1e} of the largest")
