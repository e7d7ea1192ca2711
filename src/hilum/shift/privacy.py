"""Noise that hides any one patient behind a site's summary, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hilum.errors import DataError
from hilum.shift.a_distance import Distance, distance_of
from hilum.shift.discriminator import BYTES, Participant, Party
from hilum.shift.emd import Signature
from hilum.shift.proportions import Tally
from hilum.shift.samples import Floats
from hilum.shift.summary import PARTS, Exchange, Privacy, SiteSummary, clipped, patient_means

DELTA = 1e-5


@dataclass(frozen=True)
class FederatedDistance(Distance):
    """An A-distance with what one site sent for it, and what that cost of its privacy (None: no noise)."""

    exchange: Exchange
    privacy: Privacy | None = None


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """Return the least noise deviation that makes a release of L2 sensitivity 1 (ε, δ)-differentially private.

    The analytic Gaussian mechanism (Balle and Wang 2018, theorem 8):
    Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ) = δ. Raises ``DataError``.
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise DataError(f"Expected ε > 0 and 0 < δ < 1; found {epsilon} and {delta}.")

    def excess(log_sigma: float) -> float:
        s = math.exp(log_sigma)
        return float(ndtr(0.5 / s - epsilon * s) - np.exp(epsilon + log_ndtr(-0.5 / s - epsilon * s)) - delta)

    return math.exp(float(brentq(excess, -10, math.log(1e3 + 1e3 / epsilon / delta), xtol=1e-12)))


def add_noise(
    summary: SiteSummary,
    epsilon: float,
    rng: np.random.Generator | None = None,
    *,
    delta: float = DELTA,
    parts: Sequence[str] = PARTS,
) -> SiteSummary:
    """Return the summary with Gaussian noise that makes all its ``parts`` together (ε, δ)-private by patient.

    Needs a summary with ``clip``, which bounds what a patient can change: with length C, Σ x by 2 C, Σ x² by
    √2 C², the counts of cells by √2 and their sums by 2 C, the random features by 2, histograms by √2, counts of
    F findings by √(2 F). The parts, each scaled to sensitivity 1, are one release of sensitivity √parts. Parts not
    named are dropped. A second release of the same patients costs ε and δ again. ``rng``: where the noise comes
    from, by default the system's entropy; who can repeat it can take the noise off. Raises ``DataError``.
    """
    if summary.clip is None or summary.privacy is not None:
        raise DataError("Expected a summary made with `clip` and without noise; found another.")
    if unknown := set(parts) - set(PARTS):
        raise DataError(f"Expected parts of {', '.join(PARTS)}; found {', '.join(sorted(unknown))}.")
    named = [name for name in PARTS if name in parts and getattr(summary, name) is not None]
    limits = {limit: size for name in named for limit, size in _sensitivities(summary)[name].items()}
    sigma = gaussian_sigma(epsilon, delta)
    noise = {limit: sigma * math.sqrt(len(limits)) * size for limit, size in limits.items()}
    rng = rng or np.random.default_rng()
    released: dict[str, Any] = {name: None for name in PARTS}
    released |= {name: _NOISY[name](summary, noise, rng) for name in named}
    return replace(summary, **released, privacy=Privacy(epsilon, delta, sigma, noise))


def private_a_distance(
    parts: Sequence[Party],
    folds: int = 5,
    seed: int = 0,
    *,
    epsilon: float,
    clip: float,
    delta: float = DELTA,
    rng: np.random.Generator | None = None,
) -> FederatedDistance:
    """Return the A-distance of the nearest-mean rule, from noisy sums and noisy counts of errors.

    Features are in common units, cut to length ``clip`` and averaged by patient, the unit of the errors too.
    Half of ε and all of δ pay for the sums of the folds (a patient is in one), half of ε for the number of errors
    (Laplace, sensitivity 1). ε and δ are spent for each pair. ``seed`` deals the folds, which are public; ``rng``
    as in ``add_noise``. A better rule may tell the sites apart more surely, and noise moves the figure both ways.
    Raises ``DataError``.
    """
    seats = [_by_patient(part.join(part.images, folds, seed), clip) for part in parts]
    sigma, laplace, rng = gaussian_sigma(epsilon / 2, delta), 2 / epsilon, rng or np.random.default_rng()
    means = []
    for seat in seats:
        sums = seat.sums()
        total = sums.total + rng.normal(scale=2 * clip * sigma, size=sums.total.shape)
        means.append((total.sum(axis=0) - total) / (sums.images.sum() - sums.images)[:, None])
    weights = means[0] - means[1]
    bias = -np.einsum("fd,fd->f", weights, means[0] + means[1]) / 2
    signed = zip(seats, (1, -1), strict=True)
    tallies = [_noisy_tally(seat.errors(sign, weights.T, bias), laplace, rng) for seat, sign in signed]
    distance = distance_of(tallies[0], tallies[1], min(len(seat.x) for seat in seats))
    sent = {"noisy sums of each fold": means[0].size * BYTES, "noisy count of errors": BYTES}
    noise = {"sums": 2 * clip * sigma, "errors": math.sqrt(2) * laplace}
    return FederatedDistance(
        **vars(distance), exchange=Exchange(sent, 2), privacy=Privacy(epsilon, delta, sigma, noise)
    )


