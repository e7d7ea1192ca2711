"""Binary cross-entropy over the labels that are known."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return Σ m·BCE(logits, targets) / Σ m, m = 1 where the label is known; 0 when none is.

    Shapes: ``logits`` (B, C); ``targets`` (B, C) in {0, 1, NaN}.
    """
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
