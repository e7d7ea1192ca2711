"""What 'hilum shift' wrote, as the page reads it: figures by kind, measure and pair of sites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from hilum.errors import RunError

SCHEMA = 1
KIND_NAMES = {
    "histogram": "Intensity histogram",
    "pixels": "Down-sampled pixels",
    "untrained": "Untrained trunk",
    "pretrained": "Pretrained trunk",
    "trained": "Trained trunk",
}
MEASURE_NAMES = {
    "a_distance_linear": "A-distance, linear",
    "a_distance_network": "A-distance, network",
    "emd": "Earth Mover's Distance",
    "emd_samples": "EMD of single images",
    "emd_partial": "EMD, partial",
    "mmd": "MMD²",
    "bernoulli": "Bernoulli distance",
    "label_emd": "Label EMD",
}


@dataclass(frozen=True)
class Measured:
    """One figure of a pair of sites; ``note`` says why ``value`` is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    n: int = 0
    note: str = ""


ABSENT = Measured(None, note="not computed")


@dataclass(frozen=True)
class ShiftFigures:
    """The content of ``shift.json`` in ``path``; look-ups do not mind the order of a pair."""

    path: Path
    content: Mapping[str, Any]
    _table: dict[tuple[str, str, frozenset[str]], Measured] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = {(r["kind"], r["measure"], frozenset((r["a"], r["b"]))): _measured(r) for r in self.content["pairs"]}
        object.__setattr__(self, "_table", table)

    @property
    def sites(self) -> list[str]:
        """Names of the sites, in the order of the study."""
        return [str(site["name"]) for site in self.content["sites"]]

    @property
    def kinds(self) -> list[str]:
        """Kinds of features, the plainest first."""
        return [str(kind["name"]) for kind in self.content["kinds"]]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of sites."""
        return list(combinations(self.sites, 2))

    def of(self, kind: str, measure: str, a: str, b: str) -> Measured:
        """Return a figure of a pair, or of the two halves of a site where ``a`` is ``b``."""
        return self._table.get((kind, measure, frozenset((a, b))), ABSENT)

    def noise(self, kind: str, measure: str, a: str, b: str) -> float | None:
        """Return the larger of what the halves of both sites differ by: the upper end where there is an interval.

        None where a site has too few patients to be halved: the pair has no control.
        """
        halves = [self.of(kind, measure, site, site) for site in (a, b)]
        tops = [h.value if h.high is None else h.high for h in halves]
        known = [top for top in tops if top is not None]
        return max(known) if len(known) == len(halves) else None

    def clear(self, kind: str, a: str, b: str) -> bool:
        """Tell whether the linear A-distance of a pair lies above the intervals of both sites' halves, where known."""
        low, noise = self.of(kind, "a_distance_linear", a, b).low, self.noise(kind, "a_distance_linear", a, b)
        return low is not None and noise is not None and low > noise

    def controlled(self, kind: str) -> list[tuple[str, str]]:
        """Return the pairs with a linear A-distance and halves of both sites to set it against."""
        known = [pair for pair in self.pairs if self.of(kind, "a_distance_linear", *pair).low is not None]
        return [pair for pair in known if self.noise(kind, "a_distance_linear", *pair) is not None]

    def matrix(self, name: str, a: str, b: str) -> float | None:
        """Return an entry of one of the label matrices: 'bernoulli', 'label_emd' or 'shared'."""
        value = self.content["labels"][name][self.sites.index(a)][self.sites.index(b)]
        return None if value is None else float(value)


def read_shift(path: Path) -> ShiftFigures:
    """Read the figures of a directory of ``hilum shift``; raises ``RunError``."""
    file = path / "shift.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"Expected {file}; there is none. Write it with 'hilum shift STUDY.yaml --out {path}'."
        ) from None
    except ValueError as error:
        raise RunError(f"Expected JSON in {file}; found text that is not ({error}). Remove it and repeat.") from None
    if content.get("schema") != SCHEMA:
        raise RunError(f"Expected schema {SCHEMA} in {file}; found {content.get('schema')!r}. Measure the shift again.")
    return ShiftFigures(path, content)


def _measured(record: Mapping[str, Any]) -> Measured:
    n = min(record["n_a"], record["n_b"])
    return Measured(record["value"], record["low"], record["high"], record["p_value"], n, record["note"])
