"""All sites in this process, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hilum.federation.messages import LabelCounts, Reply, Task, counts_of
from hilum.federation.strategies.base import Strategy
from hilum.training.loop import LocalTrainer
from hilum.training.state import State


class InProcess:
    """All sites in this process, one after the other; the sites share one model as scratch space."""

    def __init__(self, strategy: Strategy, trainers: Sequence[LocalTrainer]) -> None:
        self.strategy = strategy
        self.trainers = {trainer.name: trainer for trainer in trainers}
        self.site_states: dict[str, State] = {name: {} for name in self.trainers}

    def sites(self) -> list[str]:
        """Names of the sites that are there."""
        return list(self.trainers)

    def label_counts(self) -> dict[str, LabelCounts]:
        """Return what each site tells of its labels before training."""
        return {name: counts_of(trainer.train_examples) for name, trainer in self.trainers.items()}

    def exchange(self, tasks: Mapping[str, Task]) -> list[Reply]:
        """Give every site its task and return the replies, in the order of the tasks."""
        replies = []
        for name, task in tasks.items():
            reply, self.site_states[name] = self.strategy.at_site(task, self.site_states[name], self.trainers[name])
            replies.append(reply)
        return replies

    def validate(self, state: State) -> dict[str, float]:
        """Return the validation loss of each source at each site."""
        losses: dict[str, float] = {}
        for name, trainer in self.trainers.items():
            losses |= trainer.validate(self.strategy.model_at_site(state, self.site_states[name], trainer))
        return losses
