"""Representations in common, heads of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hilum.federation.messages import Task
from hilum.federation.strategies.fedavg import FedAvg
from hilum.models.classifier import LocalizingClassifier
from hilum.training.loop import LocalTrainer
from hilum.training.rules import LocalRule
from hilum.training.state import State


class HeadFirst(LocalRule):
    """Trains the head alone for the first ``share`` of the updates, and then everything but the head."""

    def __init__(self, share: float) -> None:
        self.share = share

    def before_step(self, model: LocalizingClassifier, step: int, steps: int) -> None:
        """Drop the gradients of the part that rests; in a round of one update none does."""
        if steps == 1:
            return
        head = step < math.ceil(self.share * steps)
        resting = [model.backbone, model.neck] if head else [model.head, model.pooling]
        for module in resting:
            module.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class FedRep(FedAvg):
    """The trunk is shared and a hospital's head is its own, trained in turn (FedRep, Collins et al. 2021).

    A row of the head is its own where the hospital has both classes of the finding (see ``HEADS``).
    ``head_share``: share of the updates that train the head.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"head_share": (0, 1)}

    head: str = "site"
    head_share: float = 0.5

    def rule(self, task: Task, kept: State, trainer: LocalTrainer) -> LocalRule:
        """Train the head first, then the trunk."""
        return HeadFirst(self.head_share)
