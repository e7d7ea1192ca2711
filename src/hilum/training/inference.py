"""Inference: images → probabilities and maps on the images themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.models.classifier import LocalizingClassifier
from hilum.training.loop import autocast


@dataclass(frozen=True)
class Inferred:
    """``probabilities`` (N, C) in [0, 1] and ``maps`` (N, C, h, w) in [0, 1] over the padded square."""

    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]


def infer(
    model: LocalizingClassifier, batches: Iterable[Tensor], precision: str = "float32", flip: bool = True
) -> Inferred:
    """Return what the model says of batches (B, 1, S, S); ``flip`` averages each image with its mirror image."""
    model.eval()
    probabilities, maps = [], []
    for images in batches:
        scores, cells = _predict(model, images, precision)
        if flip:
            mirrored, mirrored_cells = _predict(model, images.flip(3), precision)
            scores, cells = (scores + mirrored) / 2, (cells + mirrored_cells.flip(3)) / 2
        probabilities.append(scores.numpy())
        maps.append(cells.numpy())
    return Inferred(np.concatenate(probabilities), np.concatenate(maps))


def _predict(model: LocalizingClassifier, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast(device, precision):
        prediction = model(images)
    return prediction.logits.float().sigmoid().cpu(), prediction.maps.float().cpu()
