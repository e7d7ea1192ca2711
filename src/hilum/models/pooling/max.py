"""The highest cell."""

from __future__ import annotations

from torch import Tensor

from hilum.models.pooling.base import Pooling


class MaxPooling(Pooling):
    """The highest cell logit: a bag is positive if one instance is."""

    def pool(self, logits: Tensor) -> Tensor:
        """Return S = max s_i."""
        return logits.amax(2)
