"""`striate inspect MODEL_OR_NAME`: the layers of a net, and the program made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import Name, common
from striate.cli._kernels import kernel_options
from striate.cli._model import InputShape, Shape, open_model
from striate.cli._output import print_json
from striate.errors import ArgumentError

if TYPE_CHECKING:
    from striate.nn import Module


@click.command(epilog="Example: striate inspect resnet18 --input 3,224,224")
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
    as_json: bool,
    **wishes: Any,
) -> None:
    """Show the layers of MODEL, a model file or the name of a network.

    For each layer: output, parameters, multiplications, receptive field, memory. For the whole: the
    peak memory of a run, as planned.
    """
    from striate.report.summary import summary

    net, shape = open_model(model, shape, classes, stem)
    found = summary(net, shape, batch=batch, training=training or recompute, checkpoint=recompute)
    if not plan and set(wishes.values()) != {"auto", None}:
        raise ArgumentError("--algorithm and --max-relative-error need --plan")
    text = _plan(net, shape, wishes) if plan else None
    if as_json:
        result = {"model": model, "input": list(shape), **found.to_dict()}
        print_json(result if text is None else {**result, "plan": text})
    else:
        click.echo(str(found) if text is None else f"{found}\n\n{text}")


def _plan(net: Module, shape: Shape, wishes: dict[str, Any]) -> str:
    from striate.engine import describe
    from striate.nn.tracing import trace_module

    return describe(trace_module(net, [(1, *shape)], training=False).graph, **wishes)
