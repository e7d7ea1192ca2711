"""Optimizers, made anew each round so that no momentum outlives the weights it was made for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from hilum.models.classifier import LocalizingClassifier


@dataclass(frozen=True)
class OptimizerPlan:
    """``lr`` of trunk and neck, ``head_lr`` times that for head and pooling, of which each round takes a share.

    Over all rounds the share falls from 1 towards ``floor`` along ``schedule``, a cosine or a line, or stays 1
    ('constant'). Round k of the first ``warmup`` takes k / (warmup + 1) of its share: with a warm-up no round of a
    falling schedule takes the whole ``lr``.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr: float = 3.0
    weight_decay: float = 1e-2
    momentum: float = 0.9
    clip: float = 5.0
    warmup: int = 1
    floor: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"

    def rate(self, round_: int, rounds: int) -> float:
        """Return the trunk's learning rate in round ``round_`` = 1 … ``rounds``."""
        done = (round_ - 1) / rounds
        left = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]
        warm = min(1.0, round_ / (self.warmup + 1))
        return self.lr * warm * (self.floor + (1 - self.floor) * left)

    def build(self, model: LocalizingClassifier, round_: int, rounds: int) -> torch.optim.Optimizer:
        """Return a fresh optimizer of the model's trainable parameters for one round."""
        trunk = [p for part in (model.backbone, model.neck) for p in part.parameters() if p.requires_grad]
        head = [*model.head.parameters(), *model.pooling.parameters()]
        rate = self.rate(round_, rounds)
        groups = [{"params": trunk, "lr": rate}, {"params": head, "lr": rate * self.head_lr}]
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)
        return torch.optim.AdamW(groups, lr=rate, weight_decay=self.weight_decay)
