"""How much a site counts: by its images, or by what its labels tell of the findings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.integer[Any]]


def label_evidence(known: Counts, positive: Counts, weighting: str) -> NDArray[np.float64]:
    """Return what each site knows of each finding (K, C): its known labels, or n⁺ n⁻ / n under 'contrast'.

    A finding of which no site has both classes falls back to known labels.
    """
    if weighting == "known":
        return known.astype(np.float64)
    contrast = label_contrast(known, positive)
    return np.where(contrast.sum(0) > 0, contrast, known)


def label_contrast(known: Counts, positive: Counts) -> NDArray[np.float64]:
    """Return n⁺ n⁻ / n, the information of n labels about a log-odds at prevalence n⁺ / n; 0 without labels."""
    n = known.astype(np.float64)
    return np.divide(positive * (n - positive), n, out=np.zeros_like(n), where=n > 0)


def site_shares(
    images: Counts, known: Counts, positive: Counts, tau: float, weighting: str = "known"
) -> NDArray[np.float64]:
    """Return p_k ∝ n_k^tau over sites (K,): tau 1 is FedAvg's weighting, 0 gives every site the same.

    n_k: ``images`` (K,), or under 'contrast' the contrast of ``known`` and ``positive`` (K, C) over all findings: a
    finding that nobody labels both ways gives no site a voice. Where there is none at all, images count.
    """
    contrast = label_contrast(known, positive).sum(1)
    if weighting == "known" or not contrast.any():
        return shares(images.astype(np.float64), tau)
    return shares(contrast, tau)


def shares(amounts: NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    """Return amounts^tau divided by their sum over the first axis; all zero where nobody has any."""
    powers = np.where(amounts > 0, amounts**tau, 0.0)
    total = powers.sum(0, keepdims=True)
    return np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)
