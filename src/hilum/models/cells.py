"""Cells of a map: how likely they are, and what they cost against labels that a map gives them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SUREST = 16.0  # from 16.7 on, float32 has no sigmoid below 1, and 1 has no gradient


def cell_probabilities(logits: Tensor) -> Tensor:
    """Return σ(min(x, ``SUREST``)) of the logits of cells, any shape, float32; its gradient is that of a free x.

    A cell that is sure and wrong then has a finite cross-entropy, and its whole gradient.
    """
    return (logits.clamp(max=SUREST).detach() + (logits - logits.detach())).sigmoid()


def cell_cross_entropy(cells: Tensor, targets: Tensor, sure: Tensor, clear: Tensor) -> Tensor | None:
    """Return the cross-entropy of cells (B, C, h, w) in [0, 1]; None without a known label.

    ``targets`` (B, C), NaN unknown. Without a finding every cell is negative. With it, from 0.5 on, those that are
    ``sure`` (B, C, h, w) are positive, those that are ``clear`` negative, and the others are left out. Each known
    label's cells weigh as much as another's.
    """
    known = ~targets.isnan()
    if not bool(known.any()):
        return None
    positive = (targets >= 0.5)[:, :, None, None]
    counted = (~positive | sure | clear) & known[:, :, None, None]
    costs = F.binary_cross_entropy(cells, (positive & sure).float(), reduction="none") * counted
    means = costs.sum((2, 3)) / counted.sum((2, 3)).clamp(min=1)
    return means.sum() / known.sum()
