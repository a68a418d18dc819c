"""PyTorch: eager on contiguous tensors, eager on channels-last tensors, and `torch.compile`."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from bench import nets
from bench.job import Array, Call, Job, Learner, Sgd, drop_nothing


def twin(job: Job) -> torch.nn.Module:
    """The net in torch.nn with the shared weights; raises RuntimeError if keys or shapes differ."""
    torch.set_num_threads(job.threads)
    layers: dict[str, Any] = {"conv": torch.nn.Conv2d, "dense": torch.nn.Linear}
    make = layers.get(job.net) or getattr(nets, job.net.replace("-", "_"))
    net: torch.nn.Module = make(**job.arguments)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in job.weights().items()})
    return net.to(memory_format=_memory(job))


def _memory(job: Job) -> torch.memory_format:
    return torch.contiguous_format if job.peer == "torch" else torch.channels_last


def _images(x: Array, job: Job) -> torch.Tensor:
    images = torch.from_numpy(x)
    return images.contiguous(memory_format=_memory(job)) if images.ndim == 4 else images


def _compile(what: Any) -> Any:
    """`torch.compile`; its loops ask for the number of threads when they run."""
    from torch._inductor import config

    torch._dynamo.reset()
    config.cpp.dynamic_threads = True
    config.freezing = True  # of inference: weights are packed once, batch norm is folded
    return torch.compile(what)


def infer(job: Job) -> tuple[Call, Array]:
    """A call of the net, or of a layer."""
    net, x = twin(job).eval(), _images(job.load("x"), job)
    if job.peer == "torch-compile":
        net = _compile(net)

    def call() -> torch.Tensor:
        with torch.no_grad() if job.peer == "torch-compile" else torch.inference_mode():
            return net(x)

    return call, call().contiguous().numpy()


def learner(job: Job, sgd: Sgd | None = None) -> Learner:
    """Zero the gradients, forward, cross entropy, backward, SGD.

    The two faster modes take the fused SGD, which is a native loop for each parameter.
    """
    net = drop_nothing(twin(job), torch.nn.Dropout).train()
    fused = job.peer != "torch"
    optimizer = torch.optim.SGD(net.parameters(), **(sgd or Sgd())._asdict(), fused=fused)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(net(x), y)

    run = _compile(loss_of) if job.peer == "torch-compile" else loss_of

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = run(*batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def predict(x: Array) -> Array:
        net.eval()
        with torch.no_grad():
            logits = net(_images(x, job)).numpy()
        net.train()
        return logits

    def set_rate(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    return Learner(lambda x, y: (_images(x, job), torch.from_numpy(y)), step, predict, set_rate)
