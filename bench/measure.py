"""Measuring one row: everyone prepares, results are compared, then rounds are interleaved."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from bench.cases import MEMORY_SHARE, Case
from bench.job import Job
from bench.prepare import EXPORTED, prepare
from bench.process import ContenderError, Crew
from bench.rows import OURS, Row
from bench.timing import SETTLE_SECONDS, timing, turns

PACKAGES = {
    "torch": "torch",
    "torch-nhwc": "torch",
    "torch-compile": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "jax": "jax",
}
PYTORCH = ("torch", "torch-nhwc", "torch-compile")
TRAINERS = (*PYTORCH, "jax")
# Largest difference from our outputs, in their standard deviations; of a first loss, in itself.
AGREES = 2e-3
PEAK_SECONDS = 0.005
HOPELESS = 2.5  # times the fastest peer's time: such a peer is measured in one round only
LONG_CALL_SECONDS = 0.3


@dataclass(frozen=True)
class Effort:
    """Rounds of a row and the least seconds of a contender in each; see `once` for long calls."""

    rounds: int
    layer_seconds: float
    net_seconds: float

    def seconds(self, work: str) -> float:
        """For this kind of row."""
        return self.layer_seconds if work == "layer" else self.net_seconds


FULL, QUICK = Effort(5, 0.03, 0.2), Effort(2, 0.01, 0.05)


def installed(peers: list[str]) -> tuple[list[str], list[str]]:
    """(peers that are there, a note for each that is not)."""
    missing = [p for p in peers if find_spec(PACKAGES[p]) is None]
    there = [p for p in peers if p not in missing]
    return there, [f"{p} is not installed and was left out" for p in missing]


def contenders(case: Case, peers: list[str]) -> list[str]:
    """The peers that do this kind of work."""
    if case.work == "train":
        return [p for p in peers if p in TRAINERS]
    if case.net == "dense":  # has no channels that could be last
        peers = [p for p in peers if p != "torch-nhwc"]
    if case.work == "infer" and find_spec("torch") is None:  # which exports the files
        peers = [p for p in peers if p not in EXPORTED]
    return [p for p in peers if p != "jax"]


def measure(case: Case, threads: int, peers: list[str], effort: Effort, crew: Crew) -> list[Row]:
    """The row of a case; of training steps a row of memory too.

    Raises ContenderError if results differ or ours fails; a peer that fails is left out with a
    note.
    """
    names = [OURS, *contenders(case, peers)]
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="striate-bench-") as folder:
        arguments = dict(case.arguments)
        jobs = {p: Job(p, case.work, case.net, arguments, threads, folder) for p in names}
        flops = prepare(case, jobs[OURS], names)
        if case.work == "train":  # memory is that of a new process, and JAX's threads are for life
            for peer in names:
                crew.drop(peer)
        _prepare(jobs, crew, notes)
        _compare(jobs)
        seconds, peak = _rounds(jobs, crew, threads, effort, effort.seconds(case.work))
    values = {peer: timing(s) for peer, s in seconds.items()}
    rows = [Row(case.section, case.title, threads, values, case.wanted, flops, peak, tuple(notes))]
    if case.work == "train":
        sizes = {p: float(crew.get(p).ask(do="rss")) for p in values if p in {OURS, *PYTORCH}}
        bytes_ = {peer: timing([size]) for peer, size in sizes.items()}
        rows.append(Row("memory", case.title, threads, bytes_, 1 / MEMORY_SHARE))
        for peer in names:
            crew.drop(peer)
    return rows


def _prepare(jobs: dict[str, Job], crew: Crew, notes: list[str]) -> None:
    """All at the same time; who fails leaves `jobs`."""
    for peer, job in jobs.items():
        crew.get(peer).prepare(job)
    for peer in list(jobs):
        try:
            crew.get(peer).receive()
        except ContenderError as error:
            crew.drop(peer)
            if peer == OURS:
                raise ContenderError(f"{peer}: {error}") from error
            del jobs[peer]
            notes.append(f"{peer} was left out: {error}")


def _compare(jobs: dict[str, Job]) -> None:
    ours = jobs[OURS].load(OURS)
    unit = float(ours.std()) or float(np.abs(ours).max())
    for peer, job in jobs.items():
        error = float(np.abs(job.load(peer).reshape(ours.shape) - ours).max()) / unit
        if not error <= AGREES:
            raise ContenderError(f"{peer} gives other results: {error:.1e} standard deviations off")


def _rounds(
    jobs: dict[str, Job], crew: Crew, threads: int, effort: Effort, least: float
) -> tuple[dict[str, list[float]], float]:
    """Seconds a call of each contender in each round; the machine's peak between them, median."""
    seconds: dict[str, list[float]] = {peer: [] for peer in jobs}
    peaks = []
    for peer in turns(list(jobs), effort.rounds):
        if hopeless(peer, seconds):
            continue
        time.sleep(SETTLE_SECONDS)
        seconds[peer].append(crew.get(peer).ask(do="time", seconds=least))
        if peer == OURS:
            peaks.append(crew.get(OURS).ask(do="peak", threads=threads, seconds=PEAK_SECONDS))
    return seconds, statistics.median(peaks)


def hopeless(peer: str, seconds: dict[str, list[float]]) -> bool:
    """Whether a peer is so slow that more rounds would only take time.

    Only calls that are long by themselves, for a short one may have met a busy moment.
    """
    rivals = [s for name, s in seconds.items() if name not in {peer, OURS}]
    if peer == OURS or not seconds[peer] or not rivals or not all(rivals):
        return False
    fastest = min(min(s) for s in rivals)
    return min(seconds[peer]) > max(LONG_CALL_SECONDS, HOPELESS * fastest)
