"""Pickles as data: a small machine that runs the opcodes of plain data and calls nothing.

A pickle is a program for a stack. Here a global is only a `Name`, never the object that it names;
the opcodes which call (REDUCE, NEWOBJ) look the name up in a table that the reader of the file
gives, and whatever is not in it is refused. So no import and no foreign call can happen, whatever
the bytes are. Lengths are checked against the bytes that are left, before anything is allocated.
Opcodes: CPython's Lib/pickletools.py, protocols 0 to 5 as far as data needs them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from striate.errors import FormatError

# What a name stands for: from the arguments of the call to a value.
Makers = Mapping[str, Callable[..., Any]]


class Name(NamedTuple):
    """A global that a pickle mentions, such as `torch.FloatStorage`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Mark:
    """Where a tuple, list or dictionary begins on the stack."""


_MARK = Mark()


class Unpickler:
    """Reads one pickle after the other from `content`.

    Args:
        content: the bytes.
        makers: dotted name → function for the calls that are allowed.
        names: further dotted names that may be mentioned, but not called.
        persistent: gives the value of a persistent id (a storage, for PyTorch).
        what: what is read, for messages.
    """

    def __init__(
        self,
        content: bytes | memoryview,
        makers: Makers,
        names: frozenset[str],
        persistent: Callable[[Any], Any],
        what: str,
    ) -> None:
        self.content = memoryview(content)
        self.position = 0
        self.makers = makers
        self.names = names
        self.persistent = persistent
        self.what = what
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the next pickle. Raises FormatError naming what was refused."""
        self.stack, self.memo = [], {}
        try:
            while (opcode := self.take(1)[0]) != _STOP:
                action = _ACTIONS.get(opcode)
                if action is None:
                    raise self.refused(f"the opcode {chr(opcode)!r} (0x{opcode:02x})")
                action(self)
            (value,) = self.stack
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, struct.error) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{self.what}: damaged: {_line(error)}") from error
        except (MemoryError, RecursionError, OverflowError) as error:
            raise FormatError(f"{self.what}: refused: {type(error).__name__}") from error
        if value is _MARK:
            raise FormatError(f"{self.what}: damaged: the pickle gives no value")
        return value

    def refused(self, what: str) -> FormatError:
        """The error for something that data does not need."""
        return FormatError(f"{self.what}: refused: the pickle asks for {what}")

    # ------------------------------------------------------------------ bytes

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if not 0 <= count <= len(self.content) - self.position:
            raise FormatError(
                f"{self.what}: truncated: {count} bytes are wanted, "
                f"{len(self.content) - self.position} are left"
            )
        self.position += count
        return self.content[self.position - count : self.position]

    def number(self, code: str) -> Any:
        """A number in `struct`'s notation."""
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self, code: str) -> str:
        """A text with its length before it."""
        return str(self.take(self.number(code)), "utf-8", "surrogatepass")

    def line(self) -> str:
        """The bytes up to the next line feed, as protocol 0 writes them."""
        rest = self.content[self.position : self.position + 4096].tobytes()
        end = rest.find(b"\n")
        if end < 0:
            raise FormatError(f"{self.what}: truncated, or a line of more than 4096 bytes")
        self.position += end + 1
        return rest[:end].decode("latin-1")

    # ------------------------------------------------------------------ the stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take a value, which must not be a mark, from the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        raise ValueError("a mark is missing")

    def name(self, module: str, name: str) -> None:
        """Mention a global."""
        found = Name(module, name)
        if str(found) not in self.makers and str(found) not in self.names:
            raise self.refused(f"{found}, which is no part of plain weights{_hint(found)}")
        self.push(found)

    def call(self, function: Any, arguments: Any) -> None:
        """Call a maker by its name."""
        if not isinstance(function, Name) or str(function) not in self.makers:
            raise self.refused(f"a call of {_short(function)}")
        if not isinstance(arguments, tuple):
            raise TypeError(f"arguments of {function} are no tuple")
        self.push(self.makers[str(function)](*arguments))

    def set_items(self, values: Sequence[Any]) -> None:
        """Add keys and values to the dictionary on top."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("items for something that is no dictionary")
        target.update(zip(self.keys(values[::2]), values[1::2], strict=True))

    def keys(self, values: Sequence[Any]) -> Sequence[Any]:
        """What may be hashed: hashing tuples in tuples, ever deeper, would exhaust C's stack."""
        for value in values:
            if not (value is None or isinstance(value, (str, int, float, bytes))):
                raise self.refused(f"{_short(value)} as a key")
        return values

    def dictionary(self) -> None:
        """A dictionary of the keys and values on top."""
        values = self.since_mark()
        self.push({})
        self.set_items(values)

    def extend(self, values: Sequence[Any]) -> None:
        """Add values to the list or set on top."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(self.keys(values))
        else:
            raise TypeError("values for something that is no list or set")

    def build(self) -> None:
        """State of an object: PyTorch's dictionaries carry `_metadata`, which is dropped."""
        state = self.pop()
        target = self.stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise self.refused(f"a change of the state of {_short(target)}")

    def remember(self, key: int) -> None:
        """Keep what is on top."""
        value = self.pop()
        self.push(value)
        self.memo[key] = value

    def recall(self, key: int) -> None:
        """Push what was kept."""
        self.push(self.memo[key])

    def stack_name(self) -> None:
        """A global whose names are texts on the stack."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("the name of a global is no text")
        self.name(module, name)

    def reduce(self) -> None:
        """A call with a tuple of arguments."""
        arguments = self.pop()
        self.call(self.pop(), arguments)

    def tuple_of(self, count: int) -> None:
        """A tuple of the values on top."""
        values = tuple(self.pop() for _ in range(count))
        self.push(values[::-1])

    def long(self, code: str) -> None:
        """An integer of any length, little-endian; 64 bytes are more than any size needs."""
        length = self.number(code)
        if not 0 <= length <= 64:
            raise self.refused(f"an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def decimal(self) -> None:
        """An integer of protocol 0; "00" and "01" are booleans there."""
        text = self.line().rstrip("L")
        self.push(text == "01" if text in {"00", "01"} else int(text))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__


def _short(value: object) -> str:
    return str(value) if isinstance(value, Name) else f"a value of type {type(value).__name__}"


def _hint(name: Name) -> str:
    """What to do about a global that is refused."""
    return (
        "; if you trust the file, open it in PyTorch and save its weights only: "
        "torch.save(model.state_dict(), path)"
        if name.module not in {"os", "posix", "nt", "subprocess", "builtins", "__builtin__", "sys"}
        else "; the file is hostile"
    )


_STOP = ord(".")


def _table() -> dict[int, Callable[[Unpickler], Any]]:
    """Opcode → what it does."""
    actions: dict[bytes, Callable[[Unpickler], Any]] = {
        b"\x80": lambda m: m.take(1),  # the protocol's number
        b"\x95": lambda m: m.take(8),  # a frame: only says how much could be read at once
        b"(": lambda m: m.push(_MARK),
        b"0": lambda m: m.stack.pop(),
        b"1": lambda m: m.since_mark(),
        b"2": lambda m: m.push(m.stack[-1]),
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"I": Unpickler.decimal,
        b"L": Unpickler.decimal,
        b"J": lambda m: m.push(m.number("<i")),
        b"K": lambda m: m.push(m.number("<B")),
        b"M": lambda m: m.push(m.number("<H")),
        b"\x8a": lambda m: m.long("<B"),
        b"\x8b": lambda m: m.long("<i"),
        b"F": lambda m: m.push(float(m.line())),
        b"G": lambda m: m.push(m.number(">d")),
        b"X": lambda m: m.push(m.text("<I")),
        b"\x8c": lambda m: m.push(m.text("<B")),
        b"\x8d": lambda m: m.push(m.text("<Q")),
        b"V": lambda m: m.push(m.line().encode("latin-1").decode("raw-unicode-escape")),
        b"U": lambda m: m.push(m.take(m.number("<B")).tobytes().decode("latin-1")),
        b"T": lambda m: m.push(m.take(m.number("<i")).tobytes().decode("latin-1")),
        b"C": lambda m: m.push(bytes(m.take(m.number("<B")))),
        b"B": lambda m: m.push(bytes(m.take(m.number("<I")))),
        b"\x8e": lambda m: m.push(bytes(m.take(m.number("<Q")))),
        b")": lambda m: m.push(()),
        b"t": lambda m: m.push(tuple(m.since_mark())),
        b"\x85": lambda m: m.tuple_of(1),
        b"\x86": lambda m: m.tuple_of(2),
        b"\x87": lambda m: m.tuple_of(3),
        b"]": lambda m: m.push([]),
        b"l": lambda m: m.push(m.since_mark()),
        b"a": lambda m: m.extend([m.pop()]),
        b"e": lambda m: m.extend(m.since_mark()),
        b"\x8f": lambda m: m.push(set()),
        b"\x90": lambda m: m.extend(m.since_mark()),
        b"\x91": lambda m: m.push(frozenset(m.keys(m.since_mark()))),
        b"}": lambda m: m.push({}),
        b"d": Unpickler.dictionary,
        b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
        b"u": lambda m: m.set_items(m.since_mark()),
        b"q": lambda m: m.remember(m.number("<B")),
        b"r": lambda m: m.remember(m.number("<I")),
        b"\x94": lambda m: m.remember(len(m.memo)),
        b"p": lambda m: m.remember(int(m.line())),
        b"h": lambda m: m.recall(m.number("<B")),
        b"j": lambda m: m.recall(m.number("<I")),
        b"g": lambda m: m.recall(int(m.line())),
        b"c": lambda m: m.name(m.line(), m.line()),
        b"\x93": Unpickler.stack_name,
        b"R": Unpickler.reduce,
        b"\x81": Unpickler.reduce,
        b"b": Unpickler.build,
        b"Q": lambda m: m.push(m.persistent(m.pop())),
    }
    return {key[0]: action for key, action in actions.items()}


_ACTIONS = _table()
