"""Generators of kernels: from a spec (a frozen dataclass) to LLVM IR text."""
