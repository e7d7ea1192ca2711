"""Parts that differ by chance only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.sites.partitioners.base import deal, draw_patients, numbered, require_count, require_patients, rows_of_parts


class IidPartitioner:
    """Parts of equally many patients, drawn at random.

    ``num_partitions``: how many parts; their numbers of patients differ by one at most.
    """

    def __init__(self, num_partitions: int) -> None:
        self.num_partitions = require_count("num_partitions", num_partitions)

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return part → rows; raises ``StudyError`` for fewer patients than parts."""
        patients = draw_patients(manifest, seed)
        count = int(patients.max()) + 1
        require_patients(manifest, self.num_partitions, count, f"for {self.num_partitions} parts")
        part = deal(np.arange(count), self.num_partitions)
        return rows_of_parts(patients, part, numbered(self.num_partitions))
