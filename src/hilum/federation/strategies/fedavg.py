"""Federated averaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hilum.errors import StudyError
from hilum.federation.aggregation import aggregate, in_canonical_order, pooled_norm_stats, site_weights
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.strategies import NORMALIZATION_POLICIES, WEIGHTINGS
from hilum.models.classifier import StateGroup
from hilum.training.loop import LocalTrainer
from hilum.training.state import State


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017), per group of tensors (see ``aggregation.aggregate``).

    One site is plain training. ``tau``: site weights ∝ n^tau. ``normalization``: one of
    ``NORMALIZATION_POLICIES``. ``weighting``: one of ``WEIGHTINGS``.
    """

    groups: Mapping[str, StateGroup]
    tau: float = 0.5
    normalization: str = "averaged"
    weighting: str = "known"

    def __post_init__(self) -> None:
        if self.normalization not in NORMALIZATION_POLICIES:
            raise StudyError(
                f"Expected federation.normalization among {', '.join(NORMALIZATION_POLICIES)}; "
                f"found '{self.normalization}'."
            )
        if self.weighting not in WEIGHTINGS:
            raise StudyError(f"Expected federation.weighting among {', '.join(WEIGHTINGS)}; found '{self.weighting}'.")

    def at_site(self, task: Task, site_state: State, trainer: LocalTrainer) -> tuple[Reply, State]:
        """Do the site's half of a round: (task, site state) → (reply, site state)."""
        examples = trainer.train_examples
        counts = LabelCounts(len(examples), examples.known().sum(0), examples.positive().sum(0))
        start = task.state | site_state
        if task.kind == "recalibrate":
            state = trainer.recalibrate(start)
            return Reply(trainer.name, task.round, state, counts), self._kept(state)
        fit = trainer.fit(start, task.round, task.global_prior)
        reply = Reply(trainer.name, task.round, fit.state, counts, fit.loss, fit.updates)
        return reply, self._kept(fit.state)

    def at_server(self, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """Do the server's half of a round: (server state, replies) → server state."""
        counts = [reply.counts for reply in replies]
        states = [reply.state for reply in replies]
        state = aggregate(server.state, states, counts, self.groups, self.tau, self.weighting)
        return ServerState(server.round + 1, state, server.extra)

    def recalibrate_at_server(self, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """Replace the statistics by those of the mixture of sites; the weights do not change."""
        states, counts = in_canonical_order([reply.state for reply in replies], [reply.counts for reply in replies])
        stats = pooled_norm_stats(states, self.groups, site_weights(counts, self.tau, self.weighting))
        return ServerState(server.round, server.state | stats, server.extra)

    def _kept(self, state: State) -> State:
        if self.normalization != "site":
            return {}
        return {name: state[name] for name, group in self.groups.items() if group == "norm_stats"}
