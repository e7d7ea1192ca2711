"""Adam at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hilum.federation.strategies.fedavgm import ServerOptimizer


@dataclass(frozen=True)
class FedAdam(ServerOptimizer):
    """Adam on the mean update (FedAdam, Reddi et al. 2021); ``adaptivity``: their τ, a floor of the spread."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "server_lr": (0, float("inf")),
        "beta1": (0, 1),
        "beta2": (0, 1),
        "adaptivity": (1e-9, float("inf")),
    }

    server_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    adaptivity: float = 1e-3

    @property
    def moments(self) -> Sequence[str]:
        """Names of the first and the second moment."""
        return ("first", "second")

    def first(self, moment: str, weight: Tensor) -> Tensor:
        """Return 0 for the first moment and τ² for the second."""
        return torch.full_like(weight, self.adaptivity**2 if moment == "second" else 0.0)

    def move(self, update: Tensor, moments: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return m / (√v + τ)."""
        first = self.beta1 * moments["first"] + (1 - self.beta1) * update
        second = self.second(moments["second"], update**2)
        return first / (second.sqrt() + self.adaptivity), {"first": first, "second": second}

    def second(self, before: Tensor, square: Tensor) -> Tensor:
        """Return v ← β₂ v + (1 − β₂) Δ²."""
        return self.beta2 * before + (1 - self.beta2) * square
