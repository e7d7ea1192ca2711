"""A model of each hospital's own beside the common one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hilum.federation.aggregation import rows_of
from hilum.federation.messages import LabelCounts, Reply, Task, counts_of
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.fedprox import Proximal
from hilum.training.loop import LocalTrainer
from hilum.training.state import State

COMMON = "common/"


@dataclass(frozen=True)
class Ditto(FedAvg):
    """Federated averaging, and at every site a model of its own pulled to the common one (Ditto, Li et al. 2021).

    The site's own model predicts at that site, the common one anywhere else. Both train as many updates, so that a
    round computes twice what FedAvg's does. ``pull``: their λ; 0 is local training beside the federation. What
    ``normalization`` keeps at the site is kept of the common model as well.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"pull": (0, float("inf"))}

    pull: float = 0.1

    def own_of_model(self, state: State, kept: State, counts: LabelCounts) -> State:
        """Return the site's own model, with the common rows of findings that the site does not label."""
        own = {name: tensor for name, tensor in kept.items() if name in self.groups}
        return own | rows_of(counts.known > 0, own, state, self.groups)

    def common_at_site(self, task: Task, kept: State) -> State:
        """Return the common model with what the site keeps of it."""
        return task.state | {n.removeprefix(COMMON): t for n, t in kept.items() if n.startswith(COMMON)}

    def at_site(self, task: Task, kept: State, trainer: LocalTrainer) -> tuple[Reply, State]:
        """Do the site's half of a task; new statistics are those of the common model, and the own one has its own."""
        if task.kind != "recalibrate":
            return super().at_site(task, kept, trainer)
        counts = counts_of(trainer.train_examples)
        own = trainer.recalibrate(self.model_at_site(task.state, kept, counts))
        reply = Reply(trainer.name, task.round, trainer.recalibrate(task.state), counts)
        return reply, kept | {name: own[name] for name, group in self.groups.items() if group != "sums"}

    def train(
        self, task: Task, start: State, kept: State, trainer: LocalTrainer, counts: LabelCounts
    ) -> tuple[Reply, State]:
        """Train the common model from the server's weights, and the site's own from where it was."""
        visit = task.visit or task.round
        own = trainer.fit(start, visit, task.global_prior, Proximal(self.pull, task.state), task.wave)
        begun = self.common_at_site(task, kept)
        common = trainer.fit(begun, visit, task.global_prior, self.rule(task, kept, trainer), task.wave)
        reply = Reply(trainer.name, task.round, common.state, counts, common.loss, common.updates)
        stays = {COMMON + name: tensor for name, tensor in self.keeps(common.state).items()}
        return reply, {name: own.state[name] for name, group in self.groups.items() if group != "sums"} | stays
