"""The registry: networks by name, with named options, remembering how each was made."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from striate.errors import ArgumentError
from striate.nn.module import Module

Builder = TypeVar("Builder", bound=Callable[..., Module])

_builders: dict[str, Callable[..., Module]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorator: make a function that returns a net known as `name`.

    Capitals, hyphens, underscores and dots do not count when the name is looked up: MobileNetV2 is
    mobilenet_v2, and vgg11_bn is vgg11-bn.

    The function takes keyword arguments with defaults, `num_classes` and `in_channels` among
    them, and every value must be one that JSON can hold, for it is written into model files.
    Raises ArgumentError if the name is taken.
    """
    if _key(name) in map(_key, _builders):
        raise ArgumentError(f"a model named {name!r} is registered already")

    def add(builder: Builder) -> Builder:
        _builders[name] = builder
        return builder

    return add


def create(name: str, **arguments: Any) -> Module:
    """A new net with seeded initial weights (see `striate.manual_seed`), in training mode.

    Args:
        name: one of `list_models()`; capitals, hyphens, underscores and dots do not count.
        arguments: `num_classes`, `in_channels` and the model's own options, such as `stem`; what is
            left out or None has the model's default.

    Returns: the net; its `.arch` is `{"name": name, "arguments": {…}}` with every option resolved.

    Raises:
        ArgumentError: unknown name (with the nearest match), unknown option, or a bad value.
    """
    name = canonical(name)
    resolved = options(name)
    for argument in arguments:
        if argument not in resolved:
            raise ArgumentError(
                f"model {name!r} has no option {argument!r}{_nearest(argument, [*resolved])}"
            )
    resolved.update({key: value for key, value in arguments.items() if value is not None})
    for key in ("num_classes", "in_channels"):
        if type(resolved[key]) is not int or resolved[key] < 1:
            raise ArgumentError(
                f"model {name!r}: {key} must be a positive int, got {resolved[key]!r}"
            )
    net = _builders[name](**resolved)
    net.arch = {"name": name, "arguments": resolved}
    return net


def options(name: str) -> dict[str, Any]:
    """The arguments that `create` takes for this model, with their defaults.

    Raises ArgumentError, with the nearest match, for an unknown name.
    """
    parameters = inspect.signature(_builders[canonical(name)]).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def canonical(name: str) -> str:
    """The name under which a model is registered, from any spelling of it.

    Raises ArgumentError, with the nearest match, for an unknown name.
    """
    found = {_key(known): known for known in _builders}.get(_key(name))
    if found is None:
        raise ArgumentError(f"no model is named {name!r}{_nearest(name, list_models())}")
    return found


def _key(name: str) -> str:
    """What counts in a name."""
    return name.lower().translate(str.maketrans("", "", "-_."))


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered models that match a shell pattern such as "res*", sorted."""
    return sorted(fnmatch.filter(_builders, pattern))


def _nearest(word: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"
