"""A smooth maximum."""

from __future__ import annotations

import math

from torch import Tensor

from hilum.models.pooling.base import Pooling, log_mean_exp


class LogSumExpPooling(Pooling):
    """Smooth maximum of cell logits (Pinheiro & Collobert 2015).

    ``sharpness`` r > 0: r → 0 is the mean, r → ∞ the maximum. Raises ``ValueError``.
    """

    def __init__(self, channels: int, findings: int, sharpness: float = 5.0) -> None:
        super().__init__(channels, findings)
        if not 0 < sharpness < math.inf:
            raise ValueError(f"expected a finite sharpness above 0; found {sharpness}")
        self.sharpness = sharpness

    def pool(self, logits: Tensor) -> Tensor:
        """Return S = (1/r) log[(1/N) Σ exp(r s_i)]."""
        return log_mean_exp(logits, self.sharpness)
