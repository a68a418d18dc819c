"""Whole networks beside every peer: inference at batch 1 and 16, training steps, peak memory.

Each contender runs in a process of its own (`bench.worker`) with the same weights and input.
Results are compared before anything is timed; rounds are interleaved, medians are shown. A ratio
is the fastest peer's time divided by ours.

    python -m bench.peers --net resnet18 --threads 2
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np

import striate as st
from bench.report import aligned, markdown, write_between_marks
from bench.worker import Job, torch_net

PACKAGES = {
    "torch": "torch",
    "torch-nhwc": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
}
TRAINERS = ("torch", "torch-nhwc")
# Largest difference from our outputs, in their standard deviations; of a first loss, in itself:
# dropout draws other numbers there.
AGREES = {"infer": 2e-3, "train": 2e-2}
MARKS = ("<!-- peers: begin -->", "<!-- peers: end -->")
HEAD = (
    "work",
    "threads",
    "Striate ms",
    "fastest peer",
    "ms",
    "ratio",
    "wanted",
    "spread",
    "others",
)
MEMORY_HEAD = ("peak resident memory of", "Striate MB", "PyTorch MB", "share", "wanted")
MEMORY_WANTED = 0.6


@dataclass(frozen=True)
class Case:
    """One line of the table: `arguments` of the net, images of channels × size × size."""

    work: str
    net: str
    batch: int
    size: int
    wanted: float
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        what = "training step" if self.work == "train" else "inference"
        return f"{self.net} {what}, {self.size}×{self.size}, batch {self.batch}"


def _inference() -> list[Case]:
    wanted = {
        "vgg11-bn": (1.25, 1.6),
        "resnet18": (1.35, 1.8),
        "resnet50": (1.2, 1.35),
        "squeezenet1_1": (1.2, 1.3),
        "densenet121": (1.2, 1.2),
        "mobilenet_v2": (1.1, 1.2),
    }
    return [
        Case("infer", net, batch, 224, ratio)
        for i, batch in enumerate((1, 16))
        for net, ratios in wanted.items()
        for ratio in (ratios[i],)
    ]


TEN = ("num_classes", 10)
CASES = (
    *_inference(),
    Case("train", "vgg11-bn", 64, 32, 1.8, (TEN, ("stem", "32"))),
    Case("train", "resnet18", 64, 32, 2.0, (TEN, ("stem", "32"))),
    Case("train", "resnet18", 32, 64, 2.0, (TEN,)),
    Case("train", "mobilenet_v2", 32, 64, 2.5, (TEN,)),
    Case("train", "lenet-bn", 64, 28, 2.5, (TEN, ("in_channels", 1))),
)


@dataclass(frozen=True)
class Result:
    """Milliseconds of every contender, and bytes at its peak."""

    case: str
    work: str
    threads: int
    wanted: float
    ms: dict[str, float]
    spread: tuple[float, float]
    rss: dict[str, int]

    @property
    def fastest(self) -> str:
        """The fastest peer."""
        return min((peer for peer in self.ms if peer != "striate"), key=self.ms.__getitem__)

    @property
    def ratio(self) -> float:
        """Its time divided by ours."""
        return self.ms[self.fastest] / self.ms["striate"]


class Contender:
    """A worker process: `ask` sends it a line and returns its answer."""

    def __init__(self, job: Job) -> None:
        self.job = job
        command = [sys.executable, "-m", "bench.worker", job.to_json()]
        self.errors = job.path(f"{job.peer}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            log = self.job.path(f"{self.job.peer}.log").read_text().strip()
            raise RuntimeError(f"{self.job.peer} ended: {log[-400:]}")
        return line

    def ask(self, line: str) -> str:
        """The answer to one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def prepare(case: Case, job: Job, peers: list[str]) -> None:
    """Weights, images and the net in the peers' formats, in the job's folder."""
    rng = np.random.default_rng(0)
    arguments = dict(case.arguments)
    channels = arguments.get("in_channels", 3)
    net = st.models.create(case.net, **arguments)
    np.savez(job.path("weights.npz"), **net.state_dict())
    shape = (case.batch, channels, case.size, case.size)
    np.save(job.path("x.npy"), rng.standard_normal(shape).astype(np.float32))
    np.save(job.path("y.npy"), rng.integers(0, arguments.get("num_classes", 1000), case.batch))
    if not {"onnxruntime", "openvino", "ncnn"} & set(peers):
        return
    import torch

    twin = torch_net(job).eval()
    x = torch.from_numpy(np.load(job.path("x.npy")))
    torch.onnx.export(
        twin, (x,), str(job.path("net.onnx")), dynamo=False, input_names=["x"], output_names=["y"]
    )
    if "ncnn" in peers:
        import pnnx

        pnnx.export(twin, str(job.path("net.pt")), (x[:1],), fp16=False)


