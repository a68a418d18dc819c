"""Splitting one set of pictures in two, class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from striate.data._random import Use, check_seed, permutation
from striate.errors import ArgumentError


def split_stratified(
    labels: ArrayLike, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split pictures into training and validation with the same share of every class.

    Args:
        labels: (N,) integers ≥ 0.
        fraction: share of validation pictures, between 0 and 1 (both excluded). Each class
            gives its share, rounded; a class of two pictures or more has at least one on each
            side, and a single picture is for training.
        seed: integer ≥ 0. How a class is split depends on it, on the class's number and on how
            many pictures the class has, so another class may grow or come without effect.

    Returns:
        (train, val): int64 positions in `labels`, each in ascending order.

    Raises:
        ArgumentError: an argument is out of range.
    """
    check_seed(seed)
    given = np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iu" or (given.size and given.min() < 0):
        raise ArgumentError(f"labels are {given.dtype} {given.shape}; expected integers ≥ 0 (N,)")
    if not 0 < fraction < 1:
        raise ArgumentError(f"fraction is {fraction!r}; it must lie between 0 and 1")
    train: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    val: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    for label in np.unique(given):
        members = np.flatnonzero(given == label)
        count = len(members)
        # round half up, then 1 ≤ held ≤ count − 1; a single picture gives 0
        held = min(max(int(count * fraction + 0.5), 1), count - 1)
        members = members[permutation(count, Use.SPLIT, seed, int(label))]
        val.append(members[:held])
        train.append(members[held:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))
