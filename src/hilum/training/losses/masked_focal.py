"""Focal loss over the labels that are known."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

GAMMA = 2.0


def masked_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean focal loss (Lin et al. 2017, eq. 4, γ = 2, no α) over known labels; 0 when none is.

    Shapes: ``logits`` (B, C); ``targets`` (B, C) in {0, 1, NaN}.
    """
    known = ~targets.isnan()
    y = targets.nan_to_num(0.0)
    losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    missed = (y - logits.sigmoid()).abs()
    return (missed**GAMMA * losses * known).sum() / known.sum().clamp(min=1)
