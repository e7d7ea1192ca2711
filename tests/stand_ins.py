"""A participant without images: ``LocalTrainer`` for losses that are written down, so that the answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilum.federation.messages import ServerState, Task, counts_of
from hilum.training.loop import Fit, TrainingPlan
from hilum.training.optimizers import OptimizerPlan
from hilum.training.rules import LocalRule
from hilum.training.state import State, copy_state

Loss = Callable[[Tensor], Tensor]
EVEN = np.array([0.5])
GROUPS = {"w": "trunk"}


class Weights(nn.Module):
    """The tensor w, float64."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=torch.float64))


@dataclass(frozen=True)
class Labels:
    """What strategies use of ``Examples``: ``images`` with one finding, half of them positive."""

    images: int

    def __len__(self) -> int:
        return self.images

    def known(self) -> NDArray[np.int64]:
        return np.array([[self.images]])

    def positive(self) -> NDArray[np.int64]:
        return np.array([[self.images // 2]])


@dataclass
class StandIn:
    """Gradient descent on ``loss`` of w, ``steps`` a round, in ``LocalTrainer``'s words."""

    name: str
    loss: Loss
    steps: int = 10
    lr: float = 0.02
    images: int = 10
    size: int = 1
    momentum: float = 0.0
    clip: float = 1e9
    plan: TrainingPlan = field(init=False)

    def __post_init__(self) -> None:
        optimizer = OptimizerPlan("sgd", lr=self.lr, weight_decay=0.0, momentum=self.momentum, clip=self.clip)
        self.plan = TrainingPlan(rounds=1000, updates=self.steps, batch=1, optimizer=optimizer)
        self.train_examples = Labels(self.images)

    def fit(self, state: State, round_: int, prior: Any, rule: LocalRule | None = None, wave: int = 0) -> Fit:
        model, rule, losses = Weights(self.size), rule or LocalRule(), []
        model.load_state_dict(state)
        rule.begin(model)  # type: ignore[arg-type]
        velocity = torch.zeros_like(model.w)
        for step in range(self.steps):
            loss = self.loss(model.w)
            (model.w.grad,) = torch.autograd.grad(loss, [model.w])
            rule.before_step(model, step, self.steps)  # type: ignore[arg-type]
            norm = float(model.w.grad.norm())
            velocity = self.momentum * velocity + model.w.grad * min(1.0, self.clip / max(norm, 1e-12))
            model.w.data -= self.lr * velocity
            losses.append(float(loss.detach()))
        return Fit(copy_state(model), float(np.mean(losses)), self.steps)

    def validate(self, state: State) -> dict[str, float]:
        return {self.name: float(self.loss(state["w"]))}


@dataclass
class ByHand:
    """The rounds of a strategy over stand-ins, all in memory: ``kept``, what each site keeps."""

    strategy: Any
    sites: Mapping[str, StandIn]
    server: ServerState
    kept: dict[str, State] = field(default_factory=dict)

    @classmethod
    def of(cls, strategy: Any, sites: Sequence[StandIn], start: Sequence[float]) -> ByHand:
        named = {site.name: site for site in sites}
        counts = {name: counts_of(site.train_examples) for name, site in named.items()}  # type: ignore[arg-type]
        server = ServerState(0, {"w": torch.tensor(start, dtype=torch.float64)})
        return cls(strategy, named, strategy.join(server, counts))

    @property
    def w(self) -> Tensor:
        return self.server.state["w"]

    def round(self, chosen: Sequence[str] | None = None) -> None:
        names, replies = sorted(chosen or self.sites), []
        for name in names:
            extra = self.strategy.extra_for(name, self.server)
            task = Task("train", self.server.round + 1, self.server.state, EVEN, extra=extra)
            reply, self.kept[name] = self.strategy.at_site(task, self.kept.get(name, {}), self.sites[name])
            replies.append(reply)
        tally = self.strategy.collect(self.server, replies, {name: self.server.counts[name] for name in names})
        after = self.strategy.step(self.server, tally)
        self.server = replace(after, round=self.server.round + 1)
