"""A smooth maximum whose sharpness is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hilum.models.pooling.base import Pooling, log_mean_exp


class LseLbaPooling(Pooling):
    """Log-sum-exp with a learned sharpness a finding, bounded from below (LSE-LBA, Yao et al. 2018).

    ``lower_bound`` r₀ > 0; training begins at r = r₀ + 1. Raises ``ValueError``.
    """

    per_finding = ("beta",)

    def __init__(self, channels: int, findings: int, lower_bound: float = 0.5) -> None:
        super().__init__(channels, findings)
        if not 0 < lower_bound < math.inf:
            raise ValueError(f"expected a finite lower_bound above 0; found {lower_bound}")
        self.lower_bound = lower_bound
        self.beta = nn.Parameter(torch.zeros(findings))

    def pool(self, logits: Tensor) -> Tensor:
        """Return S = (1/r) log[(1/N) Σ exp(r s_i)] with r = r₀ + exp(β) of each finding."""
        return log_mean_exp(logits, self.lower_bound + self.beta.exp()[:, None])
