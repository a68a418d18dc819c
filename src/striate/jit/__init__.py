"""Bytes, addresses and threads: the only room that uses `llvmlite.binding`."""
