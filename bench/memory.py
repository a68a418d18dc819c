"""Peak resident memory of this process."""

from __future__ import annotations

import re
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def high_water(status: str) -> int:
    """Bytes of the line `VmHWM: … kB` of a /proc/PID/status; raises ValueError without one."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise ValueError("no line VmHWM")
    return 1024 * int(found[1])


def peak_resident_bytes() -> int:
    """The largest resident set since this process started.

    Linux says it in /proc. `ru_maxrss` is only for systems without: on Linux a program that was
    started by fork and exec inherits the figure of its parent.
    """
    if STATUS.exists():
        return high_water(STATUS.read_text())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
