"""From spec to address: memory, then the cache on disk, then the compiler."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from striate.arith.machine import Machine
from striate.ir.runner import Runner
from striate.jit import cache
from striate.jit.target import llvm, machine
from striate.kernels.spec import KernelSpec, symbol


@dataclass(frozen=True)
class CacheInfo:
    """Kernels compiled, loaded from disk and kept in this process."""

    compiled: int
    loaded: int
    kept: int


_lock = threading.RLock()
_addresses: dict[tuple[str, Machine], int] = {}
_runners: dict[tuple[Runner, Machine], tuple[int, ...]] = {}
_alive: list[Any] = []
_counts = {"compiled": 0, "loaded": 0}
_linker: Any = None


def cache_info() -> CacheInfo:
    """Counts of this process so far."""
    return CacheInfo(_counts["compiled"], _counts["loaded"], len(_addresses))


def address(spec: KernelSpec) -> int:
    """Address of the kernel; it stays valid for the life of the process."""
    target = machine()
    known = _addresses.get((repr(spec), target))
    if known is not None:
        return known
    with _lock:
        known = _addresses.get((repr(spec), target))
        if known is None:
            known = _link(_object(spec, target), (symbol(spec),))[0]
            _addresses[repr(spec), target] = known
        return known


def runner(spec: Runner) -> tuple[int, ...]:
    """Addresses of the native runner's functions, in the order of `Runner.functions`."""
    key = spec, machine()
    with _lock:
        if key not in _runners:
            _runners[key] = _link(_object(*key), spec.functions)
        return _runners[key]


def _object(spec: KernelSpec | Runner, target: Machine) -> bytes:
    name = cache.key(repr(spec), target)
    content = cache.read(name)
    if content is not None:
        _counts["loaded"] += 1
        return content
    from striate.jit.compile import object_code

    content = object_code(spec.emit(target), target)
    _counts["compiled"] += 1
    cache.write(name, content)
    return content


def _link(content: bytes, names: tuple[str, ...]) -> tuple[int, ...]:
    global _linker
    binding = llvm()
    if _linker is None:
        _linker = binding.create_lljit_compiler()
    builder = binding.JITLibraryBuilder().add_object_img(content).add_current_process()
    for name in names:
        builder.export_symbol(name)
    tracker = builder.link(_linker, f"{names[0]}_{len(_alive)}")
    _alive.append(tracker)
    return tuple(int(tracker[name]) for name in names)
