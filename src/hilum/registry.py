"""Tables of names that import nothing until a name is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hilum.errors import UnknownName


class Registry(Mapping[str, str]):
    """Names of one kind, each with the ``package.module:attribute`` that implements it."""

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        """Return the ``package.module:attribute`` of a name; raises ``UnknownName``."""
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """Import the module of a name and return its attribute."""
        module, _, attribute = self[name].partition(":")
        return getattr(import_module(module), attribute)

    def summary(self, name: str) -> str:
        """Return the first sentence of the attribute's docstring, read without importing its module."""
        module, _, attribute = self[name].partition(":")
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            return ""
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        nodes: list[Any] = [n for n in tree.body if getattr(n, "name", None) == attribute] + [tree]
        documented = (ast.get_docstring(n) for n in nodes)
        return next((text.splitlines()[0] for text in documented if text), "")
