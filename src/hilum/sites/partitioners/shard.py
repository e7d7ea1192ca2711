"""Parts made of pieces of the patients sorted by a finding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.randomness import numpy_generator
from hilum.sites.partitioners.base import (
    deal,
    draw_patients,
    numbered,
    patient_classes,
    require_class,
    require_count,
    require_patients,
    rows_of_parts,
)


class ShardPartitioner:
    """Parts of a few shards each: patients sorted by a finding and cut into shards of equal size (McMahan 2017).

    ``num_partitions``: how many parts. ``partition_by``: a finding; a patient is positive if any image is.
    ``num_shards_per_partition``: shards of a part, drawn at random; with 1, almost every part has one class.
    Patients whose class is unknown are dealt out by turns.
    """

    def __init__(self, num_partitions: int, partition_by: str, num_shards_per_partition: int = 2) -> None:
        self.num_partitions = require_count("num_partitions", num_partitions)
        self.partition_by = require_class(partition_by)
        self.num_shards_per_partition = require_count("num_shards_per_partition", num_shards_per_partition)

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return part → rows; raises ``DataError`` without a label, ``StudyError`` for fewer patients than shards."""
        patients = draw_patients(manifest, seed)
        classes = patient_classes(manifest, self.partition_by, patients)
        shards = self.num_partitions * self.num_shards_per_partition
        known = np.flatnonzero(~np.isnan(classes))
        require_patients(manifest, shards, len(known), f"with a label of '{self.partition_by}' for {shards} shards")
        part = np.empty(len(classes), np.int64)
        unknown = np.flatnonzero(np.isnan(classes))
        part[unknown] = deal(unknown, self.num_partitions)
        order = known[np.argsort(classes[known], kind="stable")]
        owners = numpy_generator(seed, "shards").permutation(shards) % self.num_partitions
        for shard, owner in zip(np.array_split(order, shards), owners, strict=True):
            part[shard] = owner
        return rows_of_parts(patients, part, numbered(self.num_partitions))
