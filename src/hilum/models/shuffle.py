"""Weights that know nothing: a trained model's own, in another order."""

from __future__ import annotations

import torch

from hilum.models.classifier import LocalizingClassifier


def shuffle_weights(model: LocalizingClassifier, seed: int) -> None:
    """Permute the values within every floating tensor of a model, in place.

    Each layer keeps the distribution of its weights and statistics and loses what it learnt (the model randomization
    test of Adebayo et al. 2018); rows that hospitals keep to themselves go. Sums over images stay as they are.
    """
    model.site_heads = None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sums = {f"neck.{name}" for name in model.neck.sums}
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and name not in sums:
                order = torch.randperm(tensor.numel(), generator=generator)
                tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))
