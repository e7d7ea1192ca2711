"""Yogi at the server."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hilum.federation.strategies.fedadam import FedAdam


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """Yogi on the mean update (FedYogi, Reddi et al. 2021): the second moment moves by at most Δ²."""

    def second(self, before: Tensor, square: Tensor) -> Tensor:
        """Return v ← v − (1 − β₂) Δ² sign(v − Δ²)."""
        return before - (1 - self.beta2) * square * (before - square).sign()
