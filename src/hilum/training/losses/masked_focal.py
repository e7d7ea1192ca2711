"""Focal loss over the labels that are known."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import Loss, in_range, power


class MaskedFocal(Loss):
    """Cross-entropy of what is missed: |y − p|^γ · BCE (Lin et al. 2017, eq. 4, no α). ``gamma``: γ, 0 is BCE."""

    def __init__(self, *counts: Any, gamma: float = 2.0) -> None:
        super().__init__(*counts)
        self.gamma = in_range("gamma", gamma, 0, 10)

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return |y − p|^γ · BCE."""
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return power((targets - logits.sigmoid()).abs(), self.gamma) * losses
