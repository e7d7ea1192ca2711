"""Patient-disjoint splits that do not move when images are added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import DataError
from hilum.randomness import derive_seed

SPLITS = ("train", "val", "test")


def split_patients(
    patients: Sequence[str], seed: int, val: float, test: float, official: Sequence[object] | None = None
) -> NDArray[np.str_]:
    """Return 'train', 'val' or 'test' for every image, by its patient.

    Each patient draws a number from a hash of (seed, patient), so a patient's split depends on nobody else.
    ``official`` (N,): a patient with any image officially in 'test' is in test, then the same for 'val';
    NaN draws. ``val``, ``test``: expected fractions of the drawing patients. Raises ``DataError``.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise DataError(f"Expected fractions val ≥ 0, test ≥ 0 and val + test < 1; found {val} and {test}.")
    codes, unique = pd.factorize(pd.Series(list(patients), dtype="object"))
    draws = np.array([derive_seed(seed, "split", str(p)) / 2**63 for p in unique])
    chosen = np.where(draws < test, "test", np.where(draws < test + val, "val", "train"))
    if official is not None:
        given = pd.Series(list(official), dtype="object").to_numpy()
        for name in ("train", "val", "test"):
            chosen[np.unique(codes[given == name])] = name
    return chosen[codes]
