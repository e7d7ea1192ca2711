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
        "No Finding": None,
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


@dataclass(frozen=True)
class Closed:
    """Labels (N, C) after closure, and (finding, ancestor) → images on which the two contradict each other."""

    labels: NDArray[np.float32]
    contradictions: dict[tuple[str, str], int]


def close_labels(labels: NDArray[np.float32], findings: Sequence[str], direction: Closure = "both") -> Closed:
    """Close raw labels (N, C) in {1, 0, -1, NaN} over the taxonomy, among the given findings.

    Upward: where a child is positive, a blank or uncertain ancestor becomes positive; where a child is uncertain, a
    blank ancestor becomes uncertain. Downward: where an ancestor is negative, a blank or uncertain child becomes
    negative. A positive child of a negative ancestor is a contradiction: both stay as they are, and it is counted.
    Raises ``DataError`` for an unknown direction.
    """
    if direction not in ("none", "upward", "downward", "both"):
        raise DataError(f"Expected a closure among none, upward, downward, both; found '{direction}'.")
    raw = np.asarray(labels, np.float32)
    closed = raw.copy()
    column = {finding: c for c, finding in enumerate(findings)}
    pairs = [(c, column[a], f, a) for f, c in column.items() for a in ancestors(f) if a in column]
    contradictions = {(f, a): int(n) for c, p, f, a in pairs if (n := ((raw[:, c] == 1) & (raw[:, p] == 0)).sum())}
    if direction in ("upward", "both"):
        for c, p, _, _ in pairs:
            above = closed[:, p]
            above[(raw[:, c] == -1) & np.isnan(above)] = -1
        for c, p, _, _ in pairs:
            above = closed[:, p]
            above[(raw[:, c] == 1) & ~(above == 0)] = 1
    if direction in ("downward", "both"):
        for c, p, _, _ in pairs:
            below = closed[:, c]
            below[(raw[:, p] == 0) & (np.isnan(below) | (below == -1))] = 0
    return Closed(closed, contradictions)
