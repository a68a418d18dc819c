"""What is computed from parameters alone: packed weights, folded factors.

Kept once for the process and shared by all programs that want the same thing, so a net that has
seen a hundred image sizes holds its packed weights once.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

from striate.engine.arena import Block
from striate.graph.ops.leaf import Const, ParamLeaf
from striate.graph.ops.random import RandomUniform
from striate.graph.value import Graph, Node, Param


def constant_nodes(graph: Graph) -> set[Node]:
    """Nodes that depend on nothing but parameters."""
    known: set[Node] = set()
    for node in graph.nodes():
        if isinstance(node.op, RandomUniform):
            continue  # its key changes by itself
        if isinstance(node.op, (ParamLeaf, Const)) or (
            node.inputs and all(v.node in known for v in node.inputs)
        ):
            known.add(node)
    return known


class Interned:
    """A nested key that is hashed once. Equal keys give the same object."""

    __slots__ = ("__weakref__", "key")

    def __init__(self, key: object) -> None:
        self.key = key

    @classmethod
    def of(cls, key: object) -> Interned:
        """The one object for this key."""
        with _lock:
            found = _interned.get(key)
            if found is None:
                found = _interned[key] = cls(key)
            return found


@dataclass(frozen=True)
class Constant:
    """Identity of a constant, and the parameters that it is computed from."""

    key: Interned
    params: tuple[Param, ...]

    def stamp(self) -> tuple[int, ...]:
        """Versions of the parameters: what the content depends on."""
        return tuple(p.version for p in self.params)


class Content:
    """Memory of one constant, and the versions for which it was computed (None: not yet)."""

    def __init__(self, size: int) -> None:
        self.block = Block(size)
        self.stamp: tuple[int, ...] | None = None


refreshing = threading.Lock()  # held while constants are computed: one program at a time
_lock = threading.RLock()
_interned: weakref.WeakValueDictionary[object, Interned] = weakref.WeakValueDictionary()
_contents: weakref.WeakValueDictionary[tuple[Interned, int], Content] = (
    weakref.WeakValueDictionary()
)


def content_of(constant: Constant, size: int) -> Content:
    """The shared memory of a constant of `size` bytes."""
    with _lock:
        key = (constant.key, size)
        found = _contents.get(key)
        if found is None:
            found = _contents[key] = Content(size)
        return found
