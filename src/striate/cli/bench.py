"""`striate bench [MODEL]`: what each step of a net takes, or all networks in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from striate.cli._app import common
from striate.cli._kernels import kernel_options
from striate.cli._model import InputShape, Shape, open_model
from striate.cli._output import note, percent, print_json, table
from striate.errors import ArgumentError

if TYPE_CHECKING:
    from striate.report.bench import Profile, Speed

TRAINING_BATCH = 8
_POSITIVE = click.IntRange(min=1)


@click.command(epilog="Example: striate bench resnet18 --batch 4 --threads 1")
@click.argument("model", required=False)
@click.option("--input", "shape", type=InputShape(),
              help="Shape of one picture. [default: what the model was made for]")  # fmt: skip
@click.option("--batch", type=_POSITIVE, help=f"Pictures at a time. [default: 1; "
              f"{TRAINING_BATCH} with --train]")  # fmt: skip
@click.option("--threads", type=_POSITIVE, help="Threads. [default: all this process may use]")
@click.option("--train", "training", is_flag=True,
              help="Measure training steps: forward, loss, backward, SGD.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=2.0, show_default=True,
              help="How long to measure a network; at least five rounds.")  # fmt: skip
@click.option("--peers", is_flag=True,
              help="Measure MODEL beside PyTorch and other libraries.")  # fmt: skip
@kernel_options
@common
def bench(
    model: str | None,
    shape: Shape | None,
    batch: int | None,
    threads: int | None,
    training: bool,
    seconds: float,
    peers: bool,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Measure speed on random pictures.

    With MODEL, a model file or the name of a network: for each step of its program the layer, the
    time, the speed and its share of what this machine can do, which is measured in the same run
    (multiply-adds on registers, or reading and writing memory, whichever is nearer). Shares above
    100% are those of Winograd's method, which saves multiplications, and of data in the caches.
    Without MODEL: pictures a second of every network. With --peers: one line of the comparison
    that `make bench` prints; it needs the source checkout with the extra `bench`.
    """
    from striate import engine

    if threads is not None:
        engine.set_num_threads(threads)
    batch = batch or (TRAINING_BATCH if training else 1)
    if peers:
        if set(wishes.values()) != {"auto", None}:
            raise ArgumentError(
                "--peers measures what is chosen by itself: leave out --algorithm "
                "and --max-relative-error"
            )
        from striate.cli._peers import measure_beside_peers

        measure_beside_peers(model, shape, batch, training, seconds, as_json)
        return
    if model is None:
        if shape is not None:
            raise ArgumentError("--input needs MODEL: networks take pictures of different shapes")
        _all_networks(batch, training, seconds, as_json, wishes)
        return
    profile, used = _profile(model, shape, batch, training, seconds, wishes)
    if as_json:
        print_json(_facts(model, used, training) | profile.to_dict())
    else:
        pieces = ""
        if profile.batch < batch:
            place = " on each thread" if profile.dealt else ""
            whole = profile.pieced == len(profile.steps)
            where = "" if whole else f" in the first {profile.pieced} steps"
            pieces = f"; {profile.batch} at a time{place}{where}"
        click.echo(f"{_title(model, used, batch, training)}{pieces}\n\n{_report(profile)}")


def _profile(
    model: str,
    shape: Shape | None,
    batch: int,
    training: bool,
    seconds: float,
    wishes: dict[str, Any],
) -> tuple[Profile, Shape]:
    from striate.report.bench import profile

    net, used = open_model(model, shape)
    found = profile(net.eval(), used, batch, training=training, seconds=seconds, **wishes)
    return found, used


def _all_networks(
    batch: int, training: bool, seconds: float, as_json: bool, wishes: dict[str, Any]
) -> None:
    from striate import models
    from striate.report.bench import limits

    found: list[dict[str, Any]] = []
    for name in models.list():
        note(f"measuring {name}")
        profile, shape = _profile(name, None, batch, training, seconds, wishes)
        numbers = profile.to_dict()
        del numbers["steps"], numbers["groups"]
        found.append(_facts(name, shape, training) | numbers)
    if as_json:
        print_json({"limits": limits()._asdict(), "networks": found})
        return
    head = ("network", "input", "ms", "pictures/s", "GFLOP/s", "of the peak")
    rows = [
        (
            row["model"],
            _sides(row["input"]),
            f"{row['call_seconds'] * 1e3:.2f}",
            f"{row['images_per_second']:.1f}",
            f"{row['gflops']:.0f}",
            percent(row["share_of_peak"]),
        )
        for row in found
    ]
    peak = max(row["peak_gflops"] for row in found)
    threads = found[0]["threads"]
    click.echo(f"{_work(training)}, batch {batch}\n\n{table(head, rows)}\n")
    click.echo(f"peak {peak:.0f} GFLOP/s on {threads} thread(s)")


def _facts(model: str, shape: Shape, training: bool) -> dict[str, Any]:
    return {"model": model, "input": list(shape), "training": training}


def _work(training: bool) -> str:
    return "training step" if training else "inference"


def _sides(shape: Shape | list[int]) -> str:
    return "×".join(map(str, shape))


def _title(model: str, shape: Shape, batch: int, training: bool) -> str:
    return f"{model}, {_work(training)}, batch {batch} of {_sides(shape)}"


def _report(profile: Profile) -> str:
    """Steps, kinds of steps, the sum beside the whole, the machine."""
    sum_ms = 1e3 * profile.sum_seconds
    whole_ms, call_ms = 1e3 * profile.program_seconds, 1e3 * profile.call_seconds
    speeds = ("GFLOP/s", "GB/s", "share", "of")
    steps = table(
        ("step", "layer", "kind", "ms", *speeds),
        [
            (work.label, work.layer, work.kind, f"{speed.seconds * 1e3:.3f}", *_cells(speed))
            for work, speed in profile.steps
        ],
    )
    groups = table(
        ("kind", "steps", "ms", "of the time", *speeds),
        [
            (
                kind,
                count,
                f"{speed.seconds * 1e3:.3f}",
                percent(speed.seconds / profile.sum_seconds),
                *_cells(speed),
            )
            for kind, count, speed in profile.groups()
        ],
    )
    whole, limits = profile.whole, profile.limits
    rate, share = profile.images / profile.call_seconds, percent(whole.shares["compute"])
    machine = f"{limits.gflops:.1f} GFLOP/s, {limits.gbs:.1f} GB/s on {limits.threads} thread(s)"
    lines = [
        f"sum of the steps   {sum_ms:.3f} ms, {percent(sum_ms / whole_ms)} of the whole program",
        f"whole program      {whole_ms:.3f} ms, {whole.gflops:.1f} GFLOP/s, {share} of the peak",
        f"call from Python   {call_ms:.3f} ms, {rate:.1f} pictures/s",
        f"this machine       {machine}",
    ]
    return "\n\n".join([steps, groups, "\n".join(lines)])


def _cells(speed: Speed) -> tuple[str, str, str, str]:
    facts = speed.to_dict()
    gflops = f"{speed.gflops:.1f}" if speed.flops else "–"
    return gflops, f"{speed.gbs:.1f}", f"{facts['share']:.0%}", facts["limit"]
