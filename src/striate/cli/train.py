"""`striate train DATA`: train a net on pictures, into a run folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import common
from striate.cli._build import (
    build_net,
    build_optimizer,
    build_schedule,
    class_weights,
    refuse_impossible,
    resolve,
)
from striate.cli._data import TrainingData, training_data
from striate.cli._evaluation import load_model, measure
from striate.cli._output import note, print_json
from striate.cli._settings import (
    CHECKPOINT,
    CONFIG,
    Settings,
    as_command,
    read_config,
    refuse_contradictions,
    take_config,
    take_resume,
    training_options,
    write_config,
)
from striate.errors import ArgumentError, InterruptedTraining
from striate.io.atomic import write_atomic

if TYPE_CHECKING:
    from striate.data import BadPicture
    from striate.nn import Module
    from striate.train.trainer import Trainer


@click.command(
    epilog="Example: striate train fashion-mnist-sample --model lenet-bn --epochs 5",
    context_settings={"show_default": True},
)
@click.argument("data", required=False)
@training_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Run folder, new or empty. [default: runs/train-1, -2, …]")  # fmt: skip
@click.option("--resume", type=click.Path(path_type=Path, file_okay=False), is_eager=True,
              callback=take_resume, metavar="RUN",
              help="Go on with an earlier run; all settings are its own.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              is_eager=True, callback=take_config, expose_value=False,
              help="TOML file of settings; options given beside it go before it.")  # fmt: skip
@common
@click.pass_context
def train(
    ctx: click.Context,
    /,
    data: str | None,
    out: Path | None,
    resume: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network on DATA: a folder of pictures or a built-in set.

    The folder has train/ and val/ with a folder a class in each, or just a folder a class.
    """
    if data is None:
        raise click.UsageError("give DATA: a folder of pictures or a built-in set", ctx)
    given = Settings(data=data, **options)
    refuse_contradictions(ctx, asdict(given))
    if resume is not None and out is not None and out.resolve() != resume.resolve():
        raise ArgumentError(f"--out {out} contradicts --resume {resume}; leave one out")
    if resume is None and out is not None and out.exists() and any(out.iterdir()):
        raise ArgumentError(
            f"{out} exists and is not empty; go on with it (--resume {out}) or give another name"
        )
    refuse_impossible(given, resume is not None)
    began = time.perf_counter()
    found = training_data(given)
    settings = resolve(given, found.train.recipe)
    net = build_net(settings, len(found.train.classes), resume is not None)
    run = resume or _new_folder(out)
    write_config(settings, run)
    _write_unreadable(found.bad, run)
    note(
        f"{len(found.train)} pictures to learn from, {len(found.valid)} to measure with, "
        f"{len(found.train.classes)} classes; {settings.model} → {run}"
    )
    history = _fit(net, found, settings, run, resume is not None)
    accuracy = _finish(run, found, settings)
    seconds = time.perf_counter() - began
    if as_json:
        print_json(
            {"accuracy": accuracy, "run": str(run), "seconds": seconds, "epochs": len(history)}
        )
    else:
        click.echo(f"accuracy {accuracy:.2%} on validation pictures; {seconds:.0f} s; run {run}")


# ------------------------------------------------------------------ the run


def _new_folder(out: Path | None) -> Path:
    """The folder that the user names, or the next free runs/train-N."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        return out
    parent = Path("runs")
    parent.mkdir(exist_ok=True)
    number = 1
    while True:
        folder = parent / f"train-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _write_unreadable(bad: list[BadPicture], run: Path) -> None:
    if bad:
        lines = "".join(f"{path}\t{reason}\n" for path, reason in bad)
        write_atomic(run / "unreadable.txt", [lines.encode(errors="surrogateescape")])
        note(f"note: {len(bad)} pictures cannot be read, see {run}/unreadable.txt; left out")


def _fit(
    net: Module, found: TrainingData, settings: Settings, run: Path, resume: bool
) -> list[float]:
    """Train; returns the numbers of the epochs that the run has now."""
    from striate.jit.pool import set_num_threads

    if settings.threads:
        set_num_threads(settings.threads)
    trainer = _trainer(net, found, settings, run)
    resume_from = run / CHECKPOINT if resume else None
    try:
        history = trainer.fit(found.train, found.valid, epochs=settings.epochs, resume=resume_from)
    except InterruptedTraining as stop:
        raise InterruptedTraining(f"{stop}; go on with: striate train --resume {run}") from stop
    except KeyboardInterrupt as stop:
        way = f"; go on with: striate train --resume {run}" if (run / CHECKPOINT).exists() else ""
        raise InterruptedTraining(f"stopped at once, without a new checkpoint{way}") from stop
    return history.history["epoch"]


def _trainer(net: Module, found: TrainingData, settings: Settings, run: Path) -> Trainer:
    from striate.data import Augment, Loader
    from striate.report.training import TrainingReport
    from striate.train.callbacks import Callback, Checkpoint, EarlyStopping
    from striate.train.loggers import CSVLogger, JSONLines, ProgressBar
    from striate.train.trainer import Trainer

    augment = Augment.parse(settings.augment)
    steps = len(Loader(found.train, settings.batch_size))
    meta = {"classes": list(found.train.classes), "recipe": asdict(found.train.recipe)}
    save_every = settings.save_every or None
    callbacks: list[Callback] = [
        CSVLogger(run / "log.csv"),
        JSONLines(run / "log.jsonl"),
        ProgressBar(),
        Checkpoint(run, every_steps=save_every, meta=meta),
    ]
    if settings.patience:
        callbacks.append(EarlyStopping(patience=settings.patience))
    weights = class_weights(settings, found.train)
    callbacks.append(
        TrainingReport(
            run / "report.html",
            found.train,
            found.valid,
            settings=read_config(run / CONFIG),
            command=as_command(settings),
            title=_title(settings),
            augment=augment,
            label_smoothing=settings.label_smoothing,
            class_weights=weights,
        )
    )
    return Trainer(
        net,
        build_optimizer(settings),
        schedule=build_schedule(settings, steps),
        callbacks=callbacks,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augment=augment,
        clip_norm=settings.clip_norm or None,
        label_smoothing=settings.label_smoothing,
        class_weights=weights,
        ema=settings.ema or None,
        checkpoint=settings.recompute,
        algorithm=settings.algorithm,
        max_relative_error=settings.max_relative_error,
    )


def _title(settings: Settings) -> str:
    return f"{settings.model} on {Path(settings.data).name}"


def _finish(run: Path, found: TrainingData, settings: Settings) -> float:
    """Draw the pictures of the run; returns the validation accuracy of its best model."""
    from striate.report.compare import read_history
    from striate.report.confusion import draw_confusion
    from striate.report.curves import draw_curves

    best = load_model(run / "best.safetensors")
    best.net.plan(
        algorithm=settings.algorithm, max_relative_error=settings.max_relative_error, tune=False
    )
    result = measure(best.net, found.valid, found.valid.labels, len(best.classes))
    title = _title(settings)
    draw_curves(read_history(run / "log.csv"), run / "curves.png", title)
    draw_confusion(
        result.matrix, best.classes, run / "confusion.png", f"{title}: {result.accuracy:.2%}"
    )
    return result.accuracy
