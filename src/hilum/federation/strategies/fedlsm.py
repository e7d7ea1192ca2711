"""Confident predictions of the server's model as labels that a site lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from hilum.federation.strategies.fedmlp import FedMLP, Taught
from hilum.training.rules import LocalRule


class PseudoLabelled(Taught):
    """Cross-entropy with the teacher's confident predictions as labels."""

    def __init__(self, weight: float, low: float, high: float) -> None:
        super().__init__(weight)
        self.low, self.high = low, high

    def lesson(self, logits: Tensor, taught: Tensor, unknown: Tensor) -> Tensor:
        """Return the cross-entropy where the teacher is below ``low`` or above ``high``."""
        sure = unknown & ((taught < self.low) | (taught > self.high))
        if not bool(sure.any()):
            return logits.sum() * 0.0
        return F.binary_cross_entropy_with_logits(logits[sure], (taught[sure] > self.high).to(logits.dtype))


@dataclass(frozen=True)
class FedLSM(FedMLP):
    """Confident predictions of the server's model stand for labels that a site lacks (FedLSM, Deng et al. 2023)."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {**FedMLP.ranges, "low": (0, 0.5), "high": (0.5, 1)}

    low: float = 0.1
    high: float = 0.9

    def lesson(self) -> LocalRule:
        """Return the rule that teaches."""
        return PseudoLabelled(self.weight, self.low, self.high)
