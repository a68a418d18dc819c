"""Limiting everyone to an older instruction set, each by its own switch."""

from __future__ import annotations

from collections.abc import Mapping

# oneDNN is inside PyTorch and OpenVINO; XLA compiles what JAX runs; MKL does PyTorch's products.
SWITCHES: Mapping[str, Mapping[str, str]] = {
    "native": {},
    "avx2": {
        "STRIATE_TARGET": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
}
# They ask the processor at run time and take the best that it has.
WITHOUT_SWITCH = ("onnxruntime", "ncnn")


def switches(isa: str) -> dict[str, str]:
    """Variables for the environment of every process."""
    return dict(SWITCHES[isa])


def limited(peers: list[str], isa: str) -> tuple[list[str], list[str]]:
    """(peers that can be limited, a note for each that cannot)."""
    if isa == "native":
        return peers, []
    out = [peer for peer in peers if peer in WITHOUT_SWITCH]
    notes = [f"{peer} has no switch for instruction sets and was left out" for peer in out]
    return [peer for peer in peers if peer not in out], notes
