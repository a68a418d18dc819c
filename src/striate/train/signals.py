"""Ctrl-C and SIGTERM as a request to stop after the present step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopSignals:
    """Context manager: note SIGINT and SIGTERM in `.received` instead of dying from them.

    A second signal is not held back: the handler from before is in place again, so a second
    Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python allows no
    handlers, nothing is changed. The handlers from before come back at the end.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, _Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's form
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            # None: the handler was set by C code, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
