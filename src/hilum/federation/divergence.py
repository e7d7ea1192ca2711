"""How far two models have come apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """‖w_a − w_b‖ / ‖w_b‖ of the whole model, and of each of its ``layers``, tensor by tensor."""

    whole: float
    layers: Mapping[str, float]


def weight_divergence(a: Mapping[str, Tensor], b: Mapping[str, Tensor], weights: Collection[str]) -> Divergence:
    """Return how far ``a`` is from ``b`` over the tensors ``weights`` (Zhao et al. 2018, § 3.1), in float64.

    Infinite where ``b`` is zero and ``a`` is not. With the same start and as many steps on pooled images for ``b``, it
    tells what non-IID data did to ``a``.
    """
    apart = {name: float((a[name].double() - b[name].double()).norm()) for name in weights}
    length = {name: float(b[name].double().norm()) for name in weights}
    layers = {name: _ratio(apart[name], length[name]) for name in weights}
    return Divergence(_ratio(math.hypot(*apart.values()), math.hypot(*length.values())), layers)


def _ratio(apart: float, length: float) -> float:
    if apart == 0:
        return 0.0
    return apart / length if length else math.inf
