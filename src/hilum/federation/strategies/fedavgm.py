"""Federated averaging with momentum at the server, and what every server optimizer has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hilum.federation.messages import ServerState
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.tally import Tally
from hilum.training.state import State


@dataclass(frozen=True)
class ServerOptimizer(FedAvg):
    """The mean update as a pseudo-gradient (FedOpt, Reddi et al. 2021, Algorithm 2).

    Statistics and what stays at the sites are averaged; rows that no site of the round can teach rest, moments and all.
    """

    server_lr: float = 1.0

    @property
    @abstractmethod
    def moments(self) -> Sequence[str]:
        """Names of the moments that the server keeps of every weight."""

    @abstractmethod
    def move(self, update: Tensor, moments: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the step for the mean update Δ, all float64, and the new moments."""

    def first(self, moment: str, weight: Tensor) -> Tensor:
        """Return a moment before the first round."""
        return torch.zeros_like(weight)

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Move along the pseudo-gradient: (server state, sums of the replies) → server state."""
        state = tally.mean.value(server.state)
        kept: State = {}
        for name in self.learned():
            old, kind = server.state[name].double(), server.state[name].dtype
            before = {m: server.extra.get(f"{m}/{name}", self.first(m, old)).double() for m in self.moments}
            step, after = self.move(state[name].double() - old, before)
            taught = tally.mean.weighed(name, old)
            state[name] = torch.where(taught, old + self.server_lr * step, old).to(kind)
            kept |= {f"{m}/{name}": torch.where(taught, moment, before[m]).to(kind) for m, moment in after.items()}
        return replace(server, state=state, extra=server.extra | kept)


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Momentum at the server (FedAvgM, Hsu et al. 2019); ``momentum`` 0 at ``server_lr`` 1 is FedAvg."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"server_lr": (0, float("inf")), "momentum": (0, 1)}

    momentum: float = 0.9

    @property
    def moments(self) -> Sequence[str]:
        """Name of the velocity."""
        return ("velocity",)

    def move(self, update: Tensor, moments: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return v ← β v + Δ."""
        velocity = self.momentum * moments["velocity"] + update
        return velocity, {"velocity": velocity}
