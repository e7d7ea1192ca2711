"""Mean of the cells."""

from __future__ import annotations

from torch import Tensor

from hilum.models.pooling.base import Pooling


class MeanPooling(Pooling):
    """Mean of cell logits: global average pooling before a linear head (Zhou et al. 2016, CAM)."""

    def pool(self, logits: Tensor) -> Tensor:
        """Return S = (1/N) Σ s_i."""
        return logits.mean(2)
