"""The image shows a finding unless every cell does not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.models.pooling.base import Pooling

SMALL = 1e-6  # below this P is the sum of what the cells add, within a millionth


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
        """Return the logit of P, in log space: log P − log Π (1 − p_i)."""
        low, high = logits.clamp(max=0), logits.clamp(min=0)  # p_i below and above one half
        likely = F.logsigmoid(-high)
        if self.floor:
            likely = torch.logaddexp(likely, math.log(self.floor) + F.logsigmoid(high))
        unlikely = torch.log1p((self.floor - 1) * low.sigmoid())
        log_none = torch.where(logits < 0, unlikely, likely).sum(2)
        first_order = (math.log(1 - self.floor) + F.logsigmoid(logits)).logsumexp(2)
        exact = torch.log(-torch.expm1(log_none.clamp(max=-SMALL)))
        return torch.where(log_none > -SMALL, first_order, exact) - log_none
