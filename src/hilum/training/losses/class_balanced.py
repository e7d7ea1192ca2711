"""Classes weigh by how many different images they hold."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import Loss, in_range


class ClassBalanced(Loss):
    """BCE weighed by the inverse effective number (1 − β) / (1 − βⁿ) of each class of a finding (Cui et al. 2019).

    ``beta``: β; 0 is BCE, towards 1 it is ``weighted_bce``.
    """

    def __init__(self, *counts: Any, beta: float = 0.999) -> None:
        super().__init__(*counts)
        self.beta = in_range("beta", beta, 0, 1 - 1e-6)

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted cross-entropy."""
        weights = self.balanced(self._inverse(self.positive), self._inverse(self.negative), targets)
        return weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    def _inverse(self, count: Tensor) -> Tensor:
        return ((1 - self.beta) / (1 - self.beta ** count.clamp(min=1).double())).float()
