"""A site at work: one task in, one reply out, with what the site remembers. The same in every runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hilum.errors import TrainingError
from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import STATELESS, Reply, Task
from hilum.federation.secure_sum import SecureSum, new_secret, public_key
from hilum.federation.strategies.base import Strategy
from hilum.training.loop import LocalTrainer

RESIDUAL = "residual/"  # of a compressed update, kept beside what the strategy keeps


@dataclass(frozen=True)
class Worker:
    """A site: its trainer, its memory, the site's half of a strategy, and what is done to an update that leaves.

    ``secure``: how updates are masked; None where the server may see each.
    """

    trainer: LocalTrainer
    memory: SiteMemory
    strategy: Strategy
    compression: Compression
    secure: SecureSum | None = None

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.trainer.name

    def do(self, task: Task) -> Reply:
        """Do a task and keep what the strategy wants kept; raises ``TrainingError``, ``RunError``."""
        known = sorted({"train", *STATELESS, *self.strategy.closing(2)})
        if task.kind not in known:
            raise TrainingError(f"Expected a task among {', '.join(known)} for '{self.name}'; found '{task.kind}'.")
        kept = self.memory.at(task.taken)
        residual = {name.removeprefix(RESIDUAL): t for name, t in kept.items() if name.startswith(RESIDUAL)}
        kept = {name: t for name, t in kept.items() if not name.startswith(RESIDUAL)}
        reply, kept = self.strategy.at_site(task, kept, self.trainer)
        if task.kind == "train":
            sent, residual = self.compression.encode(reply.state, task.state, residual)
            reply = self._masked(replace(reply, state=sent), task)
        if task.kind == "count" and self.secure is not None:
            reply = replace(reply, key=public_key(self.memory.secret(new_secret)))
        if task.kind not in STATELESS:
            kept = kept | {RESIDUAL + name: t for name, t in residual.items()}
            self.memory.keep((task.round, task.wave), kept, task.taken, task.lowest)
        return reply

    def _masked(self, reply: Reply, task: Task) -> Reply:
        """Put an update under masks where the study asks for it, and never send it without."""
        if self.secure is None:
            return reply
        return self.secure.masked(reply, task, self.memory.secret(new_secret))
