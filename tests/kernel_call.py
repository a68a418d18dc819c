"""Run a kernel by hand, as the runner does: a table of addresses, a table of sizes, every part."""

import ctypes

import numpy as np
import pytest

from striate.errors import ArgumentError
from striate.jit import compile as compiler
from striate.jit import load, target

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)


def _runs_here(isa, monkeypatch):
    monkeypatch.setenv("STRIATE_TARGET", isa)
    try:
        target.machine()
    except ArgumentError:
        return False
    return True


def runnable():
    """Instruction sets that this machine can run, the native one first."""
    with pytest.MonkeyPatch.context() as patch:
        return [isa for isa in ("avx512", "avx2", "sse2", "neon") if _runs_here(isa, patch)]


@pytest.fixture(params=runnable())
def isa(request, monkeypatch):
    """Runs a test once for each instruction set of this machine, without the cache on disk."""
    monkeypatch.setenv("STRIATE_TARGET", request.param)
    monkeypatch.setenv("STRIATE_CACHE", "off")
    return request.param


def call(spec, buffers, sizes, parts=1):
    """Run all parts of the kernel one after another; arrays are written in place.

    `buffers` are C-contiguous arrays in the order of the kernel's slots, `sizes` integers.
    """
    for array in buffers:
        assert array.flags.c_contiguous
        assert array.dtype in {np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.uint8)}
    addresses = np.array([array.ctypes.data for array in buffers], dtype=np.uint64)
    table = np.array(sizes, dtype=np.int64)
    kernel = _KERNEL(load.address(spec))
    for part in range(parts):
        kernel(addresses.ctypes.data, table.ctypes.data, part, parts)


def assembly(spec, isa):
    """Assembly text of the kernel for a typical machine of `isa`, which need not run here."""
    machine = target.reference_machine(isa)
    return compiler.assembly(spec.emit(machine), machine)


def instructions(text):
    """The instructions of an assembly text, one (mnemonic, operands) each."""
    out = []
    for line in text.splitlines():
        code = line.split("#")[0].split("//")[0].strip()
        if code and not code.startswith(".") and not code.endswith(":"):
            mnemonic, _, operands = code.partition("\t")
            out.append((mnemonic.split(" ")[0], operands))
    return out


def calls(text):
    """Targets of calls and jumps out of the kernel, as an intrinsic that became libm's would be."""
    return [
        operands
        for mnemonic, operands in instructions(text)
        if mnemonic in {"call", "callq", "bl", "blr"} or "@PLT" in operands
    ]


def same_bits(a, b):
    """Whether two float32 arrays are equal to the last bit, NaN included."""
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))
