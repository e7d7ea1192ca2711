"""Where a pixel moves the logit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.localization.localizers.base import Localizer, scaled
from hilum.models.classifier import LocalizingClassifier


def saliency(model: LocalizingClassifier, images: Tensor) -> Tensor:
    """Return |∂ logit / ∂ pixel| (B, C, H, W) of images (B, 1, H, W) (Simonyan et al. 2014)."""
    with torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        logits = model.answers(model(pixels).logits).sum(0)
        gradients = [torch.autograd.grad(logit, pixels, retain_graph=True)[0] for logit in logits]
    return torch.cat(gradients, 1).abs()


class Saliency(Localizer):
    """Gradient of the logit by the pixels (Simonyan et al. 2014), averaged over each cell of the model's map."""

    def __call__(self, model: LocalizingClassifier, images: Tensor) -> Tensor:
        """Return maps (B, C, h, w) in [0, 1]."""
        rows, columns = (-(-side // model.backbone.stride) for side in images.shape[2:])
        return scaled(F.adaptive_avg_pool2d(saliency(model, images), (rows, columns)))
