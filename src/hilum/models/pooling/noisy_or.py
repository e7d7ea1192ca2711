"""The image shows a finding unless every cell does not."""

from __future__ import annotations

import torch
from torch import Tensor

from hilum.models.pooling.base import Pooling


class NoisyOrPooling(Pooling):
    """P = 1 − Π (1 − p_i), each factor rescaled to [floor, 1] so that many cells do not saturate.

    ``floor``: 0.98 as in Li et al. 2018 (CVPR); 0 is the plain noisy-or; below 1. One cell alone raises P by at most
    1 - floor, so that a finding of few cells is hardly told. Raises ``ValueError``.
    """

    def __init__(self, channels: int, findings: int, floor: float = 0.98) -> None:
        super().__init__(channels, findings)
        if not 0 <= floor < 1:
            raise ValueError(f"expected a floor of at least 0 and below 1; found {floor}")
        self.floor = floor

    def pool(self, logits: Tensor) -> Tensor:
        """Return the logit of P, computed in log space."""
        scaled = (1 - self.floor) * logits.sigmoid()
        log_none = torch.log1p(-scaled.clamp(max=1 - 1e-6)).sum(2).clamp(max=-1e-30)
        return torch.log(-torch.expm1(log_none)) - log_none
