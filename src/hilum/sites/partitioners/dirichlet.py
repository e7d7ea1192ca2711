"""Parts whose shares of a finding are drawn from a Dirichlet distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.errors import StudyError
from hilum.randomness import numpy_generator
from hilum.sites.partitioners.base import (
    deal,
    draw_patients,
    numbered,
    patient_classes,
    require_class,
    require_count,
    require_positive,
    rows_of_parts,
)

TRIES = 10


class DirichletPartitioner:
    """Parts whose shares of positive and of negative patients are drawn from a Dirichlet distribution (Hsu 2019).

    ``num_partitions``: how many parts. ``partition_by``: a finding; a patient is positive if any image is.
    ``alpha`` > 0: a large one makes parts alike, a small one gives a class to few parts. For each class the shares
    of the parts are drawn once, all with this alpha, and add up to 1. ``min_partition_size``: patients that every
    part must have; ten draws are tried. ``self_balancing``: a part that already has its even share of the patients
    gets none of the next class. ``seed``: of the draw; the study's seed of splits if it is not given.
    Patients whose class is unknown are dealt out by turns.
    """

    def __init__(
        self,
        num_partitions: int,
        partition_by: str,
        alpha: float,
        min_partition_size: int = 10,
        self_balancing: bool = False,
        seed: int | None = None,
    ) -> None:
        self.num_partitions = require_count("num_partitions", num_partitions)
        self.partition_by = require_class(partition_by)
        self.alpha = require_positive("alpha", alpha)
        self.min_partition_size = require_count("min_partition_size", min_partition_size, 0)
        if not isinstance(self_balancing, bool):
            raise StudyError(f"Expected 'self_balancing' of a partition as true or false; found {self_balancing!r}.")
        self.self_balancing = self_balancing
        self.seed = None if seed is None else require_count("seed", seed, 0)

    def partition(self, manifest: Manifest, seed: int) -> dict[str, NDArray[np.int64]]:
        """Return part → rows; raises ``DataError`` without a label, ``StudyError`` if a part stays too small."""
        seed = seed if self.seed is None else self.seed
        patients = draw_patients(manifest, seed)
        classes = patient_classes(manifest, self.partition_by, patients)
        smallest = 0
        for attempt in range(TRIES):
            part = self._draw(classes, numpy_generator(seed, "dirichlet", attempt))
            size = int(np.bincount(part, minlength=self.num_partitions).min())
            if size >= self.min_partition_size:
                return rows_of_parts(patients, part, numbered(self.num_partitions))
            smallest = max(smallest, size)
        raise StudyError(
            f"{manifest.database}: expected at least {self.min_partition_size} patients in every part; found parts of "
            f"{smallest} and fewer in {TRIES} draws. Raise 'alpha', or lower 'min_partition_size' or 'num_partitions'."
        )

    def _draw(self, classes: NDArray[np.float64], draws: np.random.Generator) -> NDArray[np.int64]:
        """Return the part of every patient (P,) from their classes (P,)."""
        part = np.empty(len(classes), np.int64)
        unknown = np.flatnonzero(np.isnan(classes))
        part[unknown] = deal(unknown, self.num_partitions)
        sizes = np.zeros(self.num_partitions, np.int64)
        even = (len(classes) - len(unknown)) / self.num_partitions
        for value in (1.0, 0.0):
            members = np.flatnonzero(classes == value)
            takers = sizes < even if self.self_balancing else np.ones(self.num_partitions, bool)
            shares = np.zeros(self.num_partitions)
            shares[takers] = draws.dirichlet(np.full(int(takers.sum()), self.alpha))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            counts = np.diff(cuts, prepend=0, append=len(members))
            part[members] = np.repeat(np.arange(self.num_partitions), counts)
            sizes += counts
        return part
