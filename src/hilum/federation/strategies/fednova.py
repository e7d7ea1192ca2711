"""Normalized averaging."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from hilum.errors import TrainingError
from hilum.federation.aggregation import Weight, by_row
from hilum.federation.messages import Reply, ServerState, Task
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.tally import Tally
from hilum.training.loop import Fit, LocalTrainer
from hilum.training.optimizers import OptimizerPlan
from hilum.training.rules import LocalRule
from hilum.training.state import State


def effective_steps(plan: OptimizerPlan, updates: int) -> float:
    """Return ‖a‖₁: updates, or with momentum ρ [τ − ρ (1 − ρ^τ) / (1 − ρ)] / (1 − ρ) (Wang et al. 2020, § 4.2)."""
    if plan.name != "sgd" or plan.momentum == 0:
        return float(updates)
    rho = plan.momentum
    return float((updates - rho * (1 - rho**updates) / (1 - rho)) / (1 - rho))


@dataclass(frozen=True)
class FedNova(FedAvg):
    """Updates are averaged per local step, so that a site with more steps pulls no further (FedNova, Wang et al. 2020).

    Sites that make the same number of steps are averaged as by FedAvg.
    """

    sums: ClassVar[bool] = False

    def report(self, task: Task, kept: State, rule: LocalRule, fit: Fit, trainer: LocalTrainer) -> tuple[State, State]:
        """Send the number of effective steps."""
        return {"steps": torch.tensor(effective_steps(trainer.plan.optimizer, fit.updates))}, {}

    def check(self, reply: Reply, task: Task) -> None:
        """Refuse a number of local steps that is not above 0."""
        steps = float(reply.extra.get("steps", torch.tensor(0.0)))
        if task.kind == "train" and not steps > 0:
            raise TrainingError(f"Expected the local steps of '{reply.site}', above 0; found {steps:g}.")

    def count(self, tally: Tally, server: ServerState, reply: Reply, among_asked: Weight, among_all: Weight) -> None:
        """Add the update per step, and the steps."""
        steps = float(reply.extra["steps"])
        scaled = dict(reply.state)
        for name in self.learned():
            old = server.state[name].double()
            scaled[name] = old + (reply.state[name].double() - old) / steps
        tally.mean.add(scaled, among_asked)
        tally.steps += among_asked.trunk * steps
        tally.row_steps = tally.row_steps + among_asked.rows * steps

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Move the mean number of steps along the mean update of one: (server state, sums) → server state."""
        state = tally.mean.value({name: tensor.double() for name, tensor in server.state.items()})
        for name in self.learned():
            old = server.state[name].double()
            state[name] = old + self._scale(name, tally, old) * (state[name] - old)
        return replace(server, state={name: state[name].to(old.dtype) for name, old in server.state.items()})

    def _scale(self, name: str, tally: Tally, tensor: torch.Tensor) -> torch.Tensor:
        if self.groups[name] != "head" or tally.mean.rows is None:
            return torch.tensor(tally.steps / tally.mean.trunk if tally.mean.trunk else 0.0)
        total = tally.mean.rows
        rows = np.divide(tally.row_steps, total, out=np.zeros_like(total), where=total > 0)
        return by_row(rows, tensor)
