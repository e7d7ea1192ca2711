"""Federated averaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hilum.errors import StudyError
from hilum.federation.aggregation import aggregate, in_canonical_order, own_rows, pooled_norm_stats, site_weights
from hilum.federation.messages import Reply, ServerState, Task, counts_of
from hilum.federation.strategies import HEADS, NORMALIZATION_POLICIES, WEIGHTINGS
from hilum.models.classifier import StateGroup
from hilum.models.site_heads import pack_heads
from hilum.training.loop import LocalTrainer
from hilum.training.state import State


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017), per group of tensors (see ``aggregation.aggregate``).

    One site is plain training. ``tau``: site weights ∝ n^tau. ``normalization``: one of
    ``NORMALIZATION_POLICIES``. ``weighting``: one of ``WEIGHTINGS``. ``head``: one of ``HEADS``; 'site' keeps
    a site's own head row of each finding of which it has both classes (FedPer, Arivazhagan et al. 2019, by row), for
    hospitals whose labels of one finding contradict each other.
    """

    groups: Mapping[str, StateGroup]
    tau: float = 0.5
    normalization: str = "averaged"
    weighting: str = "known"
    head: str = "shared"

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATION_POLICIES:
            raise StudyError(
                f"Expected federation.normalization among {', '.join(NORMALIZATION_POLICIES)}; "
                f"found '{self.normalization}'."
            )
        if self.weighting not in WEIGHTINGS:
            raise StudyError(f"Expected federation.weighting among {', '.join(WEIGHTINGS)}; found '{self.weighting}'.")
        if self.head not in HEADS:
            raise StudyError(f"Expected federation.head among {', '.join(HEADS)}; found '{self.head}'.")

    def closing(self, sites: int) -> tuple[str, ...]:
        """Return the tasks after the last round: new statistics first, then the features that they give."""
        recalibrate = ("recalibrate",) if self.normalization == "recalibrated" else ()
        return recalibrate + (("describe",) if self.head == "site" and sites > 1 else ())

    def model_at_site(self, state: State, site_state: State, trainer: LocalTrainer) -> State:
        """Return the server's weights with the site's statistics, and of the head the site's own rows."""
        own = torch.from_numpy(own_rows(counts_of(trainer.train_examples)))
        kept = dict(site_state)
        for name in (n for n in site_state if self.groups[n] == "head"):
            kept[name] = torch.where(own.view(-1, *[1] * (state[name].dim() - 1)), site_state[name], state[name])
        return state | kept

    def at_site(self, task: Task, site_state: State, trainer: LocalTrainer) -> tuple[Reply, State]:
        """Do the site's half of a round: (task, site state) → (reply, site state)."""
        counts = counts_of(trainer.train_examples)
        start = self.model_at_site(task.state, site_state, trainer)
        if task.kind == "recalibrate":
            state = trainer.recalibrate(start)
            return Reply(trainer.name, task.round, state, counts), self._kept(state)
        if task.kind == "describe":
            moments = trainer.feature_moments(task.state) if own_rows(counts).any() else None
            return Reply(trainer.name, task.round, start, counts, moments=moments), self._kept(start)
        fit = trainer.fit(start, task.round, task.global_prior)
        reply = Reply(trainer.name, task.round, fit.state, counts, fit.loss, fit.updates)
        return reply, self._kept(fit.state)

    def at_server(self, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """Do the server's half of a round: (server state, replies) → server state."""
        counts = [reply.counts for reply in replies]
        states = [reply.state for reply in replies]
        state = aggregate(server.state, states, counts, self.groups, self.tau, self.weighting)
        return ServerState(server.round + 1, state, server.extra)

    def close_at_server(self, kind: str, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """Take the statistics of the mixture of sites, or the heads of the sites; no weight changes."""
        if kind == "describe":
            return ServerState(server.round, server.state, server.extra | self._site_heads(replies))
        states, counts = in_canonical_order([reply.state for reply in replies], [reply.counts for reply in replies])
        stats = pooled_norm_stats(states, self.groups, site_weights(counts, self.tau, self.weighting))
        return ServerState(server.round, server.state | stats, server.extra)

    def _site_heads(self, replies: Sequence[Reply]) -> State:
        """Return the tensors of ``SiteHeads``; none where no site has rows of its own."""
        moments = {reply.site: reply.moments for reply in replies if reply.moments is not None}
        if not moments:
            return {}
        names = [name for name, group in self.groups.items() if group == "head"]
        rows = {reply.site: {name: reply.state[name] for name in names} for reply in replies}
        own = {reply.site: torch.from_numpy(own_rows(reply.counts)) for reply in replies}
        return pack_heads(moments, own, rows)

    def _kept(self, state: State) -> State:
        kept = {"norm_stats": self.normalization == "site", "head": self.head == "site"}
        return {name: state[name] for name, group in self.groups.items() if kept.get(group, False)}
