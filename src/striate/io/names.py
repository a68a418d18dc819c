"""Names that others give to the layers of our networks: timm's, and older torchvision's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def other_names(own: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    """The arrays under the net's names, where a rule below gives one that the net has.

    Args:
        own: the names of the net.
        arrays: name → array of the file; names that the net has stay.
    """
    translated: Arrays = {}
    for name, array in arrays.items():
        candidates = [name] if name in own else [rule(name) for rule in _RULES]
        translated[next((c for c in candidates if c in own), name)] = array
    return translated


def _densenet(name: str) -> str:
    """torchvision before 0.3: `…denselayer1.norm.1.weight` is `…denselayer1.norm1.weight`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def _timm_vgg(name: str) -> str:
    """The first two dense layers are convolutions there, of 7×7 and 1×1 windows."""
    for theirs, ours in (
        ("pre_logits.fc1.", "classifier.0."),
        ("pre_logits.fc2.", "classifier.3."),
        ("head.fc.", "classifier.6."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


# MobileNetV2: blocks in each of timm's stages; torchvision counts them in a row, from features.1.
_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
_MOBILENET_ENDS = {
    "conv_stem": "features.0.0",
    "bn1": "features.0.1",
    "conv_head": "features.18.0",
    "bn2": "features.18.1",
    "classifier": "classifier.1",
}
_MOBILENET_FIRST = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_MOBILENET_OTHERS = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "conv_pwl": "2",
    "bn3": "3",
}


def _timm_mobilenet(name: str) -> str:
    """timm's mobilenetv2_100; the first block has no expansion, so its layers are fewer."""
    layer, _, rest = name.partition(".")
    if layer in _MOBILENET_ENDS:
        return f"{_MOBILENET_ENDS[layer]}.{rest}"
    found = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name)
    if found is None or int(found[1]) >= len(_MOBILENET_STAGES):
        return name
    stage, block = int(found[1]), int(found[2])
    inner = (_MOBILENET_OTHERS if stage else _MOBILENET_FIRST).get(found[3])
    if inner is None or block >= _MOBILENET_STAGES[stage]:
        return name
    return f"features.{1 + sum(_MOBILENET_STAGES[:stage]) + block}.conv.{inner}.{found[4]}"


_RULES: tuple[Callable[[str], str], ...] = (_densenet, _timm_vgg, _timm_mobilenet)
