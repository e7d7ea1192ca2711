"""One part for every hospital, or for every value of another column."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.errors import DataError, StudyError


class NaturalIdPartitioner:
    """One part for every hospital of the database, or for every value of another column.

    ``partition_by``: a column of the manifest's images or extra. A patient belongs to the value of most of their
    images, and to the first in the alphabet where values tie; their other images, and images without a value, are
    left out. Nothing is drawn.
    """

    def __init__(self, partition_by: str = "hospital") -> None:
        if not isinstance(partition_by, str):
            raise StudyError(f"Expected 'partition_by' of a partition as the name of a column; found {partition_by!r}.")
        self.partition_by = partition_by

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return value → rows; raises ``DataError`` for a column that is absent or blank, ``StudyError``."""
        values = _names(manifest, self.partition_by)
        patients = pd.factorize(manifest.images["patientid"])[0]
        votes = pd.crosstab(patients, values.to_numpy())
        chosen = votes.idxmax(axis=1).reindex(patients).to_numpy()
        rows = {str(name): np.flatnonzero((values == name).to_numpy() & (chosen == name)) for name in votes.columns}
        return {name: own for name, own in rows.items() if len(own)}


def _names(manifest: Manifest, column: str) -> pd.Series:
    """Return the name of the part of every image (N,): letters, digits, '-' and '_', as names of sites are."""
    tables = [table for table in (manifest.images, manifest.extra) if column in table]
    if not tables or tables[0][column].isna().all():
        found = "a column without values" if tables else _columns(manifest)
        raise DataError(
            f"{manifest.database}: expected a column '{column}' to partition by; found {found}. Change 'partition_by'."
        )
    values = tables[0][column]
    texts = {value: f"{value:g}" if isinstance(value, float) else str(value) for value in values.dropna().unique()}
    names = {value: re.sub(r"[^\w-]+", "_", text.strip()) for value, text in texts.items()}
    if len(set(names.values())) < len(names):
        raise StudyError(
            f"{manifest.database}: expected values of '{column}' that differ in letters and digits; found "
            f"{', '.join(sorted(texts.values()))}."
        )
    return values.map(names)


def _columns(manifest: Manifest) -> str:
    """Return the columns that hold a value."""
    tables = (manifest.images, manifest.extra)
    return ", ".join(str(name) for table in tables for name in table if table[name].notna().any())
