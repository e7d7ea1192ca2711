"""Cells weighted by their own probability."""

from __future__ import annotations

from torch import Tensor

from hilum.models.pooling.base import Pooling, logit


class LinearSoftmaxPooling(Pooling):
    """Mean of cell probabilities, weighted by themselves (Wang et al. 2019): no parameter to choose."""

    def pool(self, logits: Tensor) -> Tensor:
        """Return the logit of P = Σ p_i² / Σ p_i."""
        p = logits.sigmoid()
        log_total = p.sum(2).log()
        return logit((p * p).sum(2).log() - log_total, (p * (-logits).sigmoid()).sum(2).log() - log_total)
