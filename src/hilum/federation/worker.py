"""A site at work: one task in, one reply out, with what the site remembers. The same in every runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import STATELESS, Reply, Task
from hilum.federation.strategies.base import Strategy
from hilum.training.loop import LocalTrainer

RESIDUAL = "residual/"  # of a compressed update, kept beside what the strategy keeps


@dataclass(frozen=True)
class Worker:
    """A site: its trainer, its memory, the site's half of a strategy, and what is done to an update that leaves."""

    trainer: LocalTrainer
    memory: SiteMemory
    strategy: Strategy
    compression: Compression

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.trainer.name

    def do(self, task: Task) -> Reply:
        """Do a task and keep what the strategy wants kept; raises ``TrainingError``, ``RunError``."""
        kept = self.memory.at(task.taken)
        residual = {name.removeprefix(RESIDUAL): t for name, t in kept.items() if name.startswith(RESIDUAL)}
        kept = {name: t for name, t in kept.items() if not name.startswith(RESIDUAL)}
        reply, kept = self.strategy.at_site(task, kept, self.trainer)
        if task.kind == "train":
            sent, residual = self.compression.encode(reply.state, task.state, residual)
            reply = replace(reply, state=sent)
        if task.kind not in STATELESS:
            kept = kept | {RESIDUAL + name: t for name, t in residual.items()}
            self.memory.keep((task.round, task.wave), kept, task.taken, task.lowest)
        return reply
