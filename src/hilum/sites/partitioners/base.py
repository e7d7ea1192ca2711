"""What every partitioner is made of: patients in a drawn order, their class, and the rows of the parts."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.errors import DataError, StudyError
from hilum.findings.vocabulary import require_finding
from hilum.randomness import derive_seed

NOWHERE = -1


class Partitioner(Protocol):
    """Cuts the images of one database into parts, each of which becomes a site; no patient is in two parts."""

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return part → its rows of the manifest, ascending.

        A patient's part depends on the seed, on the patients and on their labels, never on the order of the rows.
        Raises ``StudyError`` and ``DataError``.
        """


def draw_patients(manifest: Manifest, seed: int) -> NDArray[np.int64]:
    """Return the number of every image's patient (N,): 0 … P − 1 in an order drawn from the seed and the ids."""
    codes, ids = pd.factorize(manifest.images["patientid"])
    draws = np.array([derive_seed(seed, "partition", str(patient)) for patient in ids])
    place = np.empty(len(ids), np.int64)
    place[np.argsort(draws)] = np.arange(len(ids))
    return place[codes]


def patient_classes(manifest: Manifest, finding: str, patients: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1, 0 or NaN for every patient (P,), in the drawn order.

    1 if any image is positive, 0 if any is negative and none is positive, NaN if all are blank or uncertain.
    Raises ``DataError`` if no patient has a class.
    """
    if finding in manifest.labels:
        raw = manifest.labels[finding].to_numpy(np.float64)
        classes = pd.Series(np.where(raw >= 0, raw, np.nan)).groupby(patients).max()
        known = np.asarray(classes, np.float64)
        if not np.isnan(known).all():
            return known
    found = ", ".join(manifest.known_findings) or "none"
    raise DataError(
        f"{manifest.database}: expected patients with a label of '{finding}' to partition by; found labels of {found}. "
        "Change 'partition_by'."
    )


def deal(patients: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Return a part for each of some patients, by turns in their order."""
    return np.arange(len(patients)) % parts


def rows_of_parts(
    patients: NDArray[np.int64], part: NDArray[np.int64], names: list[str]
) -> dict[str, NDArray[np.int64]]:
    """Return name → rows, from the part of every patient (P,), ``NOWHERE`` for one that is left out."""
    return {name: np.flatnonzero(part[patients] == k) for k, name in enumerate(names)}


def numbered(parts: int) -> list[str]:
    """Return the names '0', '1', …"""
    return [str(k) for k in range(parts)]


def require_count(option: str, value: object, least: int = 1) -> int:
    """Return a whole number of at least ``least``; raises ``StudyError``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StudyError(f"Expected '{option}' of a partition as a whole number of at least {least}; found {value!r}.")
    return value


def require_positive(option: str, value: object) -> float:
    """Return a finite number above 0; raises ``StudyError``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise StudyError(f"Expected '{option}' of a partition as a finite number above 0; found {value!r}.")
    return float(value)


def require_class(finding: object) -> str:
    """Return a finding to partition by; raises ``StudyError`` and ``UnknownName``."""
    if not isinstance(finding, str):
        raise StudyError(f"Expected 'partition_by' of a partition as the name of a finding; found {finding!r}.")
    return require_finding(finding)


def require_patients(manifest: Manifest, needed: int, found: int, what: str) -> None:
    """Raise ``StudyError`` if a partition needs more patients than the database has."""
    if found < needed:
        raise StudyError(
            f"{manifest.database}: expected at least {needed} patients {what}; found {found}. Ask for fewer or "
            "smaller parts."
        )
