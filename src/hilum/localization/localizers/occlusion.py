"""Where covering the image lowers the logit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.localization.localizers.base import Localizer, scaled
from hilum.models.classifier import LocalizingClassifier
from hilum.models.patches import fold_scores, patch_bag

BATCH = 64


class Occlusion(Localizer):
    """How much the logit falls where a square of the image takes the image's mean (Zeiler & Fergus 2014).

    ``size`` of the square and ``stride`` between two, in px. As slow as it is simple: of an image of 128 px
    it predicts 225 covered copies. Raises ``ValueError``.
    """

    def __init__(self, size: int = 16, stride: int = 8) -> None:
        if not 1 <= stride <= size:
            raise ValueError(f"expected a stride of at least 1 and at most the size, {size}; found {stride}")
        self.size, self.stride = size, stride

    def __call__(self, model: LocalizingClassifier, images: Tensor) -> Tensor:
        """Return maps (B, C, h, w) in [0, 1]."""
        height, width = images.shape[2:]
        _, places = patch_bag(images[:1], self.size, self.stride)
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        x0, y0, x1, y1 = places[:, :, None].unbind(1)
        covered = ((rows >= y0) & (rows < y1))[:, None, :, None] & ((columns >= x0) & (columns < x1))[:, None, None]
        with torch.no_grad():
            falls = torch.stack([self._falls(model, image, covered) for image in images])
        pixels = fold_scores(falls, places, (height, width))
        grid = (-(-height // model.backbone.stride), -(-width // model.backbone.stride))
        return scaled(F.adaptive_avg_pool2d(pixels, grid))

    @staticmethod
    def _falls(model: LocalizingClassifier, image: Tensor, covered: Tensor) -> Tensor:
        """Return by how much each covered square (N, 1, H, W) lowers the logits of an image (1, H, W): (N, C)."""
        parts = [model(torch.where(part, image.mean(), image)).logits for part in covered.split(BATCH)]
        return model.answers(model(image[None]).logits) - model.answers(torch.cat(parts))
