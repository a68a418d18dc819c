"""Matrix products: 1×1 convolutions and dense layers."""

from __future__ import annotations

from striate.arith.conv import ConvShape
from striate.engine.lower.context import GOOD_BALANCE, SCRATCH_FILL, Lowering, balanced
from striate.kernels.epilogue import Epilogue
from striate.kernels.gemm import Gemm, near
from striate.kernels.prologue import AS_THEY_ARE, Prologue

PANEL_TILES = 4
# Rows of a panel that meets weights from beyond L2: each panel reads all of them anew.
LONG_PANEL = 96


def matrix_product(
    low: Lowering,
    slots: list[int],
    shape: ConvShape,
    epilogue: Epilogue,
    prologue: Prologue = AS_THEY_ARE,
    *,
    forward: bool,
) -> None:
    """Pixels times weights: m rows of ci inputs times ci × co."""
    m = shape.n * shape.out_h * shape.out_w
    ci, co = (shape.ci, shape.co) if forward else (shape.co, shape.ci)
    spec = Gemm(ci, co, epilogue, prologue, shape.stride)
    pixels = () if spec.stride == (1, 1) else (shape.h, shape.w, shape.out_h, shape.out_w)
    machine, blocks = low.machine, -(-co // low.machine.block(co))
    most = PANEL_TILES
    if not near(ci, co, machine):
        held = machine.l2_bytes // 8 * 7 // (4 * spec.pitch)
        most = max(PANEL_TILES, -(-min(LONG_PANEL, held) // machine.rows))
    panel, chunks = choose_panel(m, blocks, machine.rows, low.threads, most)
    scratch = panel * spec.pitch + SCRATCH_FILL if spec.packed else 0
    low.step(
        spec,
        slots,
        (m, panel, chunks, 0, scratch, *pixels),
        writes=[slots[2]],
        label=f"gemm {ci}→{co}",
        scratch=scratch,
    )


def choose_panel(m: int, blocks: int, rows: int, threads: int, most: int) -> tuple[int, int]:
    """(rows of a panel, chunks of output blocks): large panels, but work for every thread.

    A panel has at most `most` tiles of so many rows.
    """
    best, best_score = (rows, 1), -1.0
    for tiles in (most, *(t for t in (8, 4, 2, 1) if t < most)):
        panels = max(1, -(-m // (tiles * rows)))
        for chunks in (c for c in (1, 2, 4, 8, 16, 32) if c <= blocks):
            score = balanced(panels * chunks, threads)
            if score > best_score:
                best, best_score = (max(1, -(-m // panels)), chunks), score
            if score >= GOOD_BALANCE:
                return best
    return best