def _by_patient(seat: Participant, clip: float) -> Participant:
    names, member = np.unique(seat.patients, return_inverse=True)
    fold = np.zeros(len(names), np.int64)
    fold[member] = seat.fold
    return Participant(patient_means(clipped(seat.x, clip), member.astype(np.int64)), np.arange(len(names)), fold)


def _noisy_tally(tally: Tally, laplace: float, rng: np.random.Generator) -> Tally:
    """Return errors with Laplace noise, whose patients count as fewer by the variance of that noise."""
    n = tally.patients
    hits = float(np.clip(tally.hits + rng.laplace(scale=laplace), 0, n))
    p = min(max(hits / n, 0.5 / n), 1 - 0.5 / n)
    spread = n * p * (1 - p) + 2 * laplace**2
    effective = max(2, round(n * n * p * (1 - p) / spread))
    share = hits / n * effective
    return Tally(share, effective, effective, share, share, effective)


def _sensitivities(summary: SiteSummary) -> dict[str, dict[str, float]]:
    clip = summary.clip or 0.0
    findings = 0 if summary.labels is None else summary.labels.shape[1]
    return {
        "moments": {"moments: total": 2 * clip, "moments: squares": math.sqrt(2) * clip**2},
        "signature": {"signature: counts": math.sqrt(2), "signature: sums": 2 * clip},
        "fourier": {"fourier": 2.0},
        "histogram": {"histogram": math.sqrt(2)},
        "labels": {"labels": math.sqrt(2 * findings)},
    }


def _moments(summary: SiteSummary, noise: dict[str, float], rng: np.random.Generator) -> Any:
    old = summary.moments
    assert old is not None
    total = old.total + rng.normal(scale=noise["moments: total"], size=old.total.shape)
    squares = old.squares + rng.normal(scale=noise["moments: squares"], size=old.squares.shape)
    return replace(old, total=total, squares=squares)


def _signature(summary: SiteSummary, noise: dict[str, float], rng: np.random.Generator) -> Signature:
    """Return noisy shares and means of the cells; those that noise alone could have filled are left out."""
    old, frame, clip = summary.signature, summary.frame, summary.clip
    assert old is not None
    assert clip is not None
    counts = old.weights * summary.patients
    centers: Floats = frame.standardize(old.centers) if frame else old.centers
    sums = centers * counts[:, None] + rng.normal(scale=noise["signature: sums"], size=centers.shape)
    counts = counts + rng.normal(scale=noise["signature: counts"], size=counts.shape)
    kept = counts > max(1.0, min(2 * noise["signature: counts"], counts.max() - 1e-9))
    kept |= counts == counts.max()
    counts = np.maximum(counts[kept], 1.0)
    means = clipped(sums[kept] / counts[:, None], clip)
    return Signature(frame.restore(means) if frame else means, counts / counts.sum())


def _fourier(summary: SiteSummary, noise: dict[str, float], rng: np.random.Generator) -> Any:
    old = summary.fourier
    assert old is not None
    total = old.total + rng.normal(scale=noise["fourier"], size=old.total.shape)
    return replace(old, total=total, noise=noise["fourier"] ** 2)


def _histogram(summary: SiteSummary, noise: dict[str, float], rng: np.random.Generator) -> Floats:
    old = summary.histogram
    assert old is not None
    shares = np.maximum(old + rng.normal(scale=noise["histogram"] / summary.patients, size=old.shape), 0)
    return shares / shares.sum() if shares.any() else np.full(old.shape, 1 / old.size)


def _labels(summary: SiteSummary, noise: dict[str, float], rng: np.random.Generator) -> Floats:
    old = summary.labels
    assert old is not None
    return np.maximum(old + rng.normal(scale=noise["labels"], size=old.shape), 0)


_NOISY = {
    "moments": _moments,
    "signature": _signature,
    "fourier": _fourier,
    "histogram": _histogram,
    "labels": _labels,
}
