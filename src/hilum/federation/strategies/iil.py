"""Institutional incremental learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hilum.federation.aggregation import Weight
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.tally import Tally
from hilum.training.loop import LocalTrainer
from hilum.training.state import State

TURN = "turn"  # (site, visit, visits without improvement) of the sites in their order
LOWEST, BEST = "lowest", "best/"


@dataclass(frozen=True)
class IIL(FedAvg):
    """The model passes once around, each site trains it to its own early stop (Sheller et al. 2020).

    A site trains at most as many visits as there are rounds, so that the budget is at most that of the others. It
    stops after ``patience`` visits that did not lower its validation loss, and hands on its best model.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"patience": (1, float("inf"))}

    patience: int = 5

    def next_wave(
        self, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return the site whose turn it is; a round has as many visits as there are sites."""
        turn, visit, _ = self._turn(server)
        return {sites[turn]: visit + 1} if wave < len(sites) and turn < len(sites) else {}

    def train(
        self, task: Task, start: State, kept: State, trainer: LocalTrainer, counts: LabelCounts
    ) -> tuple[Reply, State]:
        """Train, and tell the validation loss, which visit it was and whether none may follow."""
        reply, kept = super().train(task, start, kept, trainer, counts)
        losses = list(trainer.validate(reply.state).values())
        told = {
            "loss": torch.tensor(sum(losses) / len(losses) if losses else 0.0),
            "visit": torch.tensor(task.visit),
            "last": torch.tensor(task.visit >= trainer.plan.rounds),
        }
        return replace(reply, extra=told), kept

    def count(self, tally: Tally, server: ServerState, reply: Reply, among_asked: Weight, among_all: Weight) -> None:
        """Take the one reply, and what the site told."""
        super().count(tally, server, reply, among_asked, among_all)
        tally.told = reply.extra

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Take the site's model; at its early stop, its best one, and turn to the next site."""
        after = super().step(server, tally)
        loss, visit = tally.told["loss"], int(tally.told["visit"])
        turn, _, since = self._turn(server)
        better = visit == 1 or bool(loss < server.extra[LOWEST])
        since = 0 if better else since + 1
        kept = {BEST + name: t for name, t in after.state.items()} | {LOWEST: loss} if better else {}
        extra = server.extra | kept
        if since >= self.patience or bool(tally.told["last"]):
            best = {name: extra[BEST + name] for name in after.state}
            return replace(after, state=best, extra=extra | {TURN: torch.tensor([turn + 1, 0, 0])})
        return replace(after, extra=extra | {TURN: torch.tensor([turn, visit, since])})

    def _turn(self, server: ServerState) -> tuple[int, int, int]:
        turn, visit, since = server.extra.get(TURN, torch.zeros(3, dtype=torch.int64)).tolist()
        return turn, visit, since
