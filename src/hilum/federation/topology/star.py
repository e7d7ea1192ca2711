"""Every site and one server; and what every topology answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hilum.errors import StudyError
from hilum.federation.messages import LabelCounts, Reply, ServerState
from hilum.federation.strategies.base import Strategy
from hilum.training.state import State


def require_count(option: str, value: object) -> None:
    """Refuse an option that is no whole number of 1 or more (``StudyError``)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StudyError(f"Expected a whole number of 1 or more for the option '{option}'; found {value!r}.")


def lists_names(value: object) -> bool:
    """Tell whether a value is {name: [name, …], …}, with text for every name."""
    return isinstance(value, Mapping) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in (key, *names)) for key, names in value.items()
    )


@dataclass(frozen=True)
class Star:
    """Every site talks with one server, all in every round."""

    def check(self, strategy: str, sites: Sequence[str]) -> None:
        """Refuse a strategy or sites that do not fit (``StudyError``)."""

    def next_wave(
        self, strategy: Strategy, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return the sites that train in a wave, each with its visit; none ends the round."""
        return strategy.next_wave(server, round_, rounds, wave, sites)

    def state_for(self, site: str, server: ServerState) -> State:
        """Return the weights that a site starts a wave from."""
        return server.state

    def model_for(self, site: str, server: ServerState) -> State:
        """Return the weights that a site validates."""
        return self.state_for(site, server)

    def at_server(
        self,
        strategy: Strategy,
        server: ServerState,
        replies: Iterable[Reply],
        asked: Mapping[str, LabelCounts],
        last: bool,
    ) -> ServerState:
        """Take the replies of a wave; ``last``: no other follows in the round."""
        tally = strategy.collect(server, replies, asked)
        return strategy.step(server, tally) if tally.replies else server
