"""Weights by key: what `load_state_dict` does."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np

from striate.errors import ArgumentError, ShapeError
from striate.graph import Param


class LoadResult(NamedTuple):
    """What `load_state_dict` found: keys that only the net has, and keys that only the dict has."""

    missing: list[str]
    unexpected: list[str]


def load_state(
    name: str, own: Mapping[str, Param], state: Mapping[str, Any], strict: bool
) -> LoadResult:
    """Copy arrays into the parameters of a net called `name`; see `Module.load_state_dict`."""
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    if strict and (missing or unexpected):
        raise ArgumentError(
            f"state_dict does not fit {name}: missing {_some(missing)}; "
            f"unexpected {_some(unexpected)} (strict=False takes what fits)"
        )
    arrays = {key: np.asarray(state[key]) for key in own if key in state}
    for key, array in arrays.items():
        if array.shape != own[key].shape:
            raise ShapeError(
                f"{key}: the net has shape {own[key].shape}, the state_dict {array.shape}"
            )
    for key, param in own.items():
        if key in arrays:
            param.assign(arrays[key])
        elif key.endswith("num_batches_tracked"):
            param.assign(0)
    return LoadResult(missing, unexpected)


def _some(keys: list[str], limit: int = 5) -> str:
    """The first few keys, or "none"."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return (", ".join(keys[:limit]) or "none") + more


class Signature:
    """A long key that is hashed once: nets of many layers are looked up at every call."""

    __slots__ = ("_hash", "key")

    def __init__(self, key: Hashable) -> None:
        self.key, self._hash = key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Signature) and self.key == other.key)
