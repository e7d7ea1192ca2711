"""What a site may tell of itself instead of its images: moments, a signature, random features, histogram, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hilum.randomness import numpy_generator
from hilum.shift.emd import Signature, signature
from hilum.shift.labels import patient_counts
from hilum.shift.samples import Floats, Ints, check, positive_scale

FREQUENCIES = 512
BYTES = 8
PARTS = ("moments", "signature", "fourier", "histogram", "labels")


@dataclass(frozen=True)
class Exchange:
    """What left a site, as name → bytes, in ``rounds`` messages."""

    sent: dict[str, int]
    rounds: int = 1

    @property
    def bytes(self) -> int:
        """Total bytes."""
        return sum(self.sent.values())


@dataclass(frozen=True)
class Moments:
    """Number of images (patients where features were clipped), Σ x (d,) and Σ x² (d,); they add up over sites."""

    images: int
    total: Floats
    squares: Floats

    @classmethod
    def of(cls, x: ArrayLike) -> Moments:
        """Return the moments of features (n, d)."""
        values = np.asarray(x, np.float64)
        return cls(len(values), values.sum(axis=0), (values**2).sum(axis=0))

    @classmethod
    def pool(cls, parts: Sequence[Moments]) -> Moments:
        """Return the moments of all images of several sites."""
        total, squares = (np.sum([getattr(p, name) for p in parts], axis=0) for name in ("total", "squares"))
        return cls(sum(p.images for p in parts), total, squares)

    @property
    def mean(self) -> Floats:
        """Mean (d,)."""
        return self.total / self.images

    @property
    def scale(self) -> Floats:
        """Standard deviation (d,), 1 where a feature is constant."""
        variance = np.maximum(self.squares / self.images - self.mean**2, 0)
        return positive_scale(self.mean, np.sqrt(variance))

    def standardize(self, x: Floats) -> Floats:
        """Return features in units of these moments."""
        return (x - self.mean) / self.scale

    def restore(self, x: Floats) -> Floats:
        """Undo ``standardize``."""
        return x * self.scale + self.mean


@dataclass(frozen=True)
class Fourier:
    """Sum (2 D,) of random Fourier features of a Gaussian kernel (Rahimi and Recht 2007), each of length 1.

    ``within``: Σ over patients of the squared length of the sum over their images; ``images``; ``pairs``: ordered
    pairs of images of different patients; ``key`` names the kernel, which two sites must share; ``noise``: variance
    added to each entry of the sum.
    """

    total: Floats
    within: float
    images: int
    pairs: float
    bandwidth: float
    key: tuple[int, int, int]
    noise: float = 0.0


@dataclass(frozen=True)
class Privacy:
    """(ε, δ)-differential privacy of one release: one patient's images may be any others; their number is public.

    ``sigma``: noise deviation for sensitivity 1; ``noise``: the deviation added to each part.
    """

    epsilon: float
    delta: float
    sigma: float
    noise: dict[str, float]


@dataclass(frozen=True)
class SiteSummary:
    """What one site sends; a part that was not asked for, or not released, is None.

    ``moments`` of x as it entered; ``signature`` with centers in units of x; ``histogram`` (bins,) mean shares;
    ``labels`` (2, C): patients with a finding, patients with a known label. ``frame``: the moments x was
    standardized with, ``clip``: the length to which features were cut and averaged by patient.
    """

    patients: int
    moments: Moments | None
    signature: Signature | None
    fourier: Fourier | None
    histogram: Floats | None = None
    labels: Floats | None = None
    frame: Moments | None = None
    clip: float | None = None
    privacy: Privacy | None = None

    @property
    def exchange(self) -> Exchange:
        """What is sent; the frame and the kernel are known already."""
        sizes = {
            "moments": self.moments and 1 + 2 * len(self.moments.total),
            "signature": self.signature and self.signature.centers.size + len(self.signature.weights),
            "fourier": self.fourier and len(self.fourier.total) + 3,
            "histogram": None if self.histogram is None else self.histogram.size,
            "labels": None if self.labels is None else self.labels.size,
        }
        return Exchange({name: int(size) * BYTES for name, size in sizes.items() if size})


def summarize(
    x: ArrayLike,
    patients: ArrayLike,
    k: int = 16,
    seed: int = 0,
    projection_seed: int = 0,
    *,
    pooled: Moments | None = None,
    frequencies: int = FREQUENCIES,
    clip: float | None = None,
    histograms: ArrayLike | None = None,
    targets: ArrayLike | None = None,
) -> SiteSummary:
    """Return the summary of features (n, d) of one site.

    Two messages make it comparable: sites send ``moments``, and again a summary in the frame ``pooled`` of all;
    without it x is taken to be in common units. ``k``: clusters of the signature (``seed``: of their starts);
    ``projection_seed``: of the random features, the same at all sites, as is the number of ``frequencies``. The
    kernel's σ² is the mean squared distance 2 d of standardized features, which needs no images. ``histograms``
    (n, bins) and ``targets`` (n, C) in {1, 0, NaN} add their parts.

    ``clip``: before noise can protect a patient, features are cut to this length (in the frame), averaged by
    patient, and the signature's cells are drawn at random instead of fitted. Raises ``DataError``.
    """
    values, who = check(x, patients)
    inner = pooled.standardize(values) if pooled else values
    grid = None if histograms is None else np.asarray(histograms, np.float64)
    if clip is not None:
        inner, grid = patient_means(clipped(inner, clip), who), None if grid is None else patient_means(grid, who)
    members = who if clip is None else np.arange(len(inner))
    cells = signature(inner, k, seed) if clip is None else _random_cells(inner, k, projection_seed)
    return SiteSummary(
        patients=int(who.max()) + 1,
        moments=Moments.of(values if clip is None else inner),
        signature=Signature(pooled.restore(cells.centers), cells.weights) if pooled else cells,
        fourier=_fourier(inner, members, projection_seed, frequencies),
        histogram=None if grid is None else grid.mean(axis=0),
        labels=None if targets is None else _labels(targets, who),
        frame=pooled,
        clip=clip,
    )


def clipped(x: Floats, length: float) -> Floats:
    """Return the rows, those longer than ``length`` cut to it."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x * np.minimum(1, length / np.maximum(norms, 1e-300))


