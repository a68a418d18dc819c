"""Checks that every function on images shares."""

from __future__ import annotations

from striate.errors import ArgumentError, ShapeError
from striate.graph import Value


def image(function: str, x: Value, name: str = "x") -> tuple[int, int]:
    """Height and width of an image (N, C, H, W). Raises ShapeError for other shapes."""
    if x.ndim == 3:
        raise ShapeError(
            f"{function}: {name} has shape {x.shape}, but images are (N, C, H, W); "
            f"add the batch axis with {name}[None]"
        )
    if x.ndim != 4:
        raise ShapeError(f"{function}: {name} must be images (N, C, H, W), got shape {x.shape}")
    return x.shape[2], x.shape[3]


def vector(function: str, name: str, v: Value, size: int) -> Value:
    """A per-channel vector (C,) as (1, C, 1, 1). Raises ShapeError."""
    if v.shape != (size,):
        raise ShapeError(f"{function}: {name} must have shape ({size},), got {v.shape}")
    return v.reshape(1, size, 1, 1)


def choice(function: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ArgumentError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ArgumentError(
            f"{function}: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
        )
