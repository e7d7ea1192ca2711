"""Stochastic controlled averaging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hilum.federation.aggregation import Weight, by_row
from hilum.federation.messages import Reply, ServerState, Task, counts_of
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.tally import Tally
from hilum.models.classifier import LocalizingClassifier
from hilum.training.loop import Fit, LocalTrainer
from hilum.training.rules import LocalRule
from hilum.training.state import State

CONTROL = "control/"
SINCE = "since"  # the first round of the sites that are there now


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
    clipping and momentum. Rows of the head of which a site knows no label have none, nor has what stays at the sites:
    there is no common point for it to be corrected towards. When a site comes or goes, c and all c_i start at 0 again,
    since c would keep the gradient of who has left. ``server_lr``: η_g.
    """

    sums: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"server_lr": (0, float("inf"))}

    server_lr: float = 1.0

    def extra_for(self, site: str, server: ServerState) -> State:
        """Return the server's control variate, and the round in which it was 0."""
        return {name: tensor for name, tensor in server.extra.items() if name.startswith(CONTROL) or name == SINCE}

    def rule(self, task: Task, kept: State, trainer: LocalTrainer) -> LocalRule:
        """Correct the gradients by c − c_i."""
        correction, own = {}, _controls(task, kept)
        for name, tensor in task.extra.items():
            if name != SINCE:
                bare = name.removeprefix(CONTROL)
                difference = tensor - own.get(name, torch.zeros_like(tensor))
                correction[bare] = self._known_rows(bare, difference, trainer)
        plan = trainer.plan.optimizer
        return Controlled(correction, plan.weight_decay if plan.name == "sgd" else 0.0)

    def report(self, task: Task, kept: State, rule: LocalRule, fit: Fit, trainer: LocalTrainer) -> tuple[State, State]:
        """Send what the control variate changed by; keep the new one."""
        assert isinstance(rule, Controlled)
        own, learned = _controls(task, kept), set(self.learned())
        new = {
            CONTROL + name: self._known_rows(name, total.cpu() / fit.updates, trainer)
            for name, total in rule.sums.items()
            if name in learned
        }
        changes = {name: tensor - own.get(name, torch.zeros_like(tensor)) for name, tensor in new.items()}
        return changes, new | {SINCE: _since(task.extra)}

    def regroup(self, server: ServerState) -> ServerState:
        """Start all control variates at 0 again."""
        zero = {name: torch.zeros_like(t) for name, t in server.extra.items() if name.startswith(CONTROL)}
        return replace(server, extra=server.extra | zero | {SINCE: torch.tensor(server.round + 1)})

    def count(self, tally: Tally, server: ServerState, reply: Reply, among_asked: Weight, among_all: Weight) -> None:
        """Add the state, and Σ p_i Δc_i over all sites of the federation."""
        super().count(tally, server, reply, among_asked, among_all)
        tally.extra.add({name.removeprefix(CONTROL): t for name, t in reply.extra.items()}, among_all)

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Move the weights by η_g times the mean update, and c by Σ p_i Δc_i."""
        state = tally.mean.value(server.state)
        for name in self.learned() if self.server_lr != 1 else ():
            old = server.state[name]
            state[name] = (old.double() + self.server_lr * (state[name].double() - old.double())).to(old.dtype)
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


def _controls(task: Task, kept: State) -> State:
    """Return the site's control variate; none where it is of a time when others were there."""
    return kept if torch.equal(_since(kept), _since(task.extra)) else {}


def _since(state: State) -> Tensor:
    return state.get(SINCE, torch.tensor(0))
