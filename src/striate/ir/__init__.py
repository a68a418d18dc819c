"""Instruction builder: the only room that uses `llvmlite.ir`."""
