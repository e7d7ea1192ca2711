"""What a federated algorithm is: two pure halves, the site's and the server's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

from hilum.federation.aggregation import Weight
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.tally import Tally
from hilum.models.classifier import StateGroup
from hilum.training.loop import LocalTrainer
from hilum.training.state import State


class Strategy(Protocol):
    """A federated algorithm. It knows no runtime, no disk and no metric; what it must remember it returns."""

    sums: ClassVar[bool]  # whether the mean of the states is all that the server needs to know of them

    @property
    def private(self) -> frozenset[StateGroup]:
        """Groups whose values are a site's own or statistics: they are averaged, and no update is made of them."""

    def next_wave(
        self, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return the sites that train in wave 0, 1, … of a round, each with its visit; none ends the round."""

    def join(self, server: ServerState, counts: Mapping[str, LabelCounts]) -> ServerState:
        """Take the label counts of sites that were never there before."""

    def regroup(self, server: ServerState) -> ServerState:
        """Take notice that other sites are there than before: those of ``server.present``."""

    def check(self, reply: Reply, task: Task) -> None:
        """Refuse a reply whose tensors of the strategy's own make no sense (``TrainingError``)."""

    def extra_for(self, site: str, server: ServerState) -> State:
        """Return the strategy's own tensors that a site needs."""

    def closing(self, sites: int) -> tuple[str, ...]:
        """Return the kinds of task that follow the last round, in order, in a federation of so many sites."""

    def own_of_model(self, state: State, kept: State, counts: LabelCounts) -> State:
        """Return the tensors that a site with these labels lays over the server's weights, where it kept ``kept``."""

    def model_at_site(self, state: State, kept: State, counts: LabelCounts) -> State:
        """Return the weights that a site predicts with: the server's, with those of the site."""

    def at_site(self, task: Task, kept: State, trainer: LocalTrainer) -> tuple[Reply, State]:
        """Do the site's half of a task: (task, what the site kept) → (reply, what it keeps)."""

    def weights(self, counts: Mapping[str, LabelCounts]) -> Mapping[str, Weight]:
        """Return the weight of every site."""

    def collect(self, server: ServerState, replies: Iterable[Reply], asked: Mapping[str, LabelCounts]) -> Tally:
        """Sum the replies up, one at a time; ``asked``: the sites that were given the task."""

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Do the server's half of a wave: (server state, sums of the replies) → server state."""

    def close_at_server(self, kind: str, server: ServerState, replies: Iterable[Reply]) -> ServerState:
        """Take what the replies to a closing task hold; no weight changes, and no round passes."""
