"""Mean of the highest cells."""

from __future__ import annotations

from torch import Tensor

from hilum.models.pooling.base import Pooling


class TopKPooling(Pooling):
    """Mean of the highest cell logits (Durand et al. 2016, WELDON, without its bottom cells).

    ``fraction``: of the cells that count, in (0, 1]; 1 is mean pooling. Raises ``ValueError``.
    """

    def __init__(self, channels: int, findings: int, fraction: float = 0.1) -> None:
        super().__init__(channels, findings)
        if not 0 < fraction <= 1:
            raise ValueError(f"expected a fraction above 0 and at most 1; found {fraction}")
        self.fraction = fraction

    def pool(self, logits: Tensor) -> Tensor:
        """Return S = (1/k) Σ of the k highest s_i, k = max(1, round(fraction · N))."""
        k = max(1, round(self.fraction * logits.shape[2]))
        return logits.topk(k, 2).values.mean(2)
