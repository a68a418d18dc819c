"""Layers with state that is not trained: batch normalisation and dropout."""

from __future__ import annotations

import functools

import numpy as np

import striate.functional as F
from striate.errors import ArgumentError, ShapeError, TraceError
from striate.graph import Param, Trace, current_trace
from striate.graph.ops.random import RandomUniform
from striate.nn import init
from striate.nn.layers_conv import positive
from striate.nn.module import Module, Parameter, Tensor

INT31 = 2**31 - 1


def _trace() -> Trace:
    trace = current_trace()
    if trace is None:
        raise TraceError("a layer with state runs only inside a net that is called or trained")
    return trace


class BatchNorm2d(Module):
    """Each channel of images (n, num_features, h, w) with mean 0 and deviation 1, then scaled.

    y = (x − mean) / √(var + eps) · weight + bias

    In training mean and var are those of the batch, var divided by the count m = n·h·w, and
    running ← (1 − momentum) · running + momentum · batch, there with var divided by m − 1. In
    evaluation the running ones are used.

    Args:
        num_features: channels.
        eps: keeps the root away from 0; above 0.
        momentum: weight of the new value; None for the plain mean of all batches so far.
        affine: whether there are `weight` and `bias`.
        bias: with `affine`, whether there is `bias`.
        track_running_stats: False to use the batch's statistics in evaluation too.

    Attributes:
        frozen: set by `Module.freeze`: in training too the running statistics are used, and stay.
        weight, bias: (num_features,), at first 1 and 0, or None.
        running_mean, running_var: (num_features,), at first 0 and 1, or None.
        num_batches_tracked: () int32, batches seen in training, or None.

    Raises: ArgumentError for arguments outside these; in training ShapeError, naming the layer, if
    m is 1, for one value has no deviation.
    """

    weight: Param | None
    bias: Param | None
    running_mean: Param | None
    running_var: Param | None
    num_batches_tracked: Param | None
    factor: Param

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = positive("num_features", num_features)
        if not eps > 0:
            raise ArgumentError(f"eps must be above 0, got {eps}")
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.frozen = False
        self.weight = Parameter(init.ones((num_features,))) if affine else None
        self.bias = Parameter(init.zeros((num_features,))) if affine and bias else None
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            self.register_buffer("running_mean", init.zeros((num_features,)))
            self.register_buffer("running_var", init.ones((num_features,)))
            self.register_buffer("num_batches_tracked", 0)
            # momentum of the present batch: fixed, or 1 / number of batches
            self.register_buffer("factor", np.float32(momentum or 0.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, num_features, h, w) → the same shape."""
        if x.ndim == 4 and x.shape[1] != self.num_features:
            raise ShapeError(
                f"BatchNorm2d has num_features={self.num_features}, got images of {x.shape[1]} "
                f"channels, shape {x.shape}"
            )
        training = self.training and not self.frozen
        if not training and self.track_running_stats:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        tracked = training and self.track_running_stats
        if tracked:
            _trace().host_updates.append(self._count)
        return F.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            training=True,
            momentum=self.factor.as_value() if tracked and self.momentum is None else self.momentum,
            eps=self.eps,
        )

    def _count(self) -> None:
        """Before each run: one more batch."""
        if self.num_batches_tracked is not None:
            count = int(self.num_batches_tracked.data) + 1
            self.num_batches_tracked.assign(count)
            if self.momentum is None:
                self.factor.assign(1.0 / count)

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.affine and self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class SyncBatchNorm(BatchNorm2d):
    """`BatchNorm2d` under the name that PyTorch gives it for training in several processes.

    Striate trains in one process, whose threads share every batch, so nothing is left to do.
    `process_group` is taken for the sake of code written for PyTorch.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: object = None,  # noqa: ARG002 - there is one process
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: object = None) -> Module:
        """`module` with every `BatchNorm2d` inside replaced by a `SyncBatchNorm` of its arrays."""
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child, process_group))
        if type(module) is not BatchNorm2d:
            return module
        new = cls(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
            process_group,
        )
        for name, param in [*module._parameters.items(), *module._buffers.items()]:
            setattr(new, name, param)
        if module.bias is None:
            new.bias = None
        new.frozen = module.frozen
        return new.train(module.training)


class Dropout(Module):
    """In training every element is 0 with probability `p`, else divided by 1 − p.

    Args:
        p: 0 … 1.
        inplace: has no effect; for code written for PyTorch.
        seed: of the layer's own generator; default: drawn from `striate.manual_seed`'s.

    The numbers are a function of seed and number of the run, so they do not depend on threads, and
    a checkpoint that holds the key goes on with the same ones.

    Raises ArgumentError for another `p`.
    """

    key: Param

    def __init__(self, p: float = 0.5, inplace: bool = False, *, seed: int | None = None) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ArgumentError(f"{type(self).__name__}: p must lie in 0..1, got {p}")
        self.p = p
        self.inplace = inplace
        first = init.draw_seed() if seed is None else seed & INT31
        self.register_buffer("key", np.array([first, 0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same shape."""
        if not self.training or self.p == 0:
            return x
        trace = _trace()
        use = sum(getattr(u, "args", ())[:1] == (self,) for u in trace.host_updates)
        # A second use in one forward has a key of its own, made from the first.
        key = self.key if use == 0 else Param("key", self.key.data, trainable=False)
        trace.host_updates.append(functools.partial(Dropout._renew, self, key, use))
        kept = RandomUniform(self._fates(x.shape))(key) >= self.p
        return x * (kept * (1 / (1 - self.p) if self.p < 1 else 0.0))

    def _fates(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One random number decides over each element of this shape, which `shape` broadcasts."""
        return shape

    def _renew(self, key: Param, use: int) -> None:
        """Before each run: the next key."""
        seed, run = (int(v) for v in self.key.data)
        if use == 0:
            key.assign((seed, (run + 1) & INT31))
        else:
            key.assign(((seed + use * 0x9E3779B1) & INT31, run))

    def extra_repr(self) -> str:
        """As in PyTorch."""
        return f"p={self.p}"


class StochasticDepth(Dropout):
    """In training each sample of the batch is 0 with probability `p`, else divided by 1 − p.

    Put on the branch of a residual block it leaves the block out: x + depth(block(x)). Huang, Sun,
    Liu, Sedra, Weinberger: Deep networks with stochastic depth, 2016.

    Args:
        p: 0 … 1.
        mode: "row": for each sample by itself; "batch": for all together.
        seed: as of `Dropout`.

    Raises ArgumentError for another `p` or `mode`.
    """

    def __init__(self, p: float, mode: str = "row", *, seed: int | None = None) -> None:
        super().__init__(p, seed=seed)
        if mode not in {"row", "batch"}:
            raise ArgumentError(f"StochasticDepth: mode must be 'row' or 'batch', got {mode!r}")
        self.mode = mode

    def _fates(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        rows = shape[0] if self.mode == "row" else 1
        return (rows, *(1,) * (len(shape) - 1))

    def extra_repr(self) -> str:
        """As in torchvision."""
        return f"p={self.p}, mode={self.mode}"
