"""From spec to address: memory, then the cache on disk, then the compiler."""

from __future__ import annotations

import threading
from collections.abc import Iterable
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
_ready: dict[tuple[str, Machine], bytes] = {}  # compiled beforehand, not yet linked
_runners: dict[tuple[Runner, Machine], tuple[int, ...]] = {}
_alive: list[Any] = []
_counts = {"compiled": 0, "loaded": 0}
_linker: Any = None


def cache_info() -> CacheInfo:
    """Counts of this process so far."""
    return CacheInfo(_counts["compiled"], _counts["loaded"], len(_addresses))


def address(spec: KernelSpec) -> int:
    """Address of the kernel; it stays valid for the life of the process."""
    key = repr(spec), machine()
    known = _addresses.get(key)
    if known is not None:
        return known
    with _lock:
        known = _addresses.get(key)
        if known is None:
            known = _link(_object(spec, *key), (symbol(spec),))[0]
            _addresses[key] = known
        return known


def prepare(specs: Iterable[KernelSpec], processes: int) -> None:
    """Compile the kernels that are neither in this process nor in the cache, all at once.

    `processes` says how many processes may share the work. `address` links what is ready.
    """
    target = machine()
    with _lock:
        known = {identity for identity, at in (*_addresses, *_ready) if at == target}
        wanted = {identity: spec for spec in specs if (identity := repr(spec)) not in known}
        names = {identity: cache.key(identity, target) for identity in wanted}
        missing = [identity for identity, name in names.items() if not cache.has(name)]
        if not missing:
            return
        from striate.jit.crew import object_codes

        contents = object_codes([wanted[identity] for identity in missing], target, processes)
        for identity, content in zip(missing, contents, strict=True):
            _ready[identity, target] = content
            _counts["compiled"] += 1
            cache.write(names[identity], content)


def runner(spec: Runner) -> tuple[int, ...]:
    """Addresses of the native runner's functions, in the order of `Runner.functions`."""
    key = spec, machine()
    with _lock:
        if key not in _runners:
            _runners[key] = _link(_object(spec, repr(spec), key[1]), spec.functions)
        return _runners[key]


def _object(spec: KernelSpec | Runner, identity: str, target: Machine) -> bytes:
    content = _ready.pop((identity, target), None)
    if content is not None:
        return content
    name = cache.key(identity, target)
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
