"""Head, medium and tail: findings grouped by how often the hospitals show them in training."""

from __future__ import annotations

from collections.abc import Mapping

HEAD, TAIL = 1000, 100


def tail_groups(positives: Mapping[str, int], head: int = HEAD, tail: int = TAIL) -> dict[str, list[str]]:
    """Return 'head', 'medium' and 'tail' → findings, in their order; a group may be empty.

    ``positives``: training images that show a finding. A head finding has more than ``head``, a tail finding fewer
    than ``tail``.
    """
    groups: dict[str, list[str]] = {"head": [], "medium": [], "tail": []}
    for finding, count in positives.items():
        groups["head" if count > head else "tail" if count < tail else "medium"].append(finding)
    return groups
