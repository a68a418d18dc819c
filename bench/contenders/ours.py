"""Striate. Of a single layer the kernel's steps are timed, not the reorder at the borders."""

from __future__ import annotations

from typing import Any

import numpy as np

import striate as st
from bench.job import Array, Call, Job, Learner, Sgd, drop_nothing
from striate import engine
from striate.engine.layout import Reorder
from striate.nn.tracing import trace_module


def _net(job: Job) -> st.nn.Module:
    st.set_num_threads(job.threads)
    layers: dict[str, Any] = {"conv": st.nn.Conv2d, "dense": st.nn.Linear}
    with st.nn.init.skipped():
        if job.net in layers:
            net = layers[job.net](**job.arguments)
        else:
            net = st.models.create(job.net, **job.arguments)
    net.load_state_dict(job.weights())
    return net


def infer(job: Job) -> tuple[Call, Array]:
    """A call of the net; of the work "layer" the kernels alone.

    Images are NHWC inside programs, so a program of one layer has a reorder on each side, which
    no layer inside a net has: those steps are left out. Weights are packed once, as in inference.
    """
    net, x = _net(job).eval(), job.load("x")
    if job.work == "infer":
        return lambda: net(x), net(x)
    executable = engine.build(trace_module(net, [x.shape], training=False).graph)
    (result,) = executable(x)
    kernels, steps = [], 0
    for task in executable.program.tasks:
        if not isinstance(task.node.op, Reorder) and task.steps:
            kernels.append((steps, steps + len(task.steps)))
        steps += len(task.steps)
    _, run = executable.step_by_step(x)

    def call() -> None:
        for first, stop in kernels:
            run(first, stop)

    return call, result


def learner(job: Job, sgd: Sgd | None = None) -> Learner:
    """The compiled step."""
    net, sgd = drop_nothing(_net(job), st.nn.Dropout), sgd or Sgd()
    step = st.compile_step(net, optimizer=st.optim.SGD(**sgd._asdict()))

    def set_rate(lr: float) -> None:
        step.lr = lr

    return Learner(
        load=lambda x, y: (x, y),
        step=lambda batch: float(step(*batch)),
        predict=lambda x: np.asarray(net.eval()(x)),
        set_rate=set_rate,
    )
