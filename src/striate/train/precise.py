"""Statistics of batch normalisation, computed anew once the weights have come to rest."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from striate.errors import ArgumentError
from striate.graph import Param
from striate.nn.layers_norm import BatchNorm2d
from striate.nn.module import Module
from striate.nn.tracing import as_input


def precise_batch_norm(net: Module, batches: Iterable[npt.ArrayLike]) -> Module:
    """Set the running statistics of every `BatchNorm2d` to the means over the given batches.

    In training they are moving averages, which lag behind the weights. Here, with mean μ_b and
    unbiased variance s²_b of batch b of n_b images,

        running_mean = Σ n_b · μ_b / Σ n_b
        running_var  = Σ n_b · (s²_b + (μ_b − running_mean)²) / Σ n_b

    summed in float64. Every layer normalises by the statistics of its batch meanwhile, as in
    training, and dropout is off. Frozen layers stay as they are. Wu, Johnson: Rethinking "batch" in
    BatchNorm, 2021, section 3.

    Args:
        net: its modes are as before afterwards.
        batches: images (n, c, h, w) of one height and width, as `net` takes them; several hundred
            images are enough, in batches like those of training.

    Returns: the net.

    Raises ArgumentError without batches, or for a layer with momentum 0.
    """
    layers = [m for m in net.modules() if isinstance(m, BatchNorm2d) and _runs(m)]
    found = [_Moments(layer) for layer in layers]
    modes = [(module, module._training) for module in net.modules()]
    net.eval()
    for layer in layers:
        layer.train()
    try:
        for batch in batches:
            x = as_input(batch)
            for moments in found:
                moments.clear()
            net(x)
            for moments in found:
                moments.add(len(x))
    except BaseException:
        for moments in found:
            moments.restore()
        raise
    finally:
        for module, mode in modes:  # parents first, so that each has its own in the end
            module.train(mode)
    if any(moments.images == 0 for moments in found):
        raise ArgumentError("precise_batch_norm needs at least one batch")
    for moments in found:
        moments.finish()
    return net


def _runs(layer: BatchNorm2d) -> bool:
    """Whether training changes the layer's running statistics."""
    return layer.track_running_stats and not layer.frozen


class _Moments:
    """Mean and variance of one layer's inputs so far, in float64."""

    def __init__(self, layer: BatchNorm2d) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        if layer.momentum == 0:
            raise ArgumentError("precise_batch_norm: a BatchNorm2d with momentum 0 keeps nothing")
        self.params: list[Param] = [
            layer.running_mean,
            layer.running_var,
            layer.num_batches_tracked,
        ]
        self.old = [np.array(param.data) for param in self.params]
        self.share = layer.momentum or 1.0  # None: the first batch counts whole
        self.images = 0
        self.mean = np.zeros(layer.num_features)
        self.squares = np.zeros(layer.num_features)  # Σ n_b · (s²_b + (μ_b − mean)²)

    def clear(self) -> None:
        """Start from 0, so that the batch leaves share · μ_b and share · s²_b."""
        for param in self.params:
            param.assign(np.zeros(param.shape, param.data.dtype))

    def add(self, images: int) -> None:
        """Take what a batch has left."""
        mean, var = (param.data.astype(np.float64) / self.share for param in self.params[:2])
        total = self.images + images
        away = mean - self.mean
        # Chan, Golub, LeVeque: the sum of squares about the new mean, from those about the old.
        self.squares += images * var + away**2 * (self.images * images / total)
        self.mean += away * (images / total)
        self.images = total

    def finish(self) -> None:
        """Write the statistics; the number of batches is as before."""
        for param, array in zip(
            self.params, (self.mean, self.squares / self.images, self.old[2]), strict=True
        ):
            param.assign(array)

    def restore(self) -> None:
        """Write back what was there."""
        for param, array in zip(self.params, self.old, strict=True):
            param.assign(array)
