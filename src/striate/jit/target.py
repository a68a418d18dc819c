"""Which machine kernels are made for: the host, or what STRIATE_TARGET names."""

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
    binding = llvm()
    features = binding.get_host_cpu_features()
    native = _native_isa(features, binding.get_process_triple())
    isa = ALIASES.get(forced, forced) or native
    if isa not in ISAS:
        known = ", ".join(sorted({*ISAS, *ALIASES}))
        raise ArgumentError(f"STRIATE_TARGET={forced!r} is not a target; known: {known}")
    l1, l2 = _cache_bytes("index0", 32 * 1024), _cache_bytes("index2", 512 * 1024)
    l3 = _cache_bytes("index3", 8 * l2)
    if isa == native:
        lanes, registers, fma = ISAS[isa]
        cpu, triple = binding.get_host_cpu_name(), binding.get_process_triple()
        return Machine(isa, triple, cpu, features.flatten(), lanes, registers, fma, l1, l2, l3)
    order = ["sse2", "avx2", "avx512"]
    if native not in order or isa not in order or order.index(isa) > order.index(native):
        raise ArgumentError(f"STRIATE_TARGET={forced!r} cannot run here: this machine has {native}")
    return replace(reference_machine(isa), l1_bytes=l1, l2_bytes=l2, l3_bytes=l3)


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
