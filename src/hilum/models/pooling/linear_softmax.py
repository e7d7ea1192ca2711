"""Cells weighted by their own probability."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.models.pooling.base import Pooling


class LinearSoftmaxPooling(Pooling):
    """Mean of cell probabilities, weighted by themselves (Wang et al. 2019): no parameter to choose."""

    def pool(self, logits: Tensor) -> Tensor:
        """Return the logit of P = Σ p_i² / Σ p_i."""
        # In logarithms, and without the common factor 1 / Σ p_i: σ(-100) is 0 in float32.
        log_p = F.logsigmoid(logits)
        return torch.logsumexp(2 * log_p, 2) - torch.logsumexp(log_p + F.logsigmoid(-logits), 2)
