"""From spec to address: memory, then the cache on disk, then the compiler."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
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
_numbers = itertools.count()  # a name counts as used even when linking fails


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
            known = _link((_object(spec, *key),), (symbol(spec),))[0]
            _addresses[key] = known
        return known


def prepare(specs: Iterable[KernelSpec], processes: int) -> None:
    """Give all these kernels their addresses at once: loaded, compiled and linked together.

    `processes` says how many processes may share the compiling.
    """
    target = machine()
    with _lock:
        found = ((repr(spec), spec) for spec in specs)
        wanted = {name: spec for name, spec in found if (name, target) not in _addresses}
        if not wanted:
            return
        files = {identity: cache.key(identity, target) for identity in wanted}
        read = {identity: cache.read(file) for identity, file in files.items()}
        contents = {identity: content for identity, content in read.items() if content is not None}
        _counts["loaded"] += len(contents)
        missing = [identity for identity in wanted if identity not in contents]
        if missing:
            from striate.jit.crew import object_codes

            made = object_codes([wanted[identity] for identity in missing], target, processes)
            for identity, content in zip(missing, made, strict=True):
                contents[identity] = content
                _counts["compiled"] += 1
                cache.write(files[identity], content)
        names = [symbol(wanted[identity]) for identity in contents]
        places = _link(tuple(contents.values()), names)
        _addresses.update(
            ((identity, target), place) for identity, place in zip(contents, places, strict=True)
        )


def runner(spec: Runner) -> tuple[int, ...]:
    """Addresses of the native runner's functions, in the order of `Runner.functions`."""
    key = spec, machine()
    with _lock:
        if key not in _runners:
            _runners[key] = _link((_object(spec, repr(spec), key[1]),), spec.functions)
        return _runners[key]


def _object(spec: KernelSpec | Runner, identity: str, target: Machine) -> bytes:
    name = cache.key(identity, target)
    content = cache.read(name)
    if content is not None:
        _counts["loaded"] += 1
        return content
    from striate.jit.compile import kernel_code

    content = kernel_code(spec, target)
    _counts["compiled"] += 1
    cache.write(name, content)
    return content


def _link(contents: Sequence[bytes], names: Sequence[str]) -> tuple[int, ...]:
    """Addresses of the functions `names` of these object files."""
    global _linker
    binding = llvm()
    if _linker is None:
        _linker = binding.create_lljit_compiler()
    builder = binding.JITLibraryBuilder().add_current_process()
    for content in contents:
        builder.add_object_img(content)
    for name in names:
        builder.export_symbol(name)
    tracker = builder.link(_linker, f"{names[0]}_{next(_numbers)}")
    _alive.append(tracker)
    return tuple(int(tracker[name]) for name in names)
