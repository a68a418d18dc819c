"""Weights of other makers into our nets: PyTorch's wrappers and prefixes, timm's names."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from striate.errors import ArgumentError, DTypeError, FormatError, ShapeError
from striate.io.names import other_names
from striate.io.pth import read_pth
from striate.io.safetensors import Arrays, read_safetensors
from striate.models import head
from striate.nn.module import Module
from striate.nn.state import LoadResult

Array = np.ndarray[Any, Any]

# Under which keys training scripts keep the weights in a checkpoint, the likeliest first.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "model_ema",
    "state_dict_ema",
)
# What DataParallel, torch.compile and Lightning write before every key.
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: str | os.PathLike[str], key: str | None = None) -> Arrays:
    """The named arrays of a file of weights: safetensors, or what `torch.save` wrote.

    Neither PyTorch nor any code of the file is needed or run.

    Args:
        path: `.safetensors`, `.pth`, `.pt`, `.bin`, `.ckpt` …; the content decides, not the name.
        key: where in a checkpoint the weights are, such as "ema"; default: the file itself if it
            is a state dict, else the first of `WRAPPERS` that it has.

    Returns: name → array; bfloat16 widened to float32, every other dtype as in the file. What a
    state dict holds beside tensors is left out.

    Raises:
        FormatError: the file is damaged, or holds no weights or anything but data.
        ArgumentError: there is no `key` in it.
        OSError: it cannot be opened.
    """
    with Path(path).open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":  # the header of safetensors is JSON, after its length
        if key is not None:
            raise ArgumentError(
                f"{path}: a safetensors file has no inner key {key!r}; leave it out"
            )
        return read_safetensors(path)[0]
    return _state_dict(path, read_pth(path), key)


def _state_dict(path: str | os.PathLike[str], found: Any, key: str | None) -> Arrays:
    """The dictionary of arrays in what a file holds."""
    if key is not None:
        inner = found.get(key) if isinstance(found, dict) else None
        if not isinstance(inner, dict):
            raise ArgumentError(f"{path}: there is no {key!r} with weights in it{_keys(found)}")
        found = inner
    for _ in range(4):  # a checkpoint in a checkpoint
        if not isinstance(found, dict):
            break
        arrays = {name: a for name, a in found.items() if isinstance(a, np.ndarray)}
        inner = next((found[w] for w in WRAPPERS if isinstance(found.get(w), dict)), None)
        if arrays and inner is None:
            return {str(name): array for name, array in arrays.items()}
        found = inner
    raise FormatError(f"{path}: holds no weights by name{_keys(found)}")


def _keys(found: Any) -> str:
    if not isinstance(found, dict):
        return ""
    return f"; it has {', '.join(str(k) for k in list(found)[:8])[:200] or 'nothing'}"


# ------------------------------------------------------------------ fitting names and shapes


def load_weights(
    net: Module,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    skip_head: bool | None = False,
    key: str | None = None,
) -> LoadResult:
    """Copy the weights of a file into a net: Striate's, PyTorch's, torchvision's or timm's.

    Prefixes that all keys share (`module.`, `_orig_mod.`, `model.`) are dropped, timm's names of
    VGG and MobileNetV2 and the old ones of torchvision's DenseNet are translated, and a dense
    layer may be stored as the convolution that it equals. float16 and bfloat16 are widened.

    Args:
        net: a net of `models.create`, or any other whose `state_dict` has the file's keys.
        path: see `read_weights`.
        strict: whether keys that only one side has are an error; `num_batches_tracked` may be
            missing.
        skip_head: keep the net's own last layer instead of the file's, for another number of
            classes; None: where the number differs.
        key: see `read_weights`.

    Returns: the missing and the unexpected keys; missing are also those of a head that was
    skipped, unexpected those of parts that a net is known to leave out (GoogLeNet's auxiliary
    heads), which are no error.

    Raises:
        ArgumentError: strict, and there are such keys.
        ShapeError: an array has another shape than the net's; nothing has been changed then.
        FormatError, OSError: see `read_weights`.
    """
    return fit_weights(net, read_weights(path, key), path, strict=strict, skip_head=skip_head)


def fit_weights(
    net: Module,
    arrays: Mapping[str, Array],
    source: str | os.PathLike[str],
    *,
    strict: bool = True,
    skip_head: bool | None = False,
) -> LoadResult:
    """`load_weights` of arrays that have been read; `source` is named in errors."""
    ours = dict(net._state())
    own = {name: param.shape for name, param in ours.items()}
    patterns: tuple[str, ...] = getattr(net, "unused_keys", ())
    state = match_names(own, arrays)
    unused = [name for name in state if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    state = {name: array for name, array in state.items() if name not in unused}
    last = head_of(net)
    if skip_head is None:
        skip_head = _other_classes(own, state, last)
    kept = [name for name in ours if skip_head and name.startswith(f"{last}.")]
    state |= {name: ours[name].data for name in kept}
    for name, array in state.items():
        if name in own and array.shape != own[name]:
            raise ShapeError(
                f"{source}: {name}: the net has shape {own[name]}, the file {array.shape}"
                f"{_head_hint(name, last, own[name], array.shape)}"
            )
    try:
        missing, unexpected = net.load_state_dict(state, strict=strict)
    except (ArgumentError, DTypeError) as error:
        raise type(error)(f"{source}: {error}") from error
    return LoadResult([*missing, *kept], [*unexpected, *unused])


def match_names(own: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Array]) -> Arrays:
    """The arrays under the net's names where they can be told, and in the net's shapes.

    Args:
        own: name → shape of the net.
        arrays: name → array of the file.
    """
    state = other_names(own, _without_prefixes(own, arrays))
    return {name: _in_shape(array, own.get(name)) for name, array in state.items()}


def _without_prefixes(own: Mapping[str, Any], arrays: Mapping[str, Array]) -> Arrays:
    state = dict(arrays)
    while state:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None or all(name.startswith(prefix) for name in own):
            break
        state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state


def _in_shape(array: Array, shape: tuple[int, ...] | None) -> Array:
    """A dense weight (m, k) and the kernel (m, c, h, w) with k = c·h·w hold the same numbers."""
    if shape is not None and {array.ndim, len(shape)} == {2, 4} and array.shape[0] == shape[0]:
        return array.reshape(shape) if array.size == np.prod(shape, dtype=np.int64) else array
    return array


def head_of(net: Module) -> str:
    """The path of the layer that gives the classes; "" for a net that has none."""
    try:
        return head(net)
    except ArgumentError:
        return ""


def _other_classes(own: Mapping[str, tuple[int, ...]], arrays: Arrays, last: str) -> bool:
    """Whether the head of the file differs from the net's in the number of classes alone."""
    return any(
        own[name][1:] == array.shape[1:] and own[name] != array.shape
        for name, array in arrays.items()
        if name in own and name.startswith(f"{last}.")
    )


def _head_hint(name: str, head: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> str:
    """What to do about a head for another number of classes."""
    if not name.startswith(f"{head}.") or ours[:1] == theirs[:1] or not ours or not theirs:
        return ""
    return (
        f"; its last layer is for {theirs[0]} classes, the net's for {ours[0]}: skip_head=True "
        "keeps the net's own last layer and loads the rest"
    )
