"""Proportions of images, when the images of one patient are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Tally:
    """How many images were hits, and how hits gather in patients; sums only, so that a site may send it.

    With h_g hits among the m_g images of patient g: ``hits`` Σ h_g, ``images`` Σ m_g, ``patients`` their
    number, ``hits_squared`` Σ h_g², ``hits_by_images`` Σ h_g m_g, ``images_squared`` Σ m_g².
    """

    hits: float
    images: int
    patients: int
    hits_squared: float
    hits_by_images: float
    images_squared: float

    @classmethod
    def of(cls, hit: ArrayLike, patients: ArrayLike) -> Tally:
        """Count hits (n,) in {0, 1} of images by their patients (n,)."""
        member = np.unique(np.asarray(patients), return_inverse=True)[1]
        h, m = np.bincount(member, np.asarray(hit, np.float64)), np.bincount(member)
        return cls(float(h.sum()), int(m.sum()), len(m), float(h @ h), float(h @ m), float(m @ m))

    @property
    def rate(self) -> float:
        """Share of the images that are hits."""
        return self.hits / self.images if self.images else float("nan")

    @property
    def effective(self) -> float:
        """Number of independent images that would be as informative, at most ``images``.

        p (1 − p) over the variance of the ratio estimator with patients as clusters (Cochran 1977, § 6.4);
        where no variance can be seen (all or none are hits), the number of patients.
        """
        p = self.rate
        spread = self.hits_squared - 2 * p * self.hits_by_images + p * p * self.images_squared
        if self.patients < 2 or spread <= 1e-12 * self.images_squared:
            return float(self.patients)
        variance = spread * self.patients / (self.patients - 1) / self.images**2
        return min(float(self.images), p * (1 - p) / variance)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the rate at the effective number of images."""
        return wilson(self.rate, self.effective)


def wilson(rate: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927); NaN without images."""
    if not n > 0 or math.isnan(rate):
        return float("nan"), float("nan")
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(0.0, rate * (1 - rate)) / n + z * z / (4 * n * n))
    return max(0.0, centre - half) if rate > 0 else 0.0, min(1.0, centre + half) if rate < 1 else 1.0


def difference(a: Tally, b: Tally) -> tuple[float, float, float]:
    """Return rate(a) − rate(b) and its interval by Newcombe's hybrid score method (1998, method 10)."""
    (low_a, high_a), (low_b, high_b) = a.interval(), b.interval()
    value = a.rate - b.rate
    low = value - math.hypot(a.rate - low_a, high_b - b.rate)
    high = value + math.hypot(high_a - a.rate, b.rate - low_b)
    return value, low, high


def mean_rate(a: Tally, b: Tally) -> tuple[float, float, float]:
    """Return the mean of two rates and its interval, made of theirs in the same way (MOVER)."""
    (low_a, high_a), (low_b, high_b) = a.interval(), b.interval()
    value = (a.rate + b.rate) / 2
    low = value - math.hypot(a.rate - low_a, b.rate - low_b) / 2
    high = value + math.hypot(high_a - a.rate, high_b - b.rate) / 2
    return value, low, high
