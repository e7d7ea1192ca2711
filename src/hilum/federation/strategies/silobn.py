"""Statistics of batch normalization that stay at the site."""

from __future__ import annotations

from dataclasses import dataclass

from hilum.federation.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class SiloBN(FedAvg):
    """Federated averaging whose batch statistics stay at the site (Andreux et al. 2020); scale and shift are shared."""

    normalization: str = "site"
