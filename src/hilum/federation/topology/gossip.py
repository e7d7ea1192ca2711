"""No server: neighbours mix their models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import StudyError
from hilum.federation.messages import LabelCounts, Reply, ServerState
from hilum.federation.strategies.base import Strategy
from hilum.federation.topology.star import Star, lists_names, require_count
from hilum.training.state import State

PEER = "peer/"
# Strategies whose server's half is a mean alone, which neighbours can take as well.
MEANS = ("fedavg", "fedprox", "silobn", "fedbn", "fedrep", "ditto", "fedmlp", "fedlsm")


def metropolis(neighbours: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the symmetric doubly stochastic matrix (K, K) of a graph, W_ij = 1 / (1 + max(d_i, d_j)).

    ``neighbours`` (K, K): symmetric; the diagonal does not count. Source: Xiao and Boyd 2004, Metropolis–Hastings.
    """
    edges = neighbours & ~np.eye(len(neighbours), dtype=bool)
    degree = edges.sum(1)
    matrix = np.where(edges, 1.0 / (1 + np.maximum(degree[:, None], degree[None, :])), 0.0)
    return matrix + np.diag(1 - matrix.sum(1))


def ring_of(sites: int) -> NDArray[np.bool_]:
    """Return the graph (K, K) in which everyone has two neighbours."""
    step = np.roll(np.eye(sites, dtype=bool), 1, 1)
    return step | step.T


@dataclass(frozen=True)
class Gossip(Star):
    """Every site keeps its own model and mixes it with its neighbours' after a round (D-PSGD, Lian et al. 2017).

    ``graph``: 'complete', 'ring', or the neighbours of each site. ``steps``: mixings a round. The weights are
    doubly stochastic, so the mean of the models is that of the sites, which is what is validated and kept; the
    distance from it falls as |λ₂|^steps. Sites weigh the same, whatever tau.
    """

    graph: str | Mapping[str, Sequence[str]] = "ring"
    steps: int = 1

    def __post_init__(self) -> None:
        if not lists_names(self.graph) and self.graph not in ("complete", "ring"):
            raise StudyError(
                "Expected graph 'complete', 'ring' or {site: [neighbour, …], …}, every name as text (in quotes where "
                f"it is a number); found {self.graph!r}."
            )
        require_count("steps", self.steps)

    def check(self, strategy: str, sites: Sequence[str]) -> None:
        """Refuse a graph of other sites or one that leaves a site out, and what needs a server."""
        if not isinstance(self.graph, str):
            strangers = sorted(({*self.graph} | {n for near in self.graph.values() for n in near}) - set(sites))
            if strangers:
                raise StudyError(f"Expected training sites in federation.topology.graph; found {', '.join(strangers)}.")
        if not (np.linalg.matrix_power(self.matrix(sites), len(sites)) > 0).all():
            raise StudyError("Expected federation.topology.graph to connect all sites; some are never reached.")
        if strategy not in MEANS:
            raise StudyError(f"Expected a strategy among {', '.join(MEANS)} for gossip; found '{strategy}'.")

    def matrix(self, sites: Sequence[str]) -> NDArray[np.float64]:
        """Return the mixing matrix (K, K) of one step among the sites of a round."""
        if isinstance(self.graph, str):
            graphs = {"complete": np.ones((len(sites), len(sites)), bool), "ring": ring_of(len(sites))}
            return metropolis(graphs[self.graph])
        near = np.array([[b in self.graph.get(a, ()) or a in self.graph.get(b, ()) for b in sites] for a in sites])
        return metropolis(near)

    def state_for(self, site: str, server: ServerState) -> State:
        """Return the site's own model."""
        prefix = f"{PEER}{site}/"
        own = {n.removeprefix(prefix): t for n, t in server.extra.items() if n.startswith(prefix)}
        return own or server.state

    def model_for(self, site: str, server: ServerState) -> State:
        """Return the mean of the models, which is what is kept."""
        return server.state

    def at_server(
        self,
        strategy: Strategy,
        server: ServerState,
        replies: Iterable[Reply],
        asked: Mapping[str, LabelCounts],
        last: bool,
    ) -> ServerState:
        """Mix the models of the sites that are there; the server only keeps them, and the mean of all.

        A site that is asked and lost mixes the model that it began with; one that is not asked keeps its own.
        """
        sites, everybody = sorted(asked), sorted({*server.members(), *asked})
        models = {site: self.state_for(site, server) for site in everybody}
        models |= {reply.site: dict(reply.state) for reply in replies}
        mixing = torch.from_numpy(np.linalg.matrix_power(self.matrix(sites), self.steps))
        extra, mean = dict(server.extra), dict(server.state)
        for name, old in server.state.items():
            if not old.is_floating_point():
                extra |= {f"{PEER}{site}/{name}": old.clone() for site in sites}
                continue
            mixed = torch.tensordot(mixing, torch.stack([models[site][name].double() for site in sites]), 1)
            parts = {site: models[site][name].double() for site in everybody} | dict(zip(sites, mixed, strict=True))
            mean[name] = torch.stack(list(parts.values())).mean(0).to(old.dtype)
            extra |= {f"{PEER}{site}/{name}": parts[site].to(old.dtype) for site in sites}
        return replace(server, state=mean, extra=extra)
