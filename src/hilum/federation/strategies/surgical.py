"""Surgical aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hilum.federation.aggregation import Weight, weights_of
from hilum.federation.messages import LabelCounts
from hilum.federation.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class Surgical(FedAvg):
    """Head rows are the plain mean of the sites that label the finding (surgical aggregation, Kulkarni et al. 2024)."""

    def weights(self, counts: Mapping[str, LabelCounts]) -> dict[str, Weight]:
        """Return the weight of every site, in a row of the head 1 / (sites that label it)."""
        return weights_of(counts, self.tau, self.weighting, rows="uniform")
