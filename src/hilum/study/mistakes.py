"""What is wrong with a study file, in words: the key, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of names",
    "path_type": "a path",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} entry",
}


def explain(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    """Return one line on an error that pydantic found in a value of ``root``."""
    loc, kind, value = [str(part) for part in error["loc"]], error["type"], error["input"]
    where = ".".join(loc) or "study"
    if kind == "value_error":
        return f"{where}: {error['ctx']['error']}"
    if kind == "extra_forbidden":
        return f"{where}: unknown key.{suggestion(loc[-1], fields(root, loc[:-1]))}"
    if kind == "missing":
        return f"{where}: expected this key; found none"
    if (loc and loc[-1] == "[key]") or kind == "invalid_key":
        name = error["loc"][-2] if loc[-1] == "[key]" else error["loc"][-1]
        where = ".".join(loc[: -2 if loc[-1] == "[key]" else -1]) or "study"
        return f"{where}: expected text as a name; found {name}. Write it in quotes: '{name}'"
    if kind in ("model_type", "model_attributes_type"):
        expected = _section(root, loc)
    elif kind in EXPECTED:
        bounds = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
        expected = EXPECTED[kind].format(**bounds)
    else:
        expected = str(error["msg"]).removeprefix("Input should be ")
    return f"{where}: expected {expected}; found {_short(value)}"


def fields(root: type[BaseModel], path: list[str]) -> list[str]:
    """Return the keys of the section at ``path``."""
    return list(getattr(_at(root, path), "model_fields", {}))


def suggestion(key: str, known: list[str]) -> str:
    """Return the nearest of the known keys as a question, or all of them."""
    near = get_close_matches(key, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known) or 'none'}."


def _section(root: type[BaseModel], path: list[str]) -> str:
    found = _at(root, path)
    if getattr(found, "model_config", {}).get("extra") == "allow":
        return "a name, or a section with name and options"
    keys = fields(root, path)
    return f"a section with {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"


def _at(section: Any, path: list[str]) -> Any:
    for part in path:
        if get_origin(section) is dict:
            section = _given(get_args(section)[1])
        elif part in getattr(section, "model_fields", {}):
            section = _given(section.model_fields[part].annotation)
    return section


def _given(annotation: Any) -> Any:
    """Return X of ``X | None``."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return next(kind for kind in get_args(annotation) if kind is not NoneType)


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) < 80 else text[:77] + "…"
