"""Images with several findings count less often, and easy negatives less."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.training.losses.base import Loss, in_range

FLOOR, STEEPNESS, MIDDLE = 0.1, 10.0, 0.2  # α, β, μ of the smoothing of the weights


class DistributionBalanced(Loss):
    """r̂ [y log(1+e^(−(x−ν))) + (1−y) log(1+e^(λ(x−ν))) / λ] (Wu et al. 2020, eqs. 3–8).

    r = (1/n_c) / Σ over the image's findings of 1/n, r̂ = α + σ(β (r − μ)), and 1 for images without a finding;
    ν_c = κ log(1/p_c − 1) with the prevalence p_c. ``tolerance``: λ. ``shift``: κ.
    """

    def __init__(self, *counts: Any, tolerance: float = 5.0, shift: float = 0.05) -> None:
        super().__init__(*counts)
        self.tolerance, self.shift = in_range("tolerance", tolerance, 1, 100), in_range("shift", shift, 0, 1)

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the rebalanced cost of every label."""
        rarity = (1 / self.positive.clamp(min=1)).to(logits)
        repeats = (targets * rarity).sum(1, keepdim=True)
        ratio = torch.where(repeats > 0, rarity / repeats.clamp(min=1e-12), torch.ones(()).to(logits))
        weights = FLOOR + (STEEPNESS * (ratio - MIDDLE)).sigmoid()
        odds = (self.negative.clamp(min=1) / self.positive.clamp(min=1)).to(logits)
        moved = logits - self.shift * odds.log()
        negative = F.softplus(self.tolerance * moved) / self.tolerance
        return weights * (targets * F.softplus(-moved) + (1 - targets) * negative)
