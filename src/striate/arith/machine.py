"""What a kernel generator needs to know about a processor: integers and names, nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One processor target.

    `lanes` is the number of float32 in a vector register, `registers` the number of vector
    registers; `cpu` and `features` are LLVM's names. Cache sizes are bytes: L1 and L2 of one core,
    L3 of all.
    """

    isa: str
    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    fma: bool
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    l3_bytes: int = 4 * 2**20

    @property
    def cols(self) -> int:
        """Vectors of output channels in a register tile."""
        return 2

    @property
    def rows(self) -> int:
        """Rows (output pixels) of a register tile.

        rows·cols accumulators, one row of weights (cols) and one broadcast must fit:
        rows = ⌊(registers − cols − 1) / cols⌋, so 14×2 of 32 registers and 6×2 of 16.
        """
        return (self.registers - self.cols - 1) // self.cols

    def block(self, co: int) -> int:
        """Output channels packed side by side for a layer with `co` of them."""
        return self.lanes if co <= self.lanes else self.cols * self.lanes


# Lanes, registers and fma of each instruction set that can be asked for by name.
ISAS: dict[str, tuple[int, int, bool]] = {
    "avx512": (16, 32, True),
    "avx2": (8, 16, True),
    "sse2": (4, 16, False),
    "neon": (4, 32, True),
}
