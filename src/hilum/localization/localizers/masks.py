"""The masks of a segmentation network that learned from the model's own maps."""

from __future__ import annotations

from torch import Tensor

from hilum.localization.localizers.base import Localizer
from hilum.models.classifier import LocalizingClassifier


class Masks(Localizer):
    """What the model's neck segments (``models.neck.conta``)."""

    def __call__(self, model: LocalizingClassifier, images: Tensor) -> Tensor:
        """Return masks (B, C, h, w) in [0, 1] of images (B, 1, H, W); raises ``ValueError`` where none are made."""
        masks = model(images).masks
        if masks is None:
            raise ValueError("expected a model whose neck segments, such as model.neck: conta")
        return masks.detach()
