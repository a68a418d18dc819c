"""`striate lr-find DATA`: a range test, and the learning rate that it suggests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import common
from striate.cli._build import (
    build_net,
    build_optimizer,
    class_weights,
    refuse_impossible,
    resolve,
)
from striate.cli._data import training_data
from striate.cli._output import print_json
from striate.cli._settings import Settings, training_options_but
from striate.errors import ArgumentError

if TYPE_CHECKING:
    from striate.train.range_test import RangeTest

# Settings of a run that a range test has no use for, at values that do nothing.
UNUSED: dict[str, Any] = {
    "epochs": 1, "lr": None, "schedule": "constant", "warmup": 0.0, "ema": 0.0, "patience": 0,
    "save_every": 0,
}  # fmt: skip
_RATE = click.FloatRange(0, min_open=True)


@click.command(
    "lr-find",
    epilog="Example: striate lr-find fashion-mnist-sample --model lenet-bn --out rates.png",
    context_settings={"show_default": True},
)
@click.argument("data")
@click.option("--start", type=_RATE, default=1e-6, metavar="X", help="The first rate.")
@click.option("--end", type=_RATE, default=1.0, metavar="X", help="The last rate.")
@click.option("--steps", type=click.IntRange(min=10), default=100, metavar="N",
              help="Steps from the first rate to the last.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              default=Path("lr-find.png"), help="Picture of the losses.")  # fmt: skip
@training_options_but(UNUSED)
@common
def lr_find(
    data: str, start: float, end: float, steps: int, out: Path, as_json: bool, **options: Any
) -> None:
    """Train on DATA for some steps with a rate that grows, and suggest a learning rate.

    It ends when the loss is four times its best. Nothing is kept but the picture. The options are
    those of striate train, and change the answer as they change training.
    """
    from striate.data import Augment, Loader
    from striate.jit.pool import set_num_threads
    from striate.report.curves import draw_range_test
    from striate.train.range_test import range_test

    given = Settings(data=data, **UNUSED, **options)
    refuse_impossible(given)
    if start >= end:
        raise ArgumentError(f"--start {start} must be below --end {end}")
    if given.threads:
        set_num_threads(given.threads)
    found = training_data(given)
    settings = resolve(given, found.train.recipe)
    net = build_net(settings, len(found.train.classes))
    loader = Loader(
        found.train,
        settings.batch_size,
        shuffle=True,
        seed=settings.seed,
        augment=Augment.parse(settings.augment),
        raw=True,
    )
    result = range_test(
        net,
        loader,
        build_optimizer(settings),
        start=start,
        end=end,
        steps=steps,
        progress=_progress(),
        label_smoothing=settings.label_smoothing,
        class_weights=class_weights(settings, found.train),
        clip_norm=settings.clip_norm or None,
        checkpoint=settings.recompute,
        algorithm=settings.algorithm,
        max_relative_error=settings.max_relative_error,
    )
    draw_range_test(result, out, f"{settings.model} on {Path(data).name}, {settings.optimizer}")
    if as_json:
        print_json({**asdict(result), "plot": str(out)})
    else:
        click.echo(_text(result, out))


def _text(result: RangeTest, out: Path) -> str:
    if not result.rates:
        return "the loss of the first step is not finite: no rate can be suggested"
    if result.valley is None or result.steepest is None:
        return f"the loss never falls: no rate can be suggested; see {out}"
    return (
        f"valley    {result.valley:.2e}  halfway down the longest fall of the loss: try --lr "
        f"{result.valley:.1g}\n"
        f"steepest  {result.steepest:.2e}  where the loss falls fastest\n"
        f"{len(result.rates)} steps up to a rate of {result.rates[-1]:.2g}; picture: {out}"
    )


def _progress() -> Callable[[int, int], None] | None:
    """A counter of steps on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        sys.stderr.write(f"\rstep {done}/{total}" + ("\n" if done == total else ""))
        sys.stderr.flush()

    return show
