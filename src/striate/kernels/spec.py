"""What every kernel generator is: a frozen dataclass that emits one function."""

from __future__ import annotations

import hashlib
from typing import Protocol

from striate.arith.machine import Machine


class KernelSpec(Protocol):
    """A frozen dataclass whose repr says all that shapes the code."""

    def emit(self, machine: Machine) -> str:
        """LLVM IR text with one exported function, named `symbol(self)`."""
        ...


def symbol(spec: KernelSpec) -> str:
    """Name of the kernel's function: its family and a digest of its spec."""
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:16]
    return f"{type(spec).__name__.lower()}_{digest}"
