"""The taxonomy of findings: which finding is a kind of which, and what a label says of its relatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilum.errors import DataError
from hilum.findings.vocabulary import NO_FINDING

Closure = Literal["none", "upward", "downward", "both"]

PARENTS: Mapping[str, str | None] = MappingProxyType(
    {
        "Abnormal": None,
        **dict.fromkeys(
            (
                *("Lung Opacity", "Pleural Abnormality", "Cardiomediastinal Abnormality", "Hyperlucency", "Hernia"),
                *("Fracture", "Support Devices", "Other Disease", "Other Lesion", "Calcification", "Bronchiectasis"),
                *("Lung Cavity", "Lung Cyst", "COPD", "Azygos Lobe", "Scoliosis", "Subcutaneous Emphysema"),
                *("COVID-19", "Flattened Diaphragm", "Hilar Enlargement", "Lung Tumor"),
            ),
            "Abnormal",
        ),
        **dict.fromkeys(
            (
                *("Consolidation", "Infiltration", "Atelectasis", "Edema", "Fibrosis", "Interstitial Lung Disease"),
                *("Lung Lesion", "Tuberculosis"),
            ),
            "Lung Opacity",
        ),
        "Pneumonia": "Consolidation",
        **dict.fromkeys(("Nodule/Mass", "Lung Metastasis", "Granuloma"), "Lung Lesion"),
        **dict.fromkeys(("Nodule", "Mass"), "Nodule/Mass"),
        **dict.fromkeys(("Bacterial Pneumonia", "Viral Pneumonia"), "Pneumonia"),
        **dict.fromkeys(("Active Tuberculosis", "Obsolete Tuberculosis"), "Tuberculosis"),
        **dict.fromkeys(("Effusion", "Pneumothorax", "Pleural_Thickening", "Pleural Other"), "Pleural Abnormality"),
        **dict.fromkeys(
            (
                *("Cardiomegaly", "Enlarged Cardiomediastinum", "Aortic Enlargement", "Aortic Elongation"),
                *("Enlarged Pulmonary Artery", "Mediastinal Shift"),
            ),
            "Cardiomediastinal Abnormality",
        ),
        **dict.fromkeys(("Emphysema", "Hyperinflation"), "Hyperlucency"),
        "Hiatal Hernia": "Hernia",
        **dict.fromkeys(("Rib Fracture", "Clavicle Fracture"), "Fracture"),
        "Pacemaker": "Support Devices",
        "Severe COVID-19": "COVID-19",
        NO_FINDING: None,
    }
)
"""Child → parent, after Chen et al. 2020 (hierarchical multi-label classification), on hilum's vocabulary.

'Abnormal', 'Pleural Abnormality', 'Cardiomediastinal Abnormality' and 'Hyperlucency' are not findings: no database
labels them. 'No Finding' stands apart: a database says it of its own findings only.
"""


@cache
def ancestors(finding: str) -> tuple[str, ...]:
    """Return the ancestors of a finding, the nearest first.

    >>> ancestors("Nodule")
    ('Nodule/Mass', 'Lung Lesion', 'Lung Opacity', 'Abnormal')
    """
    parent = PARENTS[finding]
    return () if parent is None else (parent, *ancestors(parent))


@cache
def contradicted(finding: str) -> tuple[str, ...]:
    """Return what a positive ``finding`` contradicts: ancestors that are negative, 'No Finding' that is positive.

    Support devices are no disease: CheXpert's labeller says 'No Finding' beside them.

    >>> contradicted("Pneumonia")
    ('Consolidation', 'Lung Opacity', 'Abnormal', 'No Finding')
    """
    line = ancestors(finding)
    harmless = finding == NO_FINDING or "Support Devices" in (finding, *line)
    return line if harmless else (*line, NO_FINDING)


@dataclass(frozen=True)
class Closed:
    """Labels (N, C) after closure, and (finding, other) → images on which the two contradict each other.

    The finding is positive; ``other`` is an ancestor that is negative, or 'No Finding' that is positive too.
    """

    labels: NDArray[np.float32]
    contradictions: dict[tuple[str, str], int]


def close_labels(labels: NDArray[np.float32], findings: Sequence[str], direction: Closure = "both") -> Closed:
    """Close raw labels (N, C) in {1, 0, -1, NaN} over the taxonomy, among the given findings.

    Upward: where a child is positive, a blank or uncertain ancestor becomes positive; where a child is uncertain, a
    blank ancestor becomes uncertain. Downward: where an ancestor is negative, a blank or uncertain child becomes
    negative. A positive child of a negative ancestor is a contradiction: both stay as they are, and so does every
    label between them. It is counted, and so is a positive finding beside a positive 'No Finding', from which nothing
    is inferred. Raises ``DataError`` for an unknown direction.
    """
    if direction not in ("none", "upward", "downward", "both"):
        raise DataError(f"Expected a closure among none, upward, downward, both; found '{direction}'.")
    raw = np.asarray(labels, np.float32)
    closed = raw.copy()
    lines = _lines(findings)
    for c, (above, below) in enumerate(lines):
        column = closed[:, c]
        blank, uncertain = np.isnan(raw[:, c]), raw[:, c] == -1
        negative, positive = (raw[:, above] == 0).any(axis=1), (raw[:, below] == 1).any(axis=1)
        if direction in ("upward", "both"):
            column[blank & (raw[:, below] == -1).any(axis=1) & ~negative] = -1
            column[(blank | uncertain) & positive & ~negative] = 1
        if direction in ("downward", "both"):
            column[(blank | uncertain) & negative & ~positive] = 0
    return Closed(closed, _contradictions(raw, findings))


def _lines(findings: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Return the columns of the ancestors and of the descendants of each finding."""
    pairs = [(c, p) for c, f in enumerate(findings) for p, a in enumerate(findings) if a in ancestors(f)]
    return [([p for c, p in pairs if c == k], [c for c, p in pairs if p == k]) for k in range(len(findings))]


def _contradictions(raw: NDArray[np.float32], findings: Sequence[str]) -> dict[tuple[str, str], int]:
    column = {finding: c for c, finding in enumerate(findings)}
    counts = {}
    for finding, other in ((f, o) for f in findings for o in contradicted(f) if o in column):
        against = raw[:, column[other]] == (1 if other == NO_FINDING else 0)
        counts[finding, other] = int(((raw[:, column[finding]] == 1) & against).sum())
    return {pair: n for pair, n in counts.items() if n}
