"""Whole training steps: forward, loss, backward and SGD with momentum, on random data.

LeNet-BN as `striate.models.create("lenet-bn")` defines it, and the same net in `torch.nn`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import striate as st
from bench.nets import lenet_bn
from bench.timing import interleave


@dataclass(frozen=True)
class StepRow:
    """One line of the table; times in milliseconds."""

    work: str
    threads: int
    ours_ms: float
    ours_spread: tuple[float, float]
    torch_ms: float
    ratio: float
    loss_difference: float


def measure(threads: int, rounds: int, seconds: float, batch: int = 64) -> StepRow:
    """A step of LeNet-BN on 28×28 pictures, batch 64; the first losses are compared."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    y = rng.integers(0, 10, batch)
    theirs = lenet_bn().to(memory_format=torch.channels_last).train()
    ours = st.models.create("lenet-bn", num_classes=10, in_channels=1)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    step = st.compile_step(ours, optimizer=st.optim.SGD(lr=0.01, momentum=0.9))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    xt = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
    yt = torch.from_numpy(y)

    def torch_step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(theirs(xt), yt)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    difference = max(abs(step(x, y) - torch_step()) for _ in range(3))
    times = interleave({"ours": lambda: step(x, y), "torch": torch_step}, rounds, seconds)
    own, other = times["ours"], times["torch"]
    return StepRow(
        f"LeNet-BN 28×28, batch {batch}",
        threads,
        own.median * 1e3,
        (own.low * 1e3, own.high * 1e3),
        other.median * 1e3,
        other.median / own.median,
        difference,
    )
