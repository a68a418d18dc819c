"""Which machine kernels are made for: the host, or what STRIATE_TARGET names.

`STRIATE_TARGET=avx2` leaves instructions out. `STRIATE_TARGET=avx512-shape` keeps the host's
instructions and takes the other's vectors and register tiles, which LLVM then splits to fit: the
same sums in the same order as on such a machine, slowly. So the code paths of a processor that is
not at hand are run and tested, all but LLVM's own choice of its instructions.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

from striate.arith.machine import ISAS, Machine
from striate.errors import ArgumentError

# CPU names that stand for an instruction set when it is forced, or when another CPU is emitted.
REFERENCE_CPU = {
    "avx512": "skylake-avx512",
    "avx2": "haswell",
    "sse2": "x86-64",
    "neon": "cortex-a72",
}
TRIPLE = {"neon": "aarch64-unknown-linux-gnu"}
ALIASES = {"baseline": "sse2"}
SHAPE = "-shape"


@functools.lru_cache(maxsize=1)
def llvm() -> Any:
    """`llvmlite.binding`, with the native target initialised once."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@functools.lru_cache(maxsize=1)
def llvm_for_every_machine() -> Any:
    """`llvmlite.binding`, with the targets of all other machines too."""
    binding = llvm()
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return binding


def reference_machine(isa: str) -> Machine:
    """A typical machine of one instruction set; it need not be the one that runs this code."""
    lanes, registers, fma = ISAS[isa]
    triple = TRIPLE.get(isa) or llvm().get_process_triple()
    return Machine(isa, triple, REFERENCE_CPU[isa], "", lanes, registers, fma)


def _native_isa(features: dict[str, bool], triple: str) -> str:
    if triple.startswith(("aarch64", "arm64")):
        return "neon"
    if all(features.get(f) for f in ("avx512f", "avx512vl", "avx512bw", "avx512dq", "fma")):
        return "avx512"
    if features.get("avx2") and features.get("fma"):
        return "avx2"
    return "sse2"


@functools.lru_cache(maxsize=8)
def _machine(forced: str) -> Machine:
    host = _host()
    named = forced.removesuffix(SHAPE)
    isa = ALIASES.get(named, named) if forced else host.isa
    if isa not in ISAS:
        known = ", ".join(sorted({*ISAS, *ALIASES}))
        raise ArgumentError(
            f"STRIATE_TARGET={forced!r} is not a target; known: {known}, each also with {SHAPE!r}"
        )
    if forced.endswith(SHAPE):
        return _shaped(host, isa, forced)
    if isa == host.isa:
        return host
    order = ["sse2", "avx2", "avx512"]
    if host.isa not in order or isa not in order or order.index(isa) > order.index(host.isa):
        hint = f"; {isa + SHAPE!r} computes what it would, slowly" if host.fma else ""
        raise ArgumentError(
            f"STRIATE_TARGET={forced!r} cannot run here: this machine has {host.isa}{hint}"
        )
    l1, l2, l3 = host.l1_bytes, host.l2_bytes, host.l3_bytes
    return replace(reference_machine(isa), l1_bytes=l1, l2_bytes=l2, l3_bytes=l3)


def _shaped(host: Machine, isa: str, forced: str) -> Machine:
    """The host's instructions with the vectors and register tiles of `isa`."""
    lanes, registers, fma = ISAS[isa]
    if fma and not host.fma:
        raise ArgumentError(
            f"STRIATE_TARGET={forced!r} cannot run here: this machine has {host.isa}, "
            "without fused multiply-add"
        )
    return replace(host, isa=isa, lanes=lanes, registers=registers, fma=fma)


def _host() -> Machine:
    """The machine that runs this code, with all that it has."""
    binding = llvm()
    features, triple = binding.get_host_cpu_features(), binding.get_process_triple()
    isa = _native_isa(features, triple)
    lanes, registers, fma = ISAS[isa]
    l2 = _cache_bytes("index2", 512 * 1024)
    return Machine(
        isa,
        triple,
        binding.get_host_cpu_name(),
        features.flatten(),
        lanes,
        registers,
        fma,
        l1_bytes=_cache_bytes("index0", 32 * 1024),
        l2_bytes=l2,
        l3_bytes=_cache_bytes("index3", 8 * l2),
    )


def machine() -> Machine:
    """The machine that kernels are made for in this process."""
    return _machine(os.environ.get("STRIATE_TARGET", "").strip().lower())


def _cache_bytes(index: str, default: int) -> int:
    """Size of a data cache as Linux tells it; `default` where it does not."""
    try:
        with open(f"/sys/devices/system/cpu/cpu0/cache/{index}/size") as file:
            text = file.read().strip()
    except OSError:
        return default
    factor = {"K": 1024, "M": 1024 * 1024}.get(text[-1:], 1)
    digits = text.rstrip("KM")
    return int(digits) * factor if digits.isdigit() else default
