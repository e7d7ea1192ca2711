"""The distances of two sites without moving an image: from summaries, or by training on sums.

A summary in common units takes two messages: ``Moments.of`` at every site, ``Moments.pool`` at the server, then
``summarize(..., pooled=...)``. Where only noise may leave, ``add_noise`` and ``private_a_distance``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hilum.errors import DataError
from hilum.shift.a_distance import distance_of
from hilum.shift.discriminator import Party, discriminate
from hilum.shift.emd import Flow, Signature, emd, emd_1d
from hilum.shift.mmd import Mmd
from hilum.shift.privacy import FederatedDistance, add_noise, gaussian_sigma, private_a_distance
from hilum.shift.summary import Exchange, Fourier, Moments, Privacy, SiteSummary, summarize

__all__ = [
    "Exchange",
    "FederatedDistance",
    "FederatedFlow",
    "FederatedMmd",
    "Moments",
    "Party",
    "Privacy",
    "SiteSummary",
    "add_noise",
    "federated_a_distance",
    "federated_emd",
    "federated_histogram_emd",
    "federated_mmd",
    "gaussian_sigma",
    "private_a_distance",
    "summarize",
]

Part = TypeVar("Part")


@dataclass(frozen=True)
class FederatedFlow(Flow):
    """An EMD with what the first site sent for it, and its privacy (None: no noise)."""

    exchange: Exchange
    privacy: Privacy | None = None


@dataclass(frozen=True)
class FederatedMmd(Mmd):
    """An MMD² with what the first site sent for it, and its privacy (None: no noise); it has no p value."""

    exchange: Exchange
    privacy: Privacy | None = None


def federated_emd(s1: SiteSummary, s2: SiteSummary, pooled: Moments | None = None) -> FederatedFlow:
    """Return the EMD of two sites' signatures, in units of the moments ``pooled``.

    Without noise it is the EMD of the signatures, to rounding, and misses nothing that the signatures hold.
    Raises ``DataError``.
    """
    first, second = (_scaled(_required(s.signature, "signature"), pooled) for s in (s1, s2))
    return FederatedFlow(**vars(emd(first, second)), exchange=_sent(s1, "signature"), privacy=s1.privacy)


def federated_histogram_emd(s1: SiteSummary, s2: SiteSummary) -> float:
    """Return the EMD of two sites' mean intensity histograms, in units of the grey range [0, 1]."""
    first, second = (_required(s.histogram, "histogram") for s in (s1, s2))
    bins = (np.arange(len(first)) + 0.5) / len(first)
    return emd_1d(bins, bins, first, second)


def federated_mmd(s1: SiteSummary, s2: SiteSummary) -> FederatedMmd:
    """Return the unbiased MMD² of two sites from their sums of random features.

    Exact for the kernel that the features span, which is near the Gaussian one: the error of the MMD² falls with
    the root of their number. Noise adds a known amount to the squared lengths, which is taken off again.
    Raises ``DataError``.
    """
    a, b = (_required(s.fourier, "fourier") for s in (s1, s2))
    if a.key != b.key or a.bandwidth != b.bandwidth:
        raise DataError(f"Expected random features of one kernel; found {a.key} and {b.key}. Use one projection seed.")
    if min(a.pairs, b.pairs) <= 0:
        raise DataError("Expected at least 2 patients a site; found 1.")
    value = _within(a) + _within(b) - 2 * float(a.total @ b.total) / (a.images * b.images)
    return FederatedMmd(value, float("nan"), 0, a.bandwidth, _sent(s1, "fourier"), s1.privacy)


def federated_a_distance(
    parts: Sequence[Party], folds: int = 5, seed: int = 0, *, max_images: int = 1000
) -> FederatedDistance:
    """Return the linear A-distance of two sites that answer with sums only: the exact figure, not an approximation.

    Each ``Party`` keeps its images, deals its own patients to folds, and sends moments, sums of gradients and losses,
    and counts of errors; the same code serves ``a_distance``. The sums are not noise: they bound nothing that could
    be learned of a patient (for that, ``private_a_distance``). Raises ``DataError``.
    """
    outcome = discriminate(parts, folds, seed, max_images)
    distance = distance_of(outcome.errors[0], outcome.errors[1], outcome.images)
    return FederatedDistance(**vars(distance), exchange=Exchange(outcome.sent, outcome.rounds))


def _required(part: Part | None, name: str) -> Part:
    if part is None:
        raise DataError(f"Expected summaries with a {name}; found one without.")
    return part


def _scaled(s: Signature, pooled: Moments | None) -> Signature:
    return Signature(pooled.standardize(s.centers), s.weights) if pooled else s


def _within(f: Fourier) -> float:
    return (float(f.total @ f.total) - len(f.total) * f.noise - f.within) / f.pairs


def _sent(summary: SiteSummary, part: str) -> Exchange:
    return Exchange({part: summary.exchange.sent[part]})
