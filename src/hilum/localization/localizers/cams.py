"""MONAI's class activation maps, of the features that the head reads (the extra ``monai``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import MissingExtra
from hilum.localization.localizers.base import Localizer, scaled
from hilum.models.classifier import LocalizingClassifier


class Reading(nn.Module):
    """Features → logits of the findings, with a layer for MONAI to hook that goes when this does."""

    def __init__(self, model: LocalizingClassifier) -> None:
        super().__init__()
        self.model, self.features = model, nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) → (B, C)."""
        return self.model.answers(self.model.read(self.features(features)).logits)


class GradCam(Localizer):
    """Grad-CAM of MONAI (Selvaraju et al. 2017): features weighted by the mean of their gradient.

    Raises ``MissingExtra``.
    """

    method = "GradCAM"

    def __init__(self) -> None:
        try:
            from monai.visualize import class_activation_maps
        except ImportError:
            raise MissingExtra("monai", "monai") from None
        self.make: Callable[..., Any] = getattr(class_activation_maps, self.method)

    def __call__(self, model: LocalizingClassifier, images: Tensor) -> Tensor:
        """Return maps (B, C, h, w) in [0, 1]."""
        with torch.no_grad():
            features = model.features(images)
        cam, findings = self.on(model), range(model.head.out_channels)
        # One image at a time: Grad-CAM++ of MONAI multiplies scores (B,) with gradients (B, D, h, w).
        with torch.enable_grad():
            maps = [[self.of_one(cam, z[None].requires_grad_(), c).detach() for c in findings] for z in features]
        model.zero_grad()
        return scaled(model.backbone.fold(torch.cat([torch.cat(row, 1) for row in maps])))

    def on(self, model: LocalizingClassifier) -> Any:
        """Return MONAI's method on a model."""
        return self.make(Reading(model).eval(), "features")

    def of_one(self, cam: Any, features: Tensor, finding: int) -> Tensor:
        """Return the map (1, 1, h, w) of one image's features."""
        return cam.compute_map(features, class_idx=finding)


class GradCamPlusPlus(GradCam):
    """Grad-CAM++ of MONAI (Chattopadhyay et al. 2018): features weighted by their positive gradients.

    Raises ``MissingExtra``.
    """

    method = "GradCAMpp"


class Cam(GradCam):
    """Class activation map of MONAI (Zhou et al. 2016): features weighted by the finding's row of the head.

    Where several hospitals' rows are mixed, those of the model itself count; with a taxonomy, a row is that of the
    finding given its parent. Raises ``MissingExtra``.
    """

    method = "CAM"

    def on(self, model: LocalizingClassifier) -> Any:
        """Return MONAI's method with the head's weights, whose bias tells no place."""
        rows = model.head.weight.flatten(1)
        return self.make(Reading(model).eval(), "features", lambda _: lambda cells: F.linear(cells, rows))

    def of_one(self, cam: Any, features: Tensor, finding: int) -> Tensor:
        """Return the map (1, 1, h, w) of one image's features."""
        return cam.compute_map(features, class_idx=[finding])
