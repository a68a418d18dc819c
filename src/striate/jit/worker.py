"""A process that compiles for another one: specs come in through a pipe, object files go out.

A message is its length in 8 bytes, then its bytes. A request is a pickled (spec, machine); an
answer begins with DONE, the object file after it, or is FAILED alone: the asking process then
compiles the kernel itself, and meets the error where it can be raised.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import IO

DONE, FAILED = b"\1", b"\0"
LENGTH_BYTES = 8
LONGEST = 1 << 28  # bytes; an object file has some 10 KiB


def send(stream: IO[bytes], content: bytes) -> None:
    """Write one message."""
    stream.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one message; None when the other side has closed the pipe, died, or speaks nonsense."""
    head = stream.read(LENGTH_BYTES)
    length = int.from_bytes(head, "little")
    if len(head) < LENGTH_BYTES or length > LONGEST:
        return None
    content = stream.read(length)
    return content if len(content) == length else None


def main() -> None:
    """Answer requests until the asking process closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the asking process, which ends us
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not lie between the answers
    from striate.jit.compile import kernel_code

    while (request := receive(sys.stdin.buffer)) is not None:
        try:
            # The request comes from the process that started this one.
            spec, machine = pickle.loads(request)  # noqa: S301
            answer = DONE + kernel_code(spec, machine)
        except Exception:  # noqa: BLE001  # the asking process meets it too, and raises it
            answer = FAILED
        send(answers, answer)
