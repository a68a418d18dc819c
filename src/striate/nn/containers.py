"""Modules that hold modules in a row."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import overload

from striate.errors import ArgumentError
from striate.graph import Value
from striate.nn.module import Module


class _Row(Module):
    """Modules under the names "0", "1", …"""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))

    def _name(self, index: int) -> str:
        names = list(self._modules)
        try:
            return names[operator.index(index)]
        except IndexError:
            raise IndexError(f"index {index} is out of range for {len(names)} modules") from None

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name(index), module)

    def _add(self, module: object) -> None:
        if not isinstance(module, Module):
            raise ArgumentError(
                f"{type(self).__name__} holds modules, got {type(module).__name__}: {module!r:.80}"
            )
        setattr(self, str(len(self._modules)), module)


class Sequential(_Row):
    """Modules one after the other: `Sequential(a, b)`, or a dictionary of names and modules."""

    def __init__(self, *modules: Module | dict[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], dict):
            for name, named in modules[0].items():
                setattr(self, name, named)
            return
        for module in modules:
            self._add(module)

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> Sequential: ...

    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._modules[self._name(index)]

    def append(self, module: Module) -> Sequential:
        """Add a module at the end; returns itself."""
        self._add(module)
        return self

    def forward(self, x: Value) -> Value:
        """One after the other."""
        for module in self:
            x = module(x)
        return x


class ModuleList(_Row):
    """A list of modules whose weights belong to the net; it has no `forward` of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...

    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...

    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return ModuleList(list(self)[index])
        return self._modules[self._name(index)]

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end; returns itself."""
        self._add(module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end; returns itself."""
        for module in modules:
            self._add(module)
        return self
