"""Easy negatives count less than easy positives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import Loss, in_range, power


class Asymmetric(Loss):
    """−y (1−p)^γ₊ log p − (1−y) p_m^γ₋ log(1−p_m), p_m = max(p − m, 0) (ASL, Ridnik et al. 2021, eq. 7).

    ``gamma_positive``, ``gamma_negative``: γ₊ and γ₋. ``margin``: m, the probability below which a negative is right.
    """

    def __init__(
        self, *counts: Any, gamma_positive: float = 1.0, gamma_negative: float = 4.0, margin: float = 0.05
    ) -> None:
        super().__init__(*counts)
        self.gamma_positive = in_range("gamma_positive", gamma_positive, 0, 10)
        self.gamma_negative = in_range("gamma_negative", gamma_negative, 0, 10)
        self.margin = in_range("margin", margin, 0, 0.5)

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the two parts, weighed by the target."""
        p = logits.sigmoid()
        shifted = (p - self.margin).clamp(min=0)
        right = -power(1 - p, self.gamma_positive) * F.logsigmoid(logits)
        wrong = -power(shifted, self.gamma_negative) * self._log_left(logits, shifted)
        return targets * right + (1 - targets) * wrong

    def _log_left(self, logits: Tensor, shifted: Tensor) -> Tensor:
        """Return log(1 − p_m), which has to be taken from the logit where hardly a margin keeps p_m from 1."""
        if self.margin >= 1e-6:
            return torch.log1p(-shifted)
        return torch.logaddexp(F.logsigmoid(-logits), logits.new_tensor(self.margin).log()).clamp(max=0)