def patient_means(x: Floats, patients: Ints) -> Floats:
    """Return the mean of each patient's rows, in the order of the numbers of ``patients``."""
    sums = np.zeros((patients.max() + 1, x.shape[1]))
    np.add.at(sums, patients, x)
    return sums / np.bincount(patients)[:, None]


def _random_cells(x: Floats, k: int, seed: int) -> Signature:
    """Return shares and means of the cells of the direction, of k random ones, that a point is most along."""
    directions = numpy_generator(seed, "cells", x.shape[1], k).normal(size=(x.shape[1], k))
    cell = (x @ (directions / np.linalg.norm(directions, axis=0))).argmax(axis=1)
    counts, sums = np.bincount(cell, minlength=k), np.zeros((k, x.shape[1]))
    np.add.at(sums, cell, x)
    return Signature(sums / np.maximum(counts, 1)[:, None], counts / len(x))


def _fourier(x: Floats, patients: Ints, seed: int, frequencies: int) -> Fourier:
    features = x.shape[1]
    bandwidth = math.sqrt(2 * features)
    rng = numpy_generator(seed, "fourier", features, frequencies)
    angles = x @ (rng.normal(size=(features, frequencies)) / bandwidth)
    waves = np.hstack([np.cos(angles), np.sin(angles)]) / math.sqrt(frequencies)
    counts = np.bincount(patients).astype(np.float64)
    sums = patient_means(waves, patients) * counts[:, None]
    pairs = float(len(x) ** 2 - counts @ counts)
    return Fourier(sums.sum(axis=0), float((sums**2).sum()), len(x), pairs, bandwidth, (seed, features, frequencies))


def _labels(targets: ArrayLike, patients: Ints) -> Floats:
    positive, known = patient_counts(targets, patients)
    return np.stack([positive, known]).astype(np.float64)
