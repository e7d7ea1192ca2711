"""Mean of the highest cells."""

from __future__ import annotations

from torch import Tensor

from hilum.models.pooling.base import Pooling


class TopKPooling(Pooling):
    """Mean of the highest cell logits, plus that of the lowest (Durand et al. 2016, WELDON).

    ``fraction``: of the cells that count as highest, in (0, 1]; 1 is mean pooling. ``bottom``: of the cells that count
    as lowest, in [0, 1]; 0 leaves them out. Raises ``ValueError``.
    """

    def __init__(self, channels: int, findings: int, fraction: float = 0.1, bottom: float = 0.0) -> None:
        super().__init__(channels, findings)
        if not 0 < fraction <= 1:
            raise ValueError(f"expected a fraction above 0 and at most 1; found {fraction}")
        if not 0 <= bottom <= 1:
            raise ValueError(f"expected a bottom fraction of at least 0 and at most 1; found {bottom}")
        self.fraction, self.bottom = fraction, bottom

    def pool(self, logits: Tensor) -> Tensor:
        """Return S = (1/k⁺) Σ of the k⁺ highest s_i + (1/k⁻) Σ of the k⁻ lowest, k = max(1, round(fraction · N))."""
        highest = logits.topk(self._cells(self.fraction, logits), 2).values.mean(2)
        if self.bottom == 0:
            return highest
        return highest + logits.topk(self._cells(self.bottom, logits), 2, largest=False).values.mean(2)

    @staticmethod
    def _cells(fraction: float, logits: Tensor) -> int:
        return max(1, round(fraction * logits.shape[2]))
