"""Both classes of a finding weigh the same."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import Loss


class WeightedBCE(Loss):
    """BCE with weights n / n⁺ and n / n⁻ of a site's labels, scaled to a mean of 1 over them (Wang et al. 2017)."""

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted cross-entropy."""
        weights = self.balanced(1 / self.positive.clamp(min=1), 1 / self.negative.clamp(min=1), targets)
        return weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
