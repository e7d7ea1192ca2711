"""Cyclic institutional incremental learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hilum.federation.messages import ServerState
from hilum.federation.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class CIIL(FedAvg):
    """The model goes from site to site, once around in every round (cyclic learning, Sheller et al. 2020)."""

    sums: ClassVar[bool] = False

    def next_wave(
        self, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return the next site of the circle."""
        return {sites[wave]: round_} if wave < len(sites) else {}
