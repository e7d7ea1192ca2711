"""Sites without files: pixels and labels in memory, for everything to the right of `sites`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import NEVER, Lost, Moment, Reply, ServerState, Task
from hilum.federation.rounds import AFTER_ALL_WAVES, Federation, RoundsPlan
from hilum.federation.runtimes.in_process import InProcess, Presence
from hilum.federation.secure_sum import SecureSum
from hilum.federation.topology.star import Star
from hilum.federation.worker import Worker
from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.sites.examples import Examples
from hilum.training.loop import LocalTrainer, TrainingPlan
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state

EVEN = np.array([0.5, 0.5])
NOTHING = Augmentation(strength=0.0, flip=False)


@dataclass(frozen=True)
class FakeSite:
    """What ``Examples`` and ``LocalTrainer`` use of a ``Site``; ``stored`` (N, S, S) uint8."""

    name: str
    stored: NDArray[np.uint8]
    targets: NDArray[np.float32]
    split: NDArray[np.str_]
    of_patients: NDArray[np.int64] | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        return ("Mass", "Nodule", "Effusion")[: self.targets.shape[1]]

    @property
    def patients(self) -> NDArray[np.int64]:
        return np.arange(len(self.targets)) if self.of_patients is None else self.of_patients

    @property
    def pixels(self) -> Any:
        return SimpleNamespace(pixels=self.stored)

    def indices(self, *splits: str) -> NDArray[np.int64]:
        return np.flatnonzero(np.isin(self.split, splits))

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.stored[indices]


def fake_site(
    name: str,
    train: int = 8,
    val: int = 4,
    size: int = 16,
    findings: int = 2,
    unknown: Sequence[int] = (),
    seed: int = 0,
) -> FakeSite:
    """Noise with random labels; the findings in ``unknown`` are never labelled."""
    rng = np.random.default_rng(seed)
    count = train + val
    targets = rng.integers(0, 2, (count, findings)).astype(np.float32)
    targets[:, list(unknown)] = np.nan
    stored = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    return FakeSite(name, stored, targets, np.array(["train"] * train + ["val"] * val))


def tiny_model(findings: int = 2, seed: int = 0, pooling: str = "linear_softmax") -> LocalizingClassifier:
    """A residual trunk of a few hundred weights."""
    return build_model({"name": "residual", "widths": (4, 4, 8)}, {"name": pooling}, findings, seed)


def fake_trainer(
    *sites: FakeSite, model: LocalizingClassifier | None = None, seed: int = 0, **plan: Any
) -> LocalTrainer:
    """A participant with the sites' training and validation images; ``plan`` overrides a tiny plan."""
    options: dict[str, Any] = {
        "rounds": 4,
        "updates": 2,
        "batch": 4,
        "optimizer": OptimizerPlan(),
        "augmentation": NOTHING,
    }
    name = "+".join(site.name for site in sites)
    examples = [Examples.of(sites, split) for split in ("train", "val")]  # type: ignore[arg-type]
    model = model or tiny_model(sites[0].targets.shape[1])
    return LocalTrainer(name, model, examples[0], examples[1], TrainingPlan(**(options | plan)), seed)


def tensors_of(site: FakeSite, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, S, S) in [0, 1] and targets (N, C) of a split, in order."""
    rows = site.indices(split)
    return torch.from_numpy(site.stored[rows]).unsqueeze(1).float().div(255), torch.from_numpy(site.targets[rows])


@dataclass
class Hospitals:
    """Sites at work in this process, their memories below ``folder``, and the server's half of a round by hand."""

    strategy: Any
    trainers: dict[str, LocalTrainer]
    folder: Path
    secure: SecureSum | None = None

    @classmethod
    def of(cls, folder: Path, strategy: Any, *sites: FakeSite, **plan: Any) -> Hospitals:
        return cls(strategy, {site.name: fake_trainer(site, **plan) for site in sites}, folder)

    @property
    def workers(self) -> list[Worker]:
        none = Compression(getattr(self.strategy, "groups", {}))
        return [
            Worker(t, SiteMemory(self.folder / n), self.strategy, none, self.secure) for n, t in self.trainers.items()
        ]

    @property
    def runtime(self) -> InProcess:
        return InProcess(self.workers)

    def kept(self, site: str, moment: Moment = (9999, 99999)) -> State:
        """What a site kept last."""
        return SiteMemory(self.folder / site).at(moment)

    def start(self, state: State | None = None) -> ServerState:
        """A server that has trained nothing and knows the counts of all sites."""
        server = ServerState(0, copy_state(tiny_model()) if state is None else state)
        return self.strategy.join(server, {r.site: r.counts for r in self.replies(server, "count")})

    def replies(self, server: ServerState, kind: str = "train", prior: NDArray[np.float64] = EVEN) -> list[Reply]:
        """Replies of all sites to a task from the server's state, sorted by site."""
        train = kind == "train"
        tasks = {
            name: Task(
                kind,
                server.round + train,
                server.state,
                prior,
                wave=0 if train else AFTER_ALL_WAVES,
                extra=self.strategy.extra_for(name, server) if train else {},
                taken=server.taken.get(name, NEVER),
            )
            for name in self.trainers
        }
        return [_answered(reply) for reply in self.runtime.exchange(tasks)]

    def taking(self, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """The server after a round with these replies, in this order."""
        tally = self.strategy.collect(server, replies, {r.site: server.counts[r.site] for r in replies})
        after = self.strategy.step(server, tally)
        taken = {reply.site: (reply.round, 0) for reply in replies}
        return replace(after, round=server.round + 1, taken={**server.taken, **taken})

    def rounds(self, number: int, server: ServerState | None = None) -> tuple[ServerState, list[Reply]]:
        """The server after so many rounds, and the replies of the last."""
        server, last = server or self.start(), []
        for _ in range(number):
            last = self.replies(server)
            server = self.taking(server, last)
        return server, last

    def closed(self, server: ServerState) -> ServerState:
        """The server after the closing tasks."""
        for kind in self.strategy.closing(len(self.trainers)):
            server = self.strategy.close_at_server(kind, server, self.replies(server, kind))
            moment = (server.round, AFTER_ALL_WAVES)
            server = replace(server, taken=dict.fromkeys(self.trainers, moment))
        return server

    def federation(self, plan: RoundsPlan, topology: Star | None = None, **presence: Presence) -> Federation:
        """The round loop over these sites."""
        none = Compression(getattr(self.strategy, "groups", {}))
        runtime = InProcess(self.workers, presence)
        return Federation(self.strategy, topology or Star(), none, runtime, plan, secure=self.secure)


def _answered(reply: Reply | Lost) -> Reply:
    if isinstance(reply, Lost):
        raise reply.error or AssertionError(reply)
    return reply
