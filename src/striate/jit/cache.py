"""Object files on disk, one content-addressed file a kernel.

A cached object file is executable code. So the folder must belong to this user and be closed to
others, a file carries the checksum of its content, and it appears by rename, whole or not at all.
A damaged file is rebuilt.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import warnings
from pathlib import Path

from llvmlite import __version__ as llvmlite_version

from striate.arith.machine import Machine
from striate.errors import CacheError

MAGIC = b"striate-kernel-1\n"
SOURCE_ROOMS = ("arith", "ir", "kernels", "jit")


@functools.lru_cache(maxsize=1)
def _generator_digest() -> bytes:
    """Digest of everything that turns a spec into bytes: our generators and LLVM's version."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for room in SOURCE_ROOMS:
        for file in sorted((root / room).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    digest.update(llvmlite_version.encode())
    return digest.digest()


def key(identity: str, machine: Machine) -> str:
    """Name of the cache file of the kernel with this identity (the repr of its spec)."""
    digest = hashlib.sha256(_generator_digest())
    digest.update(f"{identity}\0{machine!r}".encode())
    return digest.hexdigest()[:40]


def folder() -> Path | None:
    """The cache folder, or None when STRIATE_CACHE is "off".

    Raises CacheError when the folder that STRIATE_CACHE names cannot be used safely.
    """
    wish = os.environ.get("STRIATE_CACHE", "")
    return None if wish.lower() == "off" else _checked(wish)


@functools.lru_cache(maxsize=8)
def _checked(wish: str) -> Path | None:
    if wish:
        path = Path(wish).expanduser()
    else:
        import platformdirs

        path = Path(platformdirs.user_cache_dir("striate", appauthor=False)) / "kernels"
    problem = _problem(path)
    if problem is None:
        return path
    if wish:
        raise CacheError(
            f"kernel cache {path} cannot be used: {problem}; set STRIATE_CACHE to "
            "another folder, or to 'off'"
        )
    _warn(f"kernel cache {path} is not used: {problem}")
    return None


def _problem(path: Path) -> str | None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except FileExistsError:
        return "it is not a folder"
    except OSError as error:
        return error.strerror or str(error)
    if hasattr(os, "getuid"):
        if facts.st_uid not in (os.getuid(), 0):
            return f"it belongs to user {facts.st_uid}"
        if facts.st_mode & 0o022:
            return "others may write to it (chmod 700 it)"
    return None


@functools.lru_cache(maxsize=8)
def _warn(message: str) -> None:
    """Say it once a process."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def read(name: str) -> bytes | None:
    """The object file `name`, or None when it is missing or damaged."""
    path = folder()
    if path is None:
        return None
    try:
        data = (path / f"{name}.o").read_bytes()
    except OSError:
        return None
    head = len(MAGIC)
    checksum, content = data[head : head + 32], data[head + 32 :]
    if not data.startswith(MAGIC) or hashlib.sha256(content).digest() != checksum:
        return None
    return content


def write(name: str, content: bytes) -> None:
    """Keep an object file; a folder that cannot be written to is said once and costs no result."""
    path = folder()
    if path is None:
        return
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=path)
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).digest() + content)
        os.replace(temporary, path / f"{name}.o")
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        warn_unwritable(path, error)


def warn_unwritable(path: Path, error: OSError) -> None:
    """Say once a process that the folder cannot be written to, which costs time only."""
    _warn(f"kernel cache {path} cannot be written: {error.strerror}; kernels are compiled anew")
