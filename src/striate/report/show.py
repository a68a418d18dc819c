"""`show`: pictures of a batch, of a layer's kernels, of what a layer makes of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from striate.errors import ArgumentError, ShapeError
from striate.nn.layers_conv import Conv2d
from striate.nn.module import Module
from striate.pixels import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, Any]

INCHES = 1.1  # of a panel


def show(
    subject: Any,
    x: Any = None,
    *,
    layer: str | None = None,
    titles: Sequence[object] | None = None,
    most: int = 64,
    columns: int = 8,
) -> Figure:
    """Draw images, kernels or feature maps; notebooks display what is returned.

        st.show(x, titles=labels)          # a batch
        st.show(net, layer="conv1")        # the kernels of a convolution
        st.show(net, x, layer="layer1")    # what a layer makes of the first image of x

    Args:
        subject: images (N, C, H, W) with C of 1 or 3, `st.Pixels`, or a module.
        x: with a module: images (N, C, H, W), of which the first is taken.
        layer: with a module: the path of a layer. Default: the first convolution.
        titles: one text above each panel.
        most: panels at most.
        columns: panels in a row.

    Returns: a matplotlib figure. Images are spread from their least value (black) to their
    greatest (white), all panels alike. Kernels of 3 input channels are shown in colour, spread
    each by itself; of others each input channel is a panel, and so are feature maps: blue below 0,
    red above, white at 0, all panels alike.

    Raises: ShapeError for arrays that are no images; ArgumentError for a layer that is not there
    or has no kernels, and for counts below 1.
    """
    if most < 1 or columns < 1:
        raise ArgumentError(f"most and columns must be at least 1, got {most} and {columns}")
    if not isinstance(subject, Module):
        panels = _images(subject)[:most]
        low, high = float(panels.min()), float(panels.max())
        panels = (panels - low) / ((high - low) or 1.0)
        return _figure(list(panels), titles, columns, None)
    layer = layer or _first_convolution(subject)
    if x is not None:
        maps = np.asarray(subject.features(x[:1], [layer])[layer])
        if maps.ndim != 4:
            raise ShapeError(f"layer {layer!r} gives {maps.shape}, no maps (N, C, H, W)")
        panels = maps[0, :most]
        return _figure(list(panels), titles, columns, float(np.abs(panels).max()))
    module = subject.get_submodule(layer)
    if not isinstance(module, Conv2d):
        raise ArgumentError(
            f"layer {layer!r} is {module._get_name()}, which has no kernels to show"
        )
    weights = module.weight.data
    if weights.shape[1] == 3:
        kernels = [_spread(kernel.transpose(1, 2, 0)) for kernel in weights[:most]]
        return _figure(kernels, titles, columns, None)
    flat = weights.reshape(-1, *weights.shape[2:])[:most]
    return _figure(list(flat), titles, columns, float(np.abs(flat).max()))


def _images(subject: Any) -> Array:
    """(N, H, W, 1 or 3) of images (N, C, H, W)."""
    if isinstance(subject, Pixels):
        images = subject.samples.astype(np.float32)
    else:
        images = np.asarray(subject)
        if images.ndim != 4 or images.dtype.kind not in "biuf":
            raise ShapeError(
                f"show takes images (N, C, H, W), got {images.dtype} {images.shape}; "
                "add the batch axis to one image: x[None]"
            )
        images = images.astype(np.float32).transpose(0, 2, 3, 1)
    if images.shape[3] not in {1, 3} or not images.size:
        raise ShapeError(f"show takes images of 1 or 3 channels, got {images.shape[3]}")
    return images


def _first_convolution(net: Module) -> str:
    for path, module in net.named_modules():
        if isinstance(module, Conv2d):
            return path
    raise ArgumentError(f"{type(net).__name__} has no convolution; name a layer")


def _spread(values: Array) -> Array:
    """From 0 to 1."""
    low, high = values.min(), values.max()
    spread: Array = (values - low) / ((high - low) or 1.0)
    return spread


def _figure(
    panels: list[Array], titles: Sequence[object] | None, columns: int, limit: float | None
) -> Figure:
    """Panels in rows: colour or grey from 0 to 1, or with `limit` signed from −limit to limit."""
    from matplotlib.figure import Figure

    if titles is not None and len(titles) < len(panels):
        raise ArgumentError(f"there are {len(titles)} titles for {len(panels)} panels")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    high = INCHES * (1.25 if titles is not None else 1.0)
    figure = Figure(figsize=(INCHES * columns, high * rows), layout="constrained")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        if limit is None:
            shown = panel[:, :, 0] if panel.ndim == 3 and panel.shape[2] == 1 else panel
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
        else:
            axes.imshow(panel, cmap="RdBu_r", vmin=-limit or -1, vmax=limit or 1)
        axes.set_axis_off()
        if titles is not None:
            axes.set_title(str(titles[i]), fontsize=8)
    return figure
