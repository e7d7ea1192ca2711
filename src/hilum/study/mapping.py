"""YAML in which every key stands once: a second one would silently take the place of the first."""

from __future__ import annotations

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


class Repeated(yaml.YAMLError):
    """A key that one mapping holds twice."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise Repeated(
                    f"the key '{key.value}' in line {lines[name]} and again in line {line}. Keep one of them."
                )
            lines[name] = line
        return node


def read_yaml(text: str) -> Any:
    """Return the content of YAML; raises ``yaml.YAMLError``, as ``Repeated`` where a key stands twice."""
    try:
        return yaml.load(text, _Loader)
    except ValueError as error:  # a date that no calendar has
        raise yaml.YAMLError(f"{error}. Write it in quotes if it is text.") from None
