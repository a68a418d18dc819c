"""Contenders in a process of their own: no library's threads disturb another's.

`python -m bench.worker` reads one JSON object a line from standard input and answers with one:

    {"do": "prepare", "job": {…}}   make a call, store its result in the job's folder: `PEER.npy`
    {"do": "time", "seconds": 0.1}  repeat the call that long; the answer is seconds a call
    {"do": "rss"}                   the peak resident memory of this process in bytes
    {"do": "peak", "threads": 2, "seconds": 0.01}    multiply-adds on registers, GFLOP/s
    {"do": "epoch", "epoch": 0}     of the work "accuracy": {"seconds": …, "accuracy": …}

as {"value": …} or {"error": "…"}. It ends with its input, and takes no CPU time between lines.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bench.job import Call, Job
from bench.memory import peak_resident_bytes
from bench.timing import once

MODULES = {
    "striate": "ours",
    "torch": "pytorch",
    "torch-nhwc": "pytorch",
    "torch-compile": "pytorch",
    "onnxruntime": "exported",
    "openvino": "exported",
    "ncnn": "exported",
    "jax": "jax",
}


class Worker:
    """Answers one line after another."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.epoch: Callable[[int], dict[str, float]] | None = None

    def answer(self, line: dict[str, Any]) -> Any:
        """The value for one line."""
        what = line["do"]
        if what == "prepare":
            return self.prepare(Job(**line["job"]))
        if what == "time":
            assert self.call is not None
            return once(self.call, line["seconds"])
        if what == "rss":
            return peak_resident_bytes()
        if what == "peak":
            from striate import engine

            return engine.measure_peak(line["threads"], line["seconds"])
        if what == "epoch":
            assert self.epoch is not None
            return self.epoch(line["epoch"])
        raise ValueError(f"no such line: {line}")

    def prepare(self, job: Job) -> None:
        """Make the call of this job; the one before is given up first."""
        self.call = self.epoch = None
        module = import_module(f"bench.contenders.{MODULES[job.peer]}")
        if job.work == "accuracy":
            from bench.accuracy import epochs

            self.epoch = epochs(module.learner, job)
            return
        if job.work == "train":
            self.call, result = module.learner(job).call(job)
        else:
            self.call, result = module.infer(job)
        np.save(job.path(f"{job.peer}.npy"), result)


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")  # libraries may print on standard output
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = {"value": worker.answer(json.loads(line))}
        except Exception as error:  # noqa: BLE001 - a library may raise anything; the parent says so
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
