"""Parts of given sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.errors import StudyError
from hilum.sites.partitioners.base import (
    NOWHERE,
    draw_patients,
    numbered,
    require_count,
    require_patients,
    rows_of_parts,
)


class SizePartitioner:
    """Parts of given numbers of patients, drawn at random; further patients are left out.

    ``partition_sizes``: patients of each part, such as ``[400, 100, 50]``.
    """

    def __init__(self, partition_sizes: Sequence[int]) -> None:
        if isinstance(partition_sizes, str) or not isinstance(partition_sizes, Sequence) or not partition_sizes:
            raise StudyError(
                "Expected 'partition_sizes' of a partition as a list of numbers of patients, such as [400, 100]; "
                f"found {partition_sizes!r}."
            )
        self.partition_sizes = [require_count("partition_sizes", size) for size in partition_sizes]

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return part → rows; raises ``StudyError`` for too few patients."""
        patients = draw_patients(manifest, seed)
        count = int(patients.max()) + 1
        require_patients(manifest, sum(self.partition_sizes), count, f"for parts of {self.partition_sizes}")
        return cut(patients, self.partition_sizes)


def cut(patients: NDArray[np.int64], sizes: Sequence[int]) -> dict[str, NDArray[np.int64]]:
    """Return part → rows, the first patients in the first part and so on, and none of those beyond the last."""
    part = np.full(int(patients.max()) + 1, NOWHERE, np.int64)
    dealt = np.repeat(np.arange(len(sizes)), sizes)
    part[: len(dealt)] = dealt
    return rows_of_parts(patients, part, numbered(len(sizes)))
