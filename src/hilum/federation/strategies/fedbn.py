"""Batch normalization that stays at the site."""

from __future__ import annotations

from dataclasses import dataclass

from hilum.federation.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedBN(FedAvg):
    """Federated averaging whose batch normalization stays at the site, statistics and weights (Li et al. 2021)."""

    normalization: str = "local"