@contextmanager
def silenced(path: Path) -> Iterator[None]:
    """Converters print pages, from native code too: all of it goes to a file."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with path.open("w") as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            yield
        finally:
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)


def measure(case: Case, threads: int, peers: list[str], rounds: int, seconds: float) -> Result:
    """All contenders of one case, interleaved. Raises RuntimeError if results differ."""
    names = [p for p in peers if case.work == "infer" or p in TRAINERS]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        jobs = {
            peer: Job(peer, case.work, case.net, dict(case.arguments), threads, folder)
            for peer in ("striate", *names)
        }
        with silenced(jobs["striate"].path("prepare.log")):
            prepare(case, jobs["striate"], names)
        contenders: dict[str, Contender] = {}
        for peer, job in jobs.items():
            contenders[peer] = Contender(job)
            stack.callback(contenders[peer].close)
        _compare(jobs)
        times: dict[str, list[float]] = {peer: [] for peer in contenders}
        for round_ in range(rounds):
            order = list(contenders)
            for peer in order if round_ % 2 == 0 else reversed(order):
                times[peer].append(float(contenders[peer].ask(str(seconds))))
        rss = {peer: int(contender.ask("rss")) for peer, contender in contenders.items()}
    ours = times["striate"]
    return Result(
        str(case),
        case.work,
        threads,
        case.wanted,
        {peer: 1e3 * statistics.median(t) for peer, t in times.items()},
        (1e3 * min(ours), 1e3 * max(ours)),
        rss,
    )


def _compare(jobs: dict[str, Job]) -> None:
    ours = np.load(jobs["striate"].path("striate.npy"))
    unit = float(ours.std()) or float(np.abs(ours).max())
    for peer, job in jobs.items():
        theirs = np.load(job.path(f"{peer}.npy"))
        error = float(np.abs(theirs - ours).max()) / unit
        if not error <= AGREES[job.work]:
            raise RuntimeError(f"{peer} gives other results: {error:.1e} standard deviations away")


def _cells(r: Result) -> tuple[str, ...]:
    others = ", ".join(
        f"{peer} {ms:.1f}" for peer, ms in r.ms.items() if peer not in {"striate", r.fastest}
    )
    mark = "" if r.ratio >= r.wanted else " ✗"
    return (
        *(r.case, str(r.threads), f"{r.ms['striate']:.2f}", r.fastest, f"{r.ms[r.fastest]:.2f}"),
        *(f"{r.ratio:.2f}{mark}", f"{r.wanted:.2f}"),
        *(f"{r.spread[0]:.2f}–{r.spread[1]:.2f}", others),
    )


def _memory_cells(r: Result) -> tuple[str, ...]:
    theirs = min(r.rss[peer] for peer in TRAINERS if peer in r.rss)
    share = r.rss["striate"] / theirs
    mark = "" if share <= MEMORY_WANTED else " ✗"
    megabytes = (f"{b / 1e6:.0f}" for b in (r.rss["striate"], theirs))
    return (f"{r.case}", *megabytes, f"{share:.2f}{mark}", f"{MEMORY_WANTED:.2f}")


def tables(results: list[Result]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """(head, lines) of each table; what falls short of its target comes first."""
    ordered = sorted(results, key=lambda r: r.ratio >= r.wanted)
    found = [(HEAD, [_cells(r) for r in ordered])]
    steps = [r for r in results if r.work == "train" and set(TRAINERS) & set(r.rss)]
    most = max((r.threads for r in steps), default=0)
    if steps:
        found.append((MEMORY_HEAD, [_memory_cells(r) for r in steps if r.threads == most]))
    return found


@click.command()
@click.option("--net", "nets", multiple=True, help="Only these nets; may be given several times.")
@click.option("--work", type=click.Choice(["infer", "train"]), help="Only inference or training.")
@click.option("--batch", type=int, help="Only this batch size.")
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--peers", default=",".join(PACKAGES), show_default=True)
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds, for a first look.")
@click.option("--json", "json_path", type=Path, help="Also write the figures to this file.")
@click.option("--write", type=Path, help="Put the tables into this Markdown file.")
def main(
    nets: tuple[str, ...],
    work: str | None,
    batch: int | None,
    threads: tuple[int, ...],
    peers: str,
    quick: bool,
    json_path: Path | None,
    write: Path | None,
) -> None:
    """Time whole networks beside every installed peer.

    Example: python -m bench.peers --net resnet18 --work infer --threads 2 --quick
    """
    rounds, seconds = (3, 0.1) if quick else (7, 0.3)
    wanted = [p for p in peers.split(",") if p]
    unknown = [p for p in wanted if p not in PACKAGES]
    if unknown:
        raise click.BadParameter(f"no peer {unknown[0]!r}; there are {', '.join(PACKAGES)}")
    there = [p for p in wanted if find_spec(PACKAGES[p])]
    missing = [p for p in wanted if p not in there]
    results, failed = [], []
    usable = st.get_num_threads()
    for count in (t for t in threads if t <= usable):
        for case in CASES:
            if (nets and case.net not in nets) or (work or case.work) != case.work:
                continue
            if (batch or case.batch) != case.batch:
                continue
            click.echo(f"{count} thread(s) · {case}", err=True)
            try:
                results.append(measure(case, count, there, rounds, seconds))
            except RuntimeError as error:
                failed.append(f"{case}, {count} thread(s): {error}")
    versions = f"Striate {st.__version__}; median of {rounds} interleaved rounds"
    notes = [*failed, *(f"{p} is not installed and was left out" for p in missing)]
    found = tables(results)
    click.echo("\n\n".join([versions, *(aligned(*t) for t in found), *notes]))
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    if write is not None:
        text = "\n\n".join([f"{versions}.", *(markdown(*t) for t in found), *notes])
        write_between_marks(write, text, MARKS)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
