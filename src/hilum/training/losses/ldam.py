"""Rare classes get a wider margin."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import TINY, Loss, in_range


class LDAM(Loss):
    """BCE of logits that lack a margin ∝ n^(−1/4) of their class (LDAM, Cao et al. 2019, eq. 13, by finding).

    ``margin``: that of the rarest class of all findings. A class of which a participant has no label has none.
    """

    def __init__(self, *counts: Any, margin: float = 0.5) -> None:
        super().__init__(*counts)
        margin = in_range("margin", margin, 0, 10)
        widths = [count.clamp(min=1) ** -0.25 * (count > 0) for count in (self.positive, self.negative)]
        widest = max(TINY, *(float(width.max()) for width in widths))
        self.positive_margin, self.negative_margin = (margin * width / widest for width in widths)

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of the logits moved towards the other class."""
        moved = (1 - targets) * self.negative_margin.to(logits) - targets * self.positive_margin.to(logits)
        return F.binary_cross_entropy_with_logits(logits + moved, targets, reduction="none")
