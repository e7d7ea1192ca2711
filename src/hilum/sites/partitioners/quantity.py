"""Parts whose numbers of patients grow by a rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.errors import StudyError
from hilum.sites.partitioners.base import draw_patients, require_count
from hilum.sites.partitioners.size import cut


class QuantityPartitioner:
    """Parts whose numbers of patients are proportional to ``weights``, rounded down; the last part has the rest.

    ``num_partitions``: how many parts.
    """

    def __init__(self, num_partitions: int) -> None:
        self.num_partitions = require_count("num_partitions", num_partitions)

    def weights(self) -> NDArray[np.float64]:
        """Return the relative size of every part, ascending."""
        raise NotImplementedError

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return part → rows; raises ``StudyError`` if the smallest part would be empty."""
        patients = draw_patients(manifest, seed)
        count, weights = int(patients.max()) + 1, self.weights()
        # An exact product such as 3 · 5/3 must not fall below 5 in floating point.
        sizes = np.floor(count * weights / weights.sum() + 1e-9).astype(np.int64)
        if sizes[0] == 0:
            raise StudyError(
                f"{manifest.database}: expected at least one patient in the smallest of {self.num_partitions} parts; "
                f"found {count} patients in all. Ask for fewer parts."
            )
        sizes[-1] += count - sizes.sum()
        return cut(patients, sizes.tolist())
