"""Labels of databases that list what is present on an image: what is not on the list is absent, if the list is whole.

A list is whole unless it says so itself: a film that could not be read, a report that only compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from hilum.findings.vocabulary import FINDINGS, NO_FINDING


class Listed(NamedTuple):
    """What one list says: findings that are present, findings that it leaves open, and whether the others are absent.

    A finding is left open where a name of the list is near it without being it, such as a healed fracture.
    ``abnormal``: the list names something that is not normal, whether it is a finding of the vocabulary or not.
    """

    present: frozenset[str] = frozenset()
    left_open: frozenset[str] = frozenset()
    whole: bool = True
    abnormal: bool = True


NOTHING_SAID = Listed(whole=False, abnormal=False)


def columns_of(findings: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the findings that some name means, in the order of the vocabulary, and No Finding last."""
    spoken = {finding for group in findings.values() for finding in group} - {NO_FINDING}
    return [*(finding for finding in FINDINGS if finding in spoken), NO_FINDING]


def labels_of(lists: Sequence[Listed], columns: Sequence[str]) -> pd.DataFrame:
    """Return raw labels, one row a list: 1 present, NaN left open or on a list that is not whole, else 0.

    No Finding is 1 where the list says so, 0 where it names something abnormal, else NaN.
    """
    place = {finding: c for c, finding in enumerate(columns)}
    table = np.zeros((len(lists), len(columns)))
    for row, named in zip(table, lists, strict=True):
        if not named.whole:
            row[:] = np.nan
        row[[place[finding] for finding in named.left_open]] = np.nan
        row[place[NO_FINDING]] = 0.0 if named.abnormal else np.nan
        row[[place[finding] for finding in named.present]] = 1.0
    return pd.DataFrame(table, columns=list(columns))


def by_name(groups: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    """Return name → findings, from finding → names separated by semicolons."""
    found: dict[str, set[str]] = {}
    for finding, names in groups.items():
        for name in names.split("; "):
            found.setdefault(name, set()).add(finding)
    return MappingProxyType({name: frozenset(findings) for name, findings in found.items()})


def union(groups: Mapping[str, frozenset[str]], names: Iterable[str]) -> frozenset[str]:
    """Return the findings of all names; a name without any adds none."""
    nothing: frozenset[str] = frozenset()
    return nothing.union(*(groups.get(name, nothing) for name in names))
