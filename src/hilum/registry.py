"""Tables of names that import nothing until a name is used."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from hilum.errors import UnknownName

# What the value of an option is, by the annotation of the parameter that takes it; other annotations say nothing.
KINDS = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "text", "None": "null"}


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

    def parameters(self, name: str) -> Mapping[str, Parameter]:
        """Return the parameters of what a name stands for, or of its ``read`` where it has one."""
        named = self.load(name)
        return signature(getattr(named, "read", named)).parameters

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse values that are not of the ``KINDS`` that an option is of (``ValueError``)."""
        known = self.parameters(name) if options else {}
        for option, value in options.items():
            kinds = str(known[option].annotation).split(" | ") if option in known else []
            if kinds and set(kinds) <= set(KINDS) and not any(_is(kind, value) for kind in kinds):
                expected = " or ".join(KINDS[kind] for kind in kinds)
                raise ValueError(f"expected {expected} for the option '{option}'; found {value!r}")

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


def _is(kind: str, value: object) -> bool:
    if kind == "None" or value is None:
        return kind == "None" and value is None
    if kind == "str" or isinstance(value, str):
        return kind == "str" and isinstance(value, str)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, int) or (kind == "float" and isinstance(value, float) and math.isfinite(value))
