"""`striate inspect MODEL_OR_NAME`: the layers of a net, and the program made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import Name, common
from striate.cli._kernels import kernel_options
from striate.cli._model import InputShape, Shape, open_model
from striate.cli._output import as_json_text, note
from striate.errors import ArgumentError

if TYPE_CHECKING:
    from striate.nn import Module
    from striate.report.bench import Profile


FORMATS = ("table", "json", "html", "dot")


@click.command(
    epilog="Example: striate inspect resnet18 --input 3,224,224 --format html --out net.html"
)
@click.argument("model")
@click.option("--input", "shape", type=InputShape(),
              help="Shape of one picture. [default: what the model was made for]")  # fmt: skip
@click.option("--classes", type=click.IntRange(min=1), help="Classes, for a NAME.")
@click.option("--stem", type=Name(["32", "224"]),
              help="First layers, for a NAME that has the choice.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True,
              help="Pictures of the run whose peak memory is stated.")  # fmt: skip
@click.option("--train", "training", is_flag=True,
              help="State the peak memory of a training step by SGD with momentum.")  # fmt: skip
@click.option("--recompute", is_flag=True,
              help="The same for striate train --recompute.")  # fmt: skip
@click.option("--plan", is_flag=True, help="Print the program that the engine makes of the net, "
              "and how each convolution is computed and why.")  # fmt: skip
@click.option("--format", "form", type=Name(FORMATS),
              help="table, json, html (with a roofline of its steps, measured here) or dot (for "
              "Graphviz). [default: table]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write to FILE instead of standard output.")  # fmt: skip
@click.option("--measure/--no-measure", default=None,
              help="html: with or without the roofline. [default: with]")  # fmt: skip
@kernel_options
@common
def inspect(
    model: str,
    shape: Shape | None,
    classes: int | None,
    stem: str | None,
    batch: int,
    training: bool,
    recompute: bool,
    plan: bool,
    form: str | None,
    out: Path | None,
    measure: bool | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Show the layers of MODEL, a model file or the name of a network.

    For each layer: output, parameters, multiplications, receptive field, memory. For the whole: the
    peak memory of a run, as planned, and what a reviewer would say.
    """
    from striate.report.review import review
    from striate.report.summary import summary

    form = _format(form, as_json, measure, plan)
    net, shape = open_model(model, shape, classes, stem)
    if form == "dot":
        from striate.report.diagram import dot

        _give(dot(net, shape), out)
        return
    found = summary(net, shape, batch=batch, training=training or recompute, checkpoint=recompute)
    remarks = review(net, shape)
    if not (plan or form == "html") and set(wishes.values()) != {"auto", None}:
        raise ArgumentError("--algorithm and --max-relative-error need --plan")
    text = _plan(net, shape, wishes) if plan else None
    if form == "json":
        warnings = [remark._asdict() for remark in remarks]
        result = {"model": model, "input": list(shape), **found.to_dict(), "warnings": warnings}
        _give(as_json_text(result if text is None else {**result, "plan": text}), out)
    elif form == "html":
        from striate.report.inspection import inspection_page

        profile = None if measure is False else _profile(net, shape, batch, training, wishes)
        _give(inspection_page(model, found, remarks, profile, text), out)
    else:
        said = [f"warning     {remark.text}" for remark in remarks]
        _give("\n".join([str(found), *said, *(["", text] if text else [])]), out)


def _format(form: str | None, as_json: bool, measure: bool | None, plan: bool) -> str:
    """The format asked for. Raises ArgumentError for options that contradict it."""
    if as_json and form not in {None, "json"}:
        raise ArgumentError(f"--json contradicts --format {form}; leave one out")
    form = form or ("json" if as_json else "table")
    if measure is not None and form != "html":
        raise ArgumentError("--measure and --no-measure belong to --format html")
    if plan and form == "dot":
        raise ArgumentError("--plan cannot be drawn as dot; take --format table, json or html")
    return form


def _give(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file, whole or not at all."""
    from striate.io.atomic import write_atomic

    if out is None:
        click.echo(text)
    else:
        write_atomic(out, [f"{text}\n".encode()])


def _profile(
    net: Module, shape: Shape, batch: int, training: bool, wishes: dict[str, Any]
) -> Profile:
    from striate.report.bench import profile

    note("measuring the steps …")
    return profile(net, shape, batch, training=training, seconds=1.0, **wishes)


def _plan(net: Module, shape: Shape, wishes: dict[str, Any]) -> str:
    from striate.engine import describe
    from striate.nn.tracing import trace_module

    return describe(trace_module(net, [(1, *shape)], training=False).graph, **wishes)
