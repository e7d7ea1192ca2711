"""Part k has k times the patients of the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.sites.partitioners.quantity import QuantityPartitioner


class LinearPartitioner(QuantityPartitioner):
    """Numbers of patients as 1 : 2 : 3 …"""

    def weights(self) -> NDArray[np.float64]:
        """Return 1, 2, 3, …"""
        return np.arange(1, self.num_partitions + 1, dtype=np.float64)
