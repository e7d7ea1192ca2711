"""Inference: images → probabilities and maps on the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.models.classifier import LocalizingClassifier
from hilum.training.loop import autocast

Localize = Callable[[LocalizingClassifier, Tensor], Tensor]


@dataclass(frozen=True)
class Inferred:
    """``probabilities`` (N, C) in [0, 1] and ``maps`` (N, C, h, w) in [0, 1] over the padded square.

    ``masks``: (N, C, h, w) in [0, 1], where the model's neck segments.
    """

    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]
    masks: NDArray[np.float32] | None = None


def infer(
    model: LocalizingClassifier,
    batches: Iterable[Tensor],
    precision: str = "float32",
    flip: bool = True,
    localize: Localize | None = None,
) -> Inferred:
    """Return what the model says of batches (B, 1, S, S); ``flip`` averages each image with its mirror image.

    ``localize``: makes maps (B, C, h, w) of a model and images in float32, instead of the model's own.
    """
    model.eval()
    probabilities, maps, masks = [], [], []
    for images in batches:
        scores, *planes = _predict(model, images, precision, localize)
        if flip:
            mirrored, *mirrored_planes = _predict(model, images.flip(3), precision, localize)
            scores = (scores + mirrored) / 2
            planes = [(a + b.flip(3)) / 2 for a, b in zip(planes, mirrored_planes, strict=True)]
        probabilities.append(scores.numpy())
        maps.append(planes[0].numpy())
        masks += [plane.numpy() for plane in planes[1:]]
    return Inferred(np.concatenate(probabilities), np.concatenate(maps), np.concatenate(masks) if masks else None)


def _predict(
    model: LocalizingClassifier, images: Tensor, precision: str, localize: Localize | None
) -> tuple[Tensor, ...]:
    """Return probabilities, maps and, where there are any, masks."""
    device = next(model.parameters()).device
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(device, precision):
        prediction = model(images)
    maps = prediction.maps if localize is None else localize(model, images)
    planes = [maps] if prediction.masks is None else [maps, prediction.masks]
    return model.answers(prediction.logits.float()).sigmoid().cpu(), *(plane.float().cpu() for plane in planes)
