"""The interface of a localizer, and the model's own map."""

from __future__ import annotations

from torch import Tensor

from hilum.models.classifier import LocalizingClassifier


class Localizer:
    """The model's own map, which its image logit is made of."""

    def __call__(self, model: LocalizingClassifier, images: Tensor) -> Tensor:
        """Return maps (B, C, h, w) in [0, 1] of images (B, 1, H, W) in [0, 1], by a model in evaluation mode."""
        return model(images).maps.detach()


def scaled(maps: Tensor) -> Tensor:
    """Return what is positive of maps (B, C, h, w), each over its highest; a map without it stays 0."""
    positive = maps.clamp(min=0)
    highest = positive.amax((2, 3), keepdim=True)
    return positive / highest.where(highest > 0, 1)
