"""The server's model as a teacher of the findings that a site does not label."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hilum.federation.messages import Task
from hilum.federation.strategies.fedavg import FedAvg
from hilum.models.classifier import LocalizingClassifier
from hilum.sites.examples import Batch
from hilum.training.loop import LocalTrainer
from hilum.training.rules import LocalRule
from hilum.training.state import State


class Taught(LocalRule):
    """Adds a loss on unknown labels, between the model and the one that the round began with."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.teacher: LocalizingClassifier | None = None

    def begin(self, model: LocalizingClassifier) -> None:
        """Take the model as it is for the teacher."""
        self.teacher = deepcopy(model).eval().requires_grad_(False)

    def loss(self, model: LocalizingClassifier, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return the loss on the labels that are unknown, None where there are none."""
        unknown = batch.targets.isnan()
        if self.teacher is None or not bool(unknown.any()):
            return None
        with torch.no_grad():
            seen = self.teacher(batch.images.contiguous(memory_format=torch.channels_last)).logits.float()
            taught = self.teacher.answers(seen).sigmoid()
        return self.weight * self.lesson(model.answers(logits), taught, unknown)

    @abstractmethod
    def lesson(self, logits: Tensor, taught: Tensor, unknown: Tensor) -> Tensor:
        """Return the loss of the findings' logits (B, C) for the teacher's probabilities, where labels are unknown."""


class Distilled(Taught):
    """Mean squared error between the probabilities."""

    def lesson(self, logits: Tensor, taught: Tensor, unknown: Tensor) -> Tensor:
        """Return Σ (p − p_teacher)² / number of unknown labels."""
        return ((logits.sigmoid() - taught)[unknown] ** 2).mean()


@dataclass(frozen=True)
class FedMLP(FedAvg):
    """The server's model teaches the findings that a site does not label (FedMLP, Sun et al. 2024, stage 1).

    Mean squared error between the probabilities, with ``weight``, after a share ``warmup`` of the rounds.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0, float("inf")), "warmup": (0, 1)}

    weight: float = 1.0
    warmup: float = 0.25

    def rule(self, task: Task, kept: State, trainer: LocalTrainer) -> LocalRule:
        """Add the lesson once the teacher has learned something."""
        learned = (task.visit or task.round) > self.warmup * trainer.plan.rounds
        return self.lesson() if learned else LocalRule()

    def lesson(self) -> LocalRule:
        """Return the rule that teaches."""
        return Distilled(self.weight)
