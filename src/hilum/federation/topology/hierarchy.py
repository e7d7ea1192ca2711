"""Regions, each with a server of its own, below one server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hilum.errors import StudyError
from hilum.federation.messages import LabelCounts, Reply, ServerState
from hilum.federation.strategies.base import Strategy
from hilum.federation.tally import Tally
from hilum.federation.topology.star import Star, lists_names, require_count
from hilum.training.state import State


@dataclass(frozen=True)
class Hierarchy(Star):
    """Sites talk with the server of their region, regions with one server, every ``region_rounds`` waves of a round.

    ``regions``: the sites of each. With one wave a round the result is the star's, as the weights of sites compose.
    In between, a region's model is the mean of its sites (hierarchical averaging, Liu et al. 2020).
    """

    regions: Mapping[str, Sequence[str]]
    region_rounds: int = 1

    def __post_init__(self) -> None:
        if not lists_names(self.regions) or any("/" in name for name in self.regions):
            raise StudyError(
                "Expected regions as {name: [site, …], …}, every name as text (in quotes where it is a number) and "
                f"none of a region with '/'; found {self.regions!r}."
            )
        require_count("region_rounds", self.region_rounds)

    def check(self, strategy: str, sites: Sequence[str]) -> None:
        """Refuse sites that are in no region or in several, and what keeps more at the server than a model."""
        listed = [site for region in self.regions.values() for site in region]
        if sorted(listed) != sorted(sites):
            raise StudyError(
                f"Expected every training site in one of federation.topology.regions; found {', '.join(listed)} "
                f"for the sites {', '.join(sorted(sites))}."
            )
        if strategy in ("iil", "ciil") or (self.region_rounds > 1 and strategy not in STATELESS):
            raise StudyError(
                f"Expected a strategy among {', '.join(STATELESS)} for several waves in regions; found '{strategy}'."
            )

    def next_wave(
        self, strategy: Strategy, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return all sites, ``region_rounds`` times."""
        return dict.fromkeys(sites, round_) if wave < self.region_rounds else {}

    def state_for(self, site: str, server: ServerState) -> State:
        """Return the region's weights, or the server's at the start of a round."""
        return self._regional(self._region(site), server) or server.state

    def at_server(
        self,
        strategy: Strategy,
        server: ServerState,
        replies: Iterable[Reply],
        asked: Mapping[str, LabelCounts],
        last: bool,
    ) -> ServerState:
        """Sum up by region; in the last wave, sum the regions up.

        What nobody of a region weighs in, rows of the head or all of it, stays as it was there.
        """
        tallies: dict[str, Tally] = {}
        lost = dict(asked)
        for reply in replies:
            del lost[reply.site]
            part = strategy.collect(server, [reply], asked)
            region = self._region(reply.site)
            if region in tallies:
                tallies[region].merge(part)
            else:
                tallies[region] = part
        without = {n: t for n, t in server.extra.items() if not n.startswith("region/")}
        if not last:
            regional: State = {}
            for region, tally in tallies.items():
                before = replace(server, state=self._regional(region, server) or server.state)
                after = strategy.step(before, tally).state
                regional |= {f"region/{region}/{name}": tensor for name, tensor in after.items()}
            return replace(server, extra=server.extra | regional)
        for region in sorted({self._region(site) for site in lost}):
            own = self._regional(region, server)
            if not own:
                continue
            sites = [site for site in self.regions[region] if site in lost]
            same = (Reply(site, server.round + 1, own, asked[site]) for site in sites)
            as_it_was = strategy.collect(server, same, asked)
            if region in tallies:
                tallies[region].fill(as_it_was)
            else:
                tallies[region] = as_it_was
        if not tallies:
            return server
        total, *others = (tallies[region] for region in sorted(tallies))
        for tally in others:
            total.merge(tally)
        return strategy.step(replace(server, extra=without), total)

    def _regional(self, region: str, server: ServerState) -> State:
        prefix = f"region/{region}/"
        return {n.removeprefix(prefix): t for n, t in server.extra.items() if n.startswith(prefix)}

    def _region(self, site: str) -> str:
        return next(name for name, sites in self.regions.items() if site in sites)


STATELESS = ("fedavg", "fedprox", "silobn", "fedbn", "fedrep", "ditto", "surgical", "fedmlp", "fedlsm")
