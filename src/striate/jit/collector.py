"""Python's collector of cycles, which rests while many records are made that all stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Inside, nobody looks for cycles: planning and emitting make records by the thousand.

    Up to a sixth of their time would go into walking over all that the process holds, for hardly
    any garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
