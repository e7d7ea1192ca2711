"""Sites without files: pixels and labels in memory, for everything to the right of `sites`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.sites.examples import Examples
from hilum.training.loop import LocalTrainer, TrainingPlan
from hilum.training.optimizers import OptimizerPlan

NOTHING = Augmentation(strength=0.0, flip=False)


@dataclass(frozen=True)
class FakeSite:
    """What ``Examples`` and ``LocalTrainer`` use of a ``Site``; ``stored`` (N, S, S) uint8."""

    name: str
    stored: NDArray[np.uint8]
    targets: NDArray[np.float32]
    split: NDArray[np.str_]

    @property
    def findings(self) -> tuple[str, ...]:
        return ("Mass", "Nodule", "Effusion")[: self.targets.shape[1]]

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
