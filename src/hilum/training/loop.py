"""The local loop: what one participant does with the weights it is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.errors import TrainingError
from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier, Prediction
from hilum.models.site_heads import FeatureMoments
from hilum.randomness import numpy_generator, torch_generator
from hilum.sites.examples import Batch, Examples
from hilum.training.cell_losses.base import CellLoss
from hilum.training.losses import LOSSES
from hilum.training.losses.base import Loss
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.optimizers import OptimizerPlan
from hilum.training.rules import LocalRule
from hilum.training.state import State, copy_state

MOMENT_IMAGES = 512  # of each source, for statistics over its images
START_ANEW = (
    "Earlier rounds are kept; with other values it is another run: start it with a lower "
    "--set training.optimizer.lr=… or --set training.optimizer.clip=… and a new --out."
)


@dataclass(frozen=True)
class TrainingPlan:
    """How a participant trains in every round; ``updates`` None is ``epochs`` passes over its images.

    ``prior_correction`` 'relative' adds logit π_site − logit π_global to the logits in the loss, per finding
    and site, so that sites with other prevalences ask the shared head for the same intercept; 'absolute' adds
    logit π_site, so that the shared logits are those at a prior of ½ everywhere. ``loss``: a name in
    ``LOSSES``, with its options. ``conditional``: share of the rounds that train P(finding | parent), where the model
    has a taxonomy; no prior corrects them, as no server knows how often a finding is seen among images that show its
    parent. ``precision``: 'float32' or 'bfloat16' autocast of the trunk. ``tau``, ``weighting``: see
    ``Examples.draw``.
    """

    rounds: int
    updates: int | None
    batch: int
    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: str = "masked_bce"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    conditional: float = 0.5
    cell_loss: CellLoss = field(default_factory=CellLoss)
    prior_correction: str = "none"
    precision: str = "float32"
    freeze_norm: bool = False
    tau: float = 0.5
    weighting: str = "known"
    validation_limit: int | None = 128
    epochs: int = 1


@dataclass(frozen=True)
class Fit:
    """Outcome of one local round: the new state, the mean loss over its updates, their number."""

    state: State
    loss: float
    updates: int


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a trunk computes with 'float32' or 'bfloat16'."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def smoothed_prior(positive: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (positives + 1) / (known + 2), the prior of each finding."""
    return (positive + 1) / (known + 2)


