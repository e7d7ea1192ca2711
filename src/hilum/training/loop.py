"""The local loop: what one participant does with the weights it is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.errors import TrainingError
from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier
from hilum.models.site_heads import FeatureMoments
from hilum.randomness import numpy_generator, torch_generator
from hilum.sites.examples import Examples
from hilum.training.losses import LOSSES
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state

MOMENT_IMAGES = 512  # of each source, for statistics over its images
START_ANEW = (
    "Earlier rounds are kept; with other values it is another run: start it with a lower "
    "--set training.optimizer.lr=… or --set training.optimizer.clip=… and a new --out."
)


@dataclass(frozen=True)
class TrainingPlan:
    """How a participant trains in every round; ``updates`` None is one pass over its images.

    ``prior_correction`` 'relative' adds logit π_site − logit π_global to the logits in the loss, per finding
    and site, so that sites with other prevalences ask the shared head for the same intercept.
    ``precision``: 'float32' or 'bfloat16' autocast of the trunk. ``tau``, ``weighting``: see ``Examples.draw``.
    """

    rounds: int
    updates: int | None
    batch: int
    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: str = "masked_bce"
    prior_correction: str = "none"
    precision: str = "float32"
    freeze_norm: bool = False
    tau: float = 0.5
    weighting: str = "known"
    validation_limit: int | None = 128


@dataclass(frozen=True)
class Fit:
    """Outcome of one local round: the new state, the mean loss over its updates, their number."""

    state: State
    loss: float
    updates: int


def smoothed_prior(positive: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (positives + 1) / (known + 2), the prior of each finding."""
    return (positive + 1) / (known + 2)


class LocalTrainer:
    """A participant's side of training: its examples, a model to compute with, and the plan.

    The model is scratch space: every call starts from the state it is given. All randomness comes from
    (seed, round, participant name).
    """

    def __init__(
        self,
        name: str,
        model: LocalizingClassifier,
        train: Examples,
        validation: Examples,
        plan: TrainingPlan,
        seed: int,
    ) -> None:
        self.name, self.model, self.plan, self.seed = name, model, plan, seed
        self.train_examples, self.validation_examples = train, validation

    @property
    def updates(self) -> int:
        """Updates a round."""
        return self.plan.updates or max(1, -(-len(self.train_examples) // self.plan.batch))

    def fit(self, state: State, round_: int, global_prior: NDArray[np.float64]) -> Fit:
        """Train one round from ``state``; raises ``TrainingError`` at a loss that is not finite."""
        model, plan = self.model, self.plan
        model.load_state_dict(state)
        model.train()
        if plan.freeze_norm:
            model.backbone.eval()
        optimizer = plan.optimizer.build(model, round_, plan.rounds)
        offsets = self._offsets(global_prior)
        draws = numpy_generator(self.seed, round_, self.name, "batches")
        noise = torch_generator(self.seed, round_, self.name, "augmentation")
        loss_of = LOSSES.load(plan.loss)
        losses = []
        for batch in self.train_examples.draw(self.updates, plan.batch, plan.tau, draws, plan.weighting):
            images = plan.augmentation(batch.images, noise)
            loss = loss_of(self._logits(images) + offsets[batch.source], batch.targets)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"Expected a finite loss; found {value} at '{self.name}' in round {round_} (seed {self.seed}). "
                    f"{START_ANEW}"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), plan.optimizer.clip)
            optimizer.step()
            losses.append(value)
        return Fit(copy_state(model), float(np.mean(losses)), len(losses))

    def validate(self, state: State) -> dict[str, float]:
        """Return the masked cross-entropy on validation patients of each source that has known labels."""
        self.model.load_state_dict(state)
        self.model.eval()
        sums: dict[int, list[tuple[float, int]]] = {}
        with torch.no_grad():
            for batch in self.validation_examples.chunks(4 * self.plan.batch, self.plan.validation_limit):
                known = int((~batch.targets.isnan()).sum())
                loss = float(masked_bce(self._logits(batch.images), batch.targets))
                sums.setdefault(int(batch.source[0]), []).append((loss, known))
        names = [site.name for site, _ in self.validation_examples.sources]
        return {
            names[k]: sum(loss * n for loss, n in parts) / sum(n for _, n in parts)
            for k, parts in sums.items()
            if sum(n for _, n in parts)
        }

    def recalibrate(self, state: State) -> State:
        """Return ``state`` with normalization statistics estimated anew on this participant's training images."""
        self.model.load_state_dict(state)
        images = (batch.images for batch in self.train_examples.chunks(4 * self.plan.batch, MOMENT_IMAGES))
        estimate_norm_stats(self.model, images, self.plan.precision)
        return copy_state(self.model)

    def feature_moments(self, state: State) -> FeatureMoments:
        """Return the moments of this participant's training images under ``state``, of at most ``MOMENT_IMAGES``."""
        self.model.load_state_dict(state)
        self.model.eval()
        features = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
            for batch in self.train_examples.chunks(4 * self.plan.batch, MOMENT_IMAGES):
                features.append(self.model.backbone(batch.images.contiguous(memory_format=torch.channels_last)))
        return FeatureMoments.of(features)

    def _logits(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.precision == "bfloat16"):
            return self.model(images).logits.float()

    def _offsets(self, global_prior: NDArray[np.float64]) -> Tensor:
        known, positive = self.train_examples.known(), self.train_examples.positive()
        if self.plan.prior_correction != "relative":
            return torch.zeros(known.shape)
        prior = smoothed_prior(positive, known)
        offsets = np.log(prior / (1 - prior)) - np.log(global_prior / (1 - global_prior))
        return torch.from_numpy(np.where(known > 0, offsets, 0.0)).float()


def estimate_norm_stats(model: LocalizingClassifier, batches: Iterable[Tensor], precision: str = "float32") -> None:
    """Set the model's normalization statistics to the averages over unlabelled images (AdaBN, Li et al. 2018).

    Frozen parts, which stay in evaluation mode while the model trains, keep theirs.
    """
    model.train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for images in batches:
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / seen  # the running mean over images, whatever the batches
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
