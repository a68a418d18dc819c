"""The LLVM types that kernels use."""

from __future__ import annotations

from llvmlite import ir

F32 = ir.FloatType()
I1 = ir.IntType(1)
I8 = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
PTR = ir.PointerType()
VOID = ir.VoidType()
KERNEL = ir.FunctionType(VOID, [PTR, PTR, I32, I32])  # of every kernel, see Kernel.buffer
