"""Stochastic controlled averaging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hilum.federation.aggregation import Weight, by_row
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task, counts_of
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.tally import Tally
from hilum.models.classifier import LocalizingClassifier
from hilum.training.loop import Fit, LocalTrainer
from hilum.training.rules import LocalRule
from hilum.training.state import State

CONTROL = "control/"


class Controlled(LocalRule):
    """Adds the correction c − c_i to every gradient, and sums up the gradients without it.

    ``decay``: weight decay that the optimizer adds to the gradient, which belongs to the gradient of the site's loss.
    """

    def __init__(self, correction: State, decay: float) -> None:
        self.correction, self.decay = correction, decay
        self.sums: State = {}

    def before_step(self, model: LocalizingClassifier, step: int, steps: int) -> None:
        """Sum the gradient up and correct it."""
        for name, weight in model.named_parameters():
            if weight.grad is None:
                continue
            own = weight.grad + self.decay * weight.detach()
            self.sums[name] = self.sums[name].add_(own) if name in self.sums else own
            if name in self.correction:
                weight.grad.add_(self.correction[name].to(weight.grad))


@dataclass(frozen=True)
class Scaffold(FedAvg):
    """Local steps corrected by control variates (SCAFFOLD, Karimireddy et al. 2020, Algorithm 1, option II).

    c_i is the mean of the gradients that the site saw in its last round, not (x − y) / (K η), so that it is right with
    clipping and momentum. Rows of the head of which a site knows no label have none, and normalization statistics
    are averaged. ``server_lr``: η_g.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"server_lr": (0, float("inf"))}

    server_lr: float = 1.0

    def extra_for(self, site: str, server: ServerState) -> State:
        """Return the server's control variate."""
        return {name: tensor for name, tensor in server.extra.items() if name.startswith(CONTROL)}

    def rule(self, task: Task, kept: State, trainer: LocalTrainer) -> LocalRule:
        """Correct the gradients by c − c_i."""
        correction = {}
        for name, tensor in task.extra.items():
            bare = name.removeprefix(CONTROL)
            difference = tensor - kept.get(name, torch.zeros_like(tensor))
            correction[bare] = self._known_rows(bare, difference, trainer)
        plan = trainer.plan.optimizer
        return Controlled(correction, plan.weight_decay if plan.name == "sgd" else 0.0)

    def report(self, task: Task, kept: State, rule: LocalRule, fit: Fit, trainer: LocalTrainer) -> tuple[State, State]:
        """Send what the control variate changed by; keep the new one."""
        assert isinstance(rule, Controlled)
        new = {
            CONTROL + name: self._known_rows(name, total.cpu() / fit.updates, trainer)
            for name, total in rule.sums.items()
        }
        return {name: tensor - kept.get(name, torch.zeros_like(tensor)) for name, tensor in new.items()}, new

    def join(self, server: ServerState, counts: Mapping[str, LabelCounts]) -> ServerState:
        """Take the label counts of new sites, whose control variates are 0: c stays Σ p_i c_i as the p_i shrink."""
        after = super().join(server, counts)
        weights = self.weights(after.counts)
        before = [weights[site] for site in server.counts]
        trunk = sum(weight.trunk for weight in before)
        rows = np.sum([weight.rows for weight in before], 0)
        control = {
            name: tensor * (by_row(rows, tensor) if self.groups[name.removeprefix(CONTROL)] == "head" else trunk)
            for name, tensor in self.extra_for("", server).items()
        }
        scaled = {name: tensor.to(server.extra[name].dtype) for name, tensor in control.items()}
        return replace(after, extra=after.extra | scaled)

    def count(self, tally: Tally, server: ServerState, reply: Reply, among_asked: Weight, among_all: Weight) -> None:
        """Add the state, and Σ p_i Δc_i over all sites of the federation."""
        super().count(tally, server, reply, among_asked, among_all)
        tally.extra.add({name.removeprefix(CONTROL): t for name, t in reply.extra.items()}, among_all)

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Move the weights by η_g times the mean update, and c by Σ p_i Δc_i."""
        mean, state = tally.mean.value(server.state), {}
        for name, new in mean.items():
            moves = self.server_lr != 1 and self.groups.get(name, "norm_stats") != "norm_stats"
            old = server.state[name]
            state[name] = (
                (old.double() + self.server_lr * (new.double() - old.double())).to(old.dtype) if moves else new
            )
        control = {}
        for name, change in tally.extra.sums.items():
            before = server.extra.get(CONTROL + name, torch.zeros_like(server.state[name]))
            control[CONTROL + name] = (before.double() + change).to(before.dtype)
        return replace(server, state=state, extra=server.extra | control)

    def _known_rows(self, name: str, tensor: Tensor, trainer: LocalTrainer) -> Tensor:
        if self.groups[name] != "head":
            return tensor
        known = by_row(counts_of(trainer.train_examples).known > 0, tensor)
        return torch.where(known, tensor, torch.zeros_like(tensor))
