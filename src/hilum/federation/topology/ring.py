"""A ring: the model goes from site to site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hilum.errors import StudyError
from hilum.federation.messages import ServerState
from hilum.federation.strategies.base import Strategy
from hilum.federation.topology.star import Star


@dataclass(frozen=True)
class Ring(Star):
    """The model goes from site to site, once around in every round; with FedAvg this is cyclic incremental learning."""

    def check(self, strategy: str, sites: Sequence[str]) -> None:
        """Refuse strategies with an order of their own."""
        if strategy in ("iil", "ciil"):
            raise StudyError(
                f"Expected the topology 'star' for '{strategy}', which goes from site to site; found 'ring'."
            )

    def next_wave(
        self, strategy: Strategy, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return the next site of the ring."""
        return {sites[wave]: round_} if wave < len(sites) else {}
