"""Integers and fractions only: shapes, windows, tiles and expressions; no NumPy, no LLVM."""
