"""Binary cross-entropy over the labels that are known."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import Loss


class MaskedBCE(Loss):
    """Σ m·BCE(logits, targets) / Σ m, m = 1 where the label is known."""

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return −y log p − (1 − y) log(1 − p)."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


masked_bce = MaskedBCE()