def log_odds(prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logit of each prior, in (0, 1)."""
    return np.log(prior / (1 - prior))


class LocalTrainer:
    """A participant's side of training: its examples, a model to compute with, and the plan.

    The model is scratch space: every call starts from the state it is given. All randomness comes from
    (seed, round, participant name). ``shared``: images that are not the participant's own and are trained on beside
    them. The loss and the prior correction count the labels of all that is drawn, with them; what a server is told of
    labels and moments, the statistics that are estimated and the number of updates are without them.
    """

    def __init__(
        self,
        name: str,
        model: LocalizingClassifier,
        train: Examples,
        validation: Examples,
        plan: TrainingPlan,
        seed: int,
        shared: Examples | None = None,
    ) -> None:
        self.name, self.model, self.plan, self.seed = name, model, plan, seed
        self.train_examples, self.validation_examples = train, validation
        self.drawn_examples = train if shared is None else Examples(train.sources + shared.sources)
        self.loss = self.conditional_loss = self._loss_of(self.drawn_examples)
        if (taxonomy := model.taxonomy) is not None:
            self.conditional_loss = self._loss_of(
                self.drawn_examples.relabelled(lambda t: taxonomy.conditional(torch.from_numpy(t)).numpy())
            )

    def _loss_of(self, labelled: Examples) -> Loss:
        """Return the plan's loss for labels of the images that are drawn."""
        plan, drawn = self.plan, self.drawn_examples
        counts = (drawn.drawn(c, plan.tau, plan.weighting) for c in (labelled.positive(), labelled.known()))
        loss: Loss = LOSSES.load(plan.loss)(*counts, **plan.loss_options)
        return loss

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def updates(self) -> int:
        """Updates a round."""
        passes, images = self._passes()
        return passes * -(-images // self.plan.batch)

    def _passes(self) -> tuple[int, int]:
        """Return the passes of a round and the images of each: full batches, or every image once an epoch."""
        plan = self.plan
        return (1, plan.updates * plan.batch) if plan.updates else (plan.epochs, len(self.train_examples))

    def fit(
        self,
        state: State,
        round_: int,
        global_prior: NDArray[np.float64],
        rule: LocalRule | None = None,
        wave: int = 0,
    ) -> Fit:
        """Train one round from ``state``, with what ``rule`` adds; raises ``TrainingError`` at a loss not finite.

        ``wave``: tells several trainings of a round apart, which draw other images.
        """
        model, plan, rule = self.model, self.plan, rule or LocalRule()
        model.load_state_dict(state)
        sums = self._sums() if model.neck.counts_in(round_, plan.rounds) else {}
        model.train()
        if plan.freeze_norm:
            model.backbone.eval()
        rule.begin(model)
        optimizer = plan.optimizer.build(model, round_, plan.rounds)
        when = (round_, self.name) if wave == 0 else (round_, self.name, wave)
        losses = [
            self._update(optimizer, rule, batch, step, round_)
            for step, batch in enumerate(self._batches(when, global_prior))
        ]
        return Fit(copy_state(model) | sums, float(np.mean(losses)), len(losses))

    def _batches(
        self, when: tuple[int | str, ...], global_prior: NDArray[np.float64]
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield the round's augmented batches and what the prior correction adds to their logits."""
        plan, offsets = self.plan, self._offsets(global_prior)
        draws = numpy_generator(self.seed, *when, "batches")
        noise = torch_generator(self.seed, *when, "augmentation")
        passes, count = self._passes()
        for _ in range(passes):
            for batch in self.drawn_examples.draw(count, plan.batch, plan.tau, draws, plan.weighting):
                images = plan.augmentation(batch.images.to(self.device), noise)
                placed = replace(batch, images=images, targets=batch.targets.to(self.device))
                yield placed, offsets[batch.source].to(self.device)

    def _update(
        self,
        optimizer: torch.optim.Optimizer,
        rule: LocalRule,
        drawn: tuple[Batch, Tensor],
        step: int,
        round_: int,
    ) -> float:
        batch, offsets = drawn
        prediction = self._predict(batch.images)
        loss = self._image_loss(prediction.logits, offsets, batch.targets, round_)
        progress = round_ / self.plan.rounds
        for extra in (
            rule.loss(self.model, batch, prediction.logits),
            self.plan.cell_loss(prediction.maps, batch.targets, progress),
            self._mask_loss(prediction, batch.targets),
        ):
            loss = loss if extra is None else loss + extra
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"Expected a finite loss; found {value} at '{self.name}' in round {round_} (seed {self.seed}). "
                f"{START_ANEW}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        rule.before_step(self.model, step, self.updates)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.optimizer.clip)
        optimizer.step()
        return value

    def _mask_loss(self, prediction: Prediction, targets: Tensor) -> Tensor | None:
        if prediction.masks is None:
            return None
        return self.model.neck.loss(prediction.maps, prediction.masks, targets)

    def _image_loss(self, logits: Tensor, offsets: Tensor, targets: Tensor, round_: int) -> Tensor:
        """Return the loss on images: with a taxonomy first of the conditional (HLCP), then of the findings (HLUP)."""
        taxonomy = self.model.taxonomy
        if taxonomy is not None and round_ <= self.plan.conditional * self.plan.rounds:
            return self.conditional_loss(logits, taxonomy.conditional(targets))
        return self.loss(self.model.answers(logits) + offsets, targets)

    def validate(self, state: State) -> dict[str, float]:
        """Return the masked cross-entropy on validation patients of each source that has known labels."""
        self.model.load_state_dict(state)
        self.model.eval()
        sums: dict[int, list[tuple[float, int]]] = {}
        with torch.no_grad():
            for batch in self.validation_examples.chunks(4 * self.plan.batch, self.plan.validation_limit):
                known = int((~batch.targets.isnan()).sum())
                logits = self.model.answers(self._predict(batch.images.to(self.device)).logits)
                loss = float(masked_bce(logits, batch.targets.to(self.device)))
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
        images = (
            batch.images.to(self.device) for batch in self.train_examples.mixed(4 * self.plan.batch, MOMENT_IMAGES)
        )
        estimate_norm_stats(self.model, images, self.plan.precision)
        return copy_state(self.model)

    def feature_moments(self, state: State) -> FeatureMoments:
        """Return the moments of this participant's training images under ``state``, of at most ``MOMENT_IMAGES``."""
        self.model.load_state_dict(state)
        batches = self.train_examples.chunks(4 * self.plan.batch, MOMENT_IMAGES)
        return feature_moments(self.model, (batch.images for batch in batches), self.plan.precision)

    def _sums(self) -> State:
        """Return the sums of the model's neck over training images that show a finding, under the weights it holds.

        Of each source and finding at most ``MOMENT_IMAGES`` images.
        """
        neck, examples = self.model.neck, self.train_examples.showing(MOMENT_IMAGES)
        total = {name: torch.zeros_like(neck.get_buffer(name), device="cpu") for name in neck.sums}
        patients = torch.zeros(self.train_examples.known().shape[1])
        self.model.eval()
        with torch.no_grad():
            for batch in examples.chunks(4 * self.plan.batch):
                masks = self._predict(batch.images.to(self.device)).masks
                for name, part in neck.count(cast(Tensor, masks).cpu(), batch.targets).items():
                    total[name] += part
        if examples.sources:
            patients += torch.from_numpy(examples.patients().sum(0))
        return {f"neck.{name}": tensor for name, tensor in neck.released(total, patients).items()}

    def _predict(self, images: Tensor) -> Prediction:
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.plan.precision):
            prediction: Prediction = self.model(images)
        return prediction

    def _offsets(self, global_prior: NDArray[np.float64]) -> Tensor:
        known, positive = self.drawn_examples.known(), self.drawn_examples.positive()
        if self.plan.prior_correction == "none":
            return torch.zeros(known.shape)
        offsets = log_odds(smoothed_prior(positive, known))
        if self.plan.prior_correction == "relative":
            offsets -= log_odds(global_prior)
        return torch.from_numpy(np.where(known > 0, offsets, 0.0)).float()


def trained_norms(model: LocalizingClassifier) -> list[torch.nn.BatchNorm2d]:
    """Return the normalizations whose statistics move in training, with the model in training mode."""
    model.train()
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training]


def feature_moments(model: LocalizingClassifier, batches: Iterable[Tensor], precision: str) -> FeatureMoments:
    """Return the moments of the features that a model as it stands has of images, in batches (B, 1, S, S) in [0, 1]."""
    device, features = next(model.parameters()).device, []
    model.eval()
    with torch.no_grad(), autocast(device, precision):
        for images in batches:
            features.append(model.features(images.to(device).contiguous(memory_format=torch.channels_last)).cpu())
    return FeatureMoments.of(features)


def estimate_norm_stats(model: LocalizingClassifier, batches: Iterable[Tensor], precision: str = "float32") -> None:
    """Set the model's normalization statistics to the averages over unlabelled images (AdaBN, Li et al. 2018).

    The variance is the mean of those within the batches, so each batch should be a random part of all images
    (``Examples.mixed``). Frozen parts, which stay in evaluation mode while the model trains, keep theirs.
    """
    norms = trained_norms(model)
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    seen = 0
    with torch.no_grad(), autocast(next(model.parameters()).device, precision):
        for images in batches:
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / seen  # the running mean over images, whatever the batches
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
