"""Federated averaging with a proximal term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hilum.federation.messages import Task, counts_of
from hilum.federation.strategies.fedavg import FedAvg
from hilum.models.classifier import LocalizingClassifier
from hilum.training.loop import LocalTrainer
from hilum.training.rules import LocalRule
from hilum.training.state import State


class Proximal(LocalRule):
    """Adds μ/2 ‖w − anchor‖² to the loss, through its gradient μ (w − anchor)."""

    def __init__(self, mu: float, anchor: State) -> None:
        self.mu, self.anchor = mu, anchor
        self.pulled: list[tuple[Tensor, Tensor]] = []

    def begin(self, model: LocalizingClassifier) -> None:
        """Pair the weights with what they are pulled to."""
        self.pulled = [(p, self.anchor[n].to(p)) for n, p in model.named_parameters() if p.requires_grad]

    def before_step(self, model: LocalizingClassifier, step: int, steps: int) -> None:
        """Add the gradient of the term."""
        for weight, anchor in self.pulled:
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - anchor, alpha=self.mu)


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Federated averaging with μ/2 ‖w − w_server‖² in the local loss (Li et al. 2020); ``mu`` 0 is FedAvg."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"mu": (0, float("inf"))}

    mu: float = 0.01

    def rule(self, task: Task, kept: State, trainer: LocalTrainer) -> LocalRule:
        """Pull the local weights to where the round began."""
        return Proximal(self.mu, self.model_at_site(task.state, kept, counts_of(trainer.train_examples)))
