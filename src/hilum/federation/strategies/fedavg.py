"""Federated averaging, and the hooks in which the other strategies differ from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hilum.errors import StudyError
from hilum.federation.aggregation import MixtureStats, Weight, own_rows, rows_of, weights_of
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task, counts_of
from hilum.federation.strategies import HEADS, NORMALIZATION_POLICIES, WEIGHTINGS
from hilum.federation.tally import Tally
from hilum.models.classifier import StateGroup
from hilum.models.site_heads import HOME, FeatureMoments, pack_heads
from hilum.training.loop import Fit, LocalTrainer
from hilum.training.rules import LocalRule
from hilum.training.state import State

HEADS_OF = "heads/"  # of the server's tensors, those that ``SiteHeads`` is made of


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017), per group of tensors (see ``aggregation.weights_of``).

    One site is plain training. ``tau``: site weights ∝ n^tau. ``normalization``: one of
    ``NORMALIZATION_POLICIES``. ``weighting``: one of ``WEIGHTINGS``. ``head``: one of ``HEADS``; 'site' keeps
    a site's own head row of each finding of which it has both classes (FedPer, Arivazhagan et al. 2019, by row), for
    hospitals whose labels of one finding contradict each other.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}  # of the options that are numbers
    sums: ClassVar[bool] = True  # whether the mean of the states is all that the server needs to know of them

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
        for option, (low, high) in self.ranges.items():
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise StudyError(
                    f"Expected a number of {low:g} to {high:g} for the option '{option}'; found {value!r}."
                )

    @property
    def private(self) -> frozenset[StateGroup]:
        """Groups whose values are a site's own or statistics: they are averaged, and no update is made of them."""
        own: dict[StateGroup, bool] = {
            "norm_stats": True,
            "sums": True,
            "norm_affine": self.normalization == "local",
            "head": self.head == "site",
        }
        return frozenset(group for group, stays in own.items() if stays)

    def learned(self) -> list[str]:
        """Return the tensors that are learned in common."""
        return [name for name, group in self.groups.items() if group not in self.private]

    # The schedule.

    def next_wave(
        self, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return all sites at once, and then none."""
        return dict.fromkeys(sites, round_) if wave == 0 else {}

    def closing(self, sites: int) -> tuple[str, ...]:
        """Return the tasks after the last round: new statistics first, then the features that they give."""
        recalibrate = ("recalibrate",) if self.normalization == "recalibrated" else ()
        return recalibrate + (("describe",) if self.head == "site" and sites > 1 else ())

    # The site's half.

    def extra_for(self, site: str, server: ServerState) -> State:
        """Return the strategy's own tensors that a site needs: none."""
        return {}

    def rule(self, task: Task, kept: State, trainer: LocalTrainer) -> LocalRule:
        """Return what local training adds to plain training: nothing."""
        return LocalRule()

    def report(self, task: Task, kept: State, rule: LocalRule, fit: Fit, trainer: LocalTrainer) -> tuple[State, State]:
        """Return the strategy's own tensors after local training, those to send and those to keep: none."""
        return {}, {}

    def own_of_model(self, state: State, kept: State, counts: LabelCounts) -> State:
        """Return what a site lays over the server's weights: its normalization, and of the head its own rows."""
        own = {name: tensor for name, tensor in kept.items() if name in self.groups}
        return own | rows_of(own_rows(counts), own, state, self.groups)

    def model_at_site(self, state: State, kept: State, counts: LabelCounts) -> State:
        """Return the weights that a site predicts with: the server's, with those of the site."""
        return state | self.own_of_model(state, kept, counts)

    def at_site(self, task: Task, kept: State, trainer: LocalTrainer) -> tuple[Reply, State]:
        """Do the site's half of a task: (task, what the site kept) → (reply, what it keeps)."""
        counts = counts_of(trainer.train_examples)
        if task.kind == "count":
            return Reply(trainer.name, task.round, {}, counts), kept
        start = self.model_at_site(task.state, kept, counts)
        if task.kind == "validate":
            return Reply(trainer.name, task.round, {}, counts, validation=trainer.validate(start)), kept
        if task.kind == "recalibrate":
            state = trainer.recalibrate(start)
            return Reply(trainer.name, task.round, state, counts), kept | self.keeps(state)
        if task.kind == "describe":
            moments = trainer.feature_moments(task.state)
            heads = {name: start[name] for name, group in self.groups.items() if group == "head"}
            told = moments if own_rows(counts).any() else None
            reply = Reply(trainer.name, task.round, task.state | heads, counts, moments=told)
            return reply, kept | self.keeps(start) | {HOME: torch.from_numpy(moments.mean).float()}
        return self.train(task, start, kept, trainer, counts)

    def train(
        self, task: Task, start: State, kept: State, trainer: LocalTrainer, counts: LabelCounts
    ) -> tuple[Reply, State]:
        """Train locally from ``start``."""
        rule = self.rule(task, kept, trainer)
        fit = trainer.fit(start, task.visit or task.round, task.global_prior, rule, task.wave)
        sent, own = self.report(task, kept, rule, fit, trainer)
        reply = Reply(trainer.name, task.round, fit.state, counts, fit.loss, fit.updates, extra=sent)
        return reply, self.keeps(fit.state) | own

    def keeps(self, state: State) -> State:
        """Return the tensors of a state that stay at the site."""
        statistics = {"norm_stats"} if self.normalization in ("site", "local") else set()
        stays = self.private - {"norm_stats", "sums"} | statistics
        return {n: state[n] for n, group in self.groups.items() if group in stays and n in state}

    # The server's half.

    def regroup(self, server: ServerState) -> ServerState:
        """Go on as before when other sites are there."""
        return server

    def check(self, reply: Reply, task: Task) -> None:
        """Accept all tensors of the strategy's own: there are none."""

    def join(self, server: ServerState, counts: Mapping[str, LabelCounts]) -> ServerState:
        """Take the label counts of sites that were never there before."""
        return replace(server, counts={**server.counts, **counts})

    def weights(self, counts: Mapping[str, LabelCounts]) -> dict[str, Weight]:
        """Return the weight of every site."""
        return weights_of(counts, self.tau, self.weighting)

    def collect(self, server: ServerState, replies: Iterable[Reply], asked: Mapping[str, LabelCounts]) -> Tally:
        """Sum the replies up, one at a time; ``asked``: the sites that were given the task."""
        among_asked, among_all = self.weights(asked), self.weights({**server.members(), **asked})
        tally = Tally(self.groups)
        for reply in replies:
            self.count(tally, server, reply, among_asked[reply.site], among_all[reply.site])
            tally.replies += 1
        return tally

    def count(self, tally: Tally, server: ServerState, reply: Reply, among_asked: Weight, among_all: Weight) -> None:
        """Add a reply to the sums; its weights are those among the sites asked, and among all."""
        tally.mean.add(reply.state, among_asked)

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Take the mean: (server state, sums of the replies) → server state."""
        return replace(server, state=tally.mean.value(server.state))

    def close_at_server(self, kind: str, server: ServerState, replies: Iterable[Reply]) -> ServerState:
        """Take the statistics of the mixture of sites, or the heads of the sites; no weight changes."""
        if kind == "describe":
            return replace(server, extra=server.extra | {HEADS_OF + n: t for n, t in self._site_heads(replies).items()})
        stats, weights = MixtureStats(self.groups), self.weights(server.members())
        for reply in replies:
            stats.add(reply.state, weights[reply.site])
        return replace(server, state=server.state | stats.value())

    def _site_heads(self, replies: Iterable[Reply]) -> State:
        """Return the tensors of ``SiteHeads``; none where no site has rows of its own."""
        names = [name for name, group in self.groups.items() if group == "head"]
        moments: dict[str, FeatureMoments] = {}
        rows: dict[str, State] = {}
        own: State = {}
        for reply in replies:
            rows[reply.site] = {name: reply.state[name] for name in names}
            own[reply.site] = torch.from_numpy(own_rows(reply.counts))
            if reply.moments is not None:
                moments[reply.site] = reply.moments
        return pack_heads(moments, own, rows) if moments else {}
