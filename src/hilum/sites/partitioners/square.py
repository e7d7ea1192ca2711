"""Part k has k² times the patients of the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.sites.partitioners.quantity import QuantityPartitioner


class SquarePartitioner(QuantityPartitioner):
    """Numbers of patients as 1 : 4 : 9 …"""

    def weights(self) -> NDArray[np.float64]:
        """Return 1, 4, 9, …"""
        return np.arange(1, self.num_partitions + 1, dtype=np.float64) ** 2
