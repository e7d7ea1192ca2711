"""How alike two representations of the same images are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """Return ‖BᵀA‖² / (‖AᵀA‖ ‖BᵀB‖) in [0, 1] of centred features (Kornblith et al. 2019, linear CKA).

    Shapes: (n, d₁) and (n, d₂), rows of the same samples. 1 where one is the other rotated, scaled and moved; 0 where
    one is constant. Raises ``ValueError``.
    """
    x, y = _centred(a, b)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else 0.0


def svcca(a: ArrayLike, b: ArrayLike, keep: float = 0.99) -> float:
    """Return the mean canonical correlation, in [0, 1], of the leading directions (Raghu et al. 2017, SVCCA).

    Shapes: (n, d₁) and (n, d₂), rows of the same samples, more than there are features. ``keep``: share of the variance
    that the directions explain; with 1, any invertible map of one onto the other gives 1. 0 where one is constant.
    Raises ``ValueError``.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"expected a share above 0 and at most 1 to keep; found {keep}")
    x, y = _centred(a, b)
    if len(x) <= max(x.shape[1], y.shape[1]):
        raise ValueError(
            f"expected more samples than features; found {len(x)} samples of {x.shape[1]} and {y.shape[1]} features"
        )
    first, second = _leading(x, keep), _leading(y, keep)
    if not first.size or not second.size:
        return 0.0
    return float(np.linalg.svd(first.T @ second, compute_uv=False).clip(0, 1).mean())


def _leading(x: Floats, keep: float) -> Floats:
    """Return orthonormal coordinates (n, k) of the directions that explain ``keep`` of the variance."""
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    values = np.where(values > 1e-10 * max(values[0], 1e-300), values, 0.0)
    explained = np.cumsum(values**2)
    count = int(np.searchsorted(explained, keep * explained[-1] * (1 - 1e-12))) + 1 if explained[-1] > 0 else 0
    return left[:, :count]


def _centred(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"expected features (n, d) of the same n samples, at least 2; found {x.shape} and {y.shape}")
    return x - x.mean(0), y - y.mean(0)
