"""Every part has e times the patients of the one before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.sites.partitioners.quantity import QuantityPartitioner


class ExponentialPartitioner(QuantityPartitioner):
    """Numbers of patients as 1 : e : e² …"""

    def weights(self) -> NDArray[np.float64]:
        """Return e to the power of 1, 2, 3, …, scaled so that the largest is 1."""
        return np.exp(np.arange(1 - self.num_partitions, 1, dtype=np.float64))
