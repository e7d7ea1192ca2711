"""What a federated algorithm adds to plain local training: an extra loss, other gradients."""

from __future__ import annotations

from torch import Tensor

from hilum.models.classifier import LocalizingClassifier
from hilum.sites.examples import Batch


class LocalRule:
    """Plain local training; an algorithm overrides what it adds. One rule serves one call of ``LocalTrainer.fit``."""

    def begin(self, model: LocalizingClassifier) -> None:
        """See the model as the round begins."""

    def loss(self, model: LocalizingClassifier, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return a term to add to the loss of a batch, as augmented, with its uncorrected logits (B, C)."""
        return None

    def before_step(self, model: LocalizingClassifier, step: int, steps: int) -> None:
        """Edit the gradients of update ``step`` = 0 … ``steps`` − 1, before they are clipped."""
