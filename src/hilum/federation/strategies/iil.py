"""Institutional incremental learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from hilum.errors import TrainingError
from hilum.federation.aggregation import Weight
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.tally import Tally
from hilum.training.loop import LocalTrainer
from hilum.training.state import State

TURN = "turn"  # (site, visit) of the sites in their order
BEST = "best/"
LOWEST, SINCE = "lowest", "since"  # validation loss, and visits since, at the site whose turn it is


@dataclass(frozen=True)
class IIL(FedAvg):
    """The model passes once around, each site trains it to its own early stop (Sheller et al. 2020).

    A site trains at most as many visits as there are rounds, so that the budget is at most that of the others. It
    stops after ``patience`` visits that did not lower its validation loss, and hands on its best model. Without a
    loss, where it has no labelled validation patients, it trains all of its visits and hands on its last.
    """

    sums: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"patience": (1, float("inf"))}

    patience: int = 5

    def next_wave(
        self, server: ServerState, round_: int, rounds: int, wave: int, sites: Sequence[str]
    ) -> Mapping[str, int]:
        """Return the site whose turn it is; a round has as many visits as there are sites."""
        turn, visit = self._turn(server)
        return {sites[turn]: visit + 1} if wave < len(sites) and turn < len(sites) else {}

    def train(
        self, task: Task, start: State, kept: State, trainer: LocalTrainer, counts: LabelCounts
    ) -> tuple[Reply, State]:
        """Train, and tell which visit it was, whether it is the best so far, and whether none follows.

        At the end, the site keeps what it kept at its best visit, as the model that it hands on is that one.
        """
        reply, own = super().train(task, start, kept, trainer, counts)
        losses = list(trainer.validate(reply.state).values())
        loss = torch.tensor(sum(losses) / len(losses) if losses else 0.0)
        better = task.visit == 1 or not losses or bool(loss < kept[LOWEST])
        since = 0 if better else int(kept[SINCE]) + 1
        ends = since >= self.patience or task.visit >= trainer.plan.rounds
        told = {"visit": torch.tensor(task.visit), "better": torch.tensor(int(better)), "ends": torch.tensor(int(ends))}
        best = own if better else {n.removeprefix(BEST): t for n, t in kept.items() if n.startswith(BEST)}
        facts = {LOWEST: loss if better else kept[LOWEST], SINCE: torch.tensor(since)}
        kept = (best if ends else own) | {BEST + n: t.clone() for n, t in best.items()} | facts
        return replace(reply, extra=told), kept

    def check(self, reply: Reply, task: Task) -> None:
        """Refuse a reply that does not tell of the visit that was asked for, or whose first visit is not the best."""
        if task.kind != "train":
            return
        visit, better, ends = (int(reply.extra.get(name, torch.tensor(-1))) for name in ("visit", "better", "ends"))
        if visit != task.visit or {better, ends} - {0, 1} or (visit == 1 and not better):
            raise TrainingError(
                f"Expected of '{reply.site}' visit {task.visit}, and 0 or 1 for whether it is the best and the last; "
                f"found {visit}, {better} and {ends}. Install the same hilum at the server and at every site."
            )

    def count(self, tally: Tally, server: ServerState, reply: Reply, among_asked: Weight, among_all: Weight) -> None:
        """Take the one reply, and what the site told."""
        super().count(tally, server, reply, among_asked, among_all)
        tally.told = reply.extra

    def step(self, server: ServerState, tally: Tally) -> ServerState:
        """Take the site's model; at its early stop, its best one, and turn to the next site."""
        after, (turn, _) = super().step(server, tally), self._turn(server)
        best = {BEST + name: t for name, t in after.state.items()} if int(tally.told["better"]) else {}
        extra = server.extra | best
        if int(tally.told["ends"]):
            state = {name: extra[BEST + name] for name in after.state}
            return replace(after, state=state, extra=extra | {TURN: torch.tensor([turn + 1, 0])})
        return replace(after, extra=extra | {TURN: torch.tensor([turn, int(tally.told["visit"])])})

    def _turn(self, server: ServerState) -> tuple[int, int]:
        turn, visit = server.extra.get(TURN, torch.zeros(2, dtype=torch.int64)).tolist()
        return turn, visit
