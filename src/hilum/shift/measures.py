"""The measures that a table of pairs of sites may show, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from hilum.randomness import derive_seed, numpy_generator
from hilum.shift.a_distance import Distance, a_distance
from hilum.shift.emd import Signature, emd, emd_samples, signature
from hilum.shift.federated import (
    Party,
    SiteSummary,
    add_noise,
    federated_a_distance,
    federated_emd,
    federated_mmd,
    private_a_distance,
    summarize,
)
from hilum.shift.mmd import mmd
from hilum.shift.samples import Floats, Ints, subsample

NAN = float("nan")


@dataclass(frozen=True)
class Found:
    """What a measure found: the fields of a record that depend on it; n 0 where all images were used."""

    value: float
    low: float = NAN
    high: float = NAN
    p_value: float = NAN
    n: int = 0
    bytes: float = NAN
    epsilon: float = NAN


@dataclass(frozen=True)
class Settings:
    """Choices that the measures need; what is private: parts ``released`` together at ``epsilon``, NaN for none.

    ``noise``: where private figures draw theirs, one after the other; it belongs to no seed that is published.
    """

    folds: int
    permutations: int
    k: int
    seed: int
    epsilon: float
    released: tuple[str, ...]
    noise: np.random.Generator


@dataclass(frozen=True)
class Side:
    """Features of a site, or of a half of it, in common units, and what follows from them alone."""

    site: str
    half: int
    x: Floats
    patients: Ints
    settings: Settings

    @cached_property
    def signature(self) -> Signature:
        """Clusters of the features."""
        return signature(self.x, self.settings.k, self.settings.seed)

    @cached_property
    def summary(self) -> SiteSummary:
        """What the site sends where it sends exact sums."""
        s = self.settings
        return summarize(self.x, self.patients, s.k, s.seed, s.seed)

    @cached_property
    def noisy(self) -> SiteSummary:
        """What the site sends where a patient must be hidden: one release; few frequencies hold less noise."""
        s = self.settings
        plain = summarize(self.x, self.patients, s.k, 0, s.seed, frequencies=64, clip=clip_length(self.x))
        return add_noise(plain, s.epsilon, s.noise, parts=s.released)


def clip_length(x: Floats) -> float:
    """Return the length √d to which private features (n, d) are cut: that of an average standardized image."""
    return float(np.sqrt(x.shape[1]))


def _pair_seed(a: Side, b: Side) -> int:
    return derive_seed(a.settings.seed, a.site, b.site)


def _parties(a: Side, b: Side) -> tuple[Party, Party]:
    """Return both sides under the names that ``a_distance`` gives them, so that the folds are its folds."""
    return Party(a.x, a.patients, "a"), Party(b.x, b.patients, "b")


def _distance(d: Distance, sent: float = NAN) -> Found:
    return Found(d.value, d.low, d.high, n=d.n, bytes=sent)


def _a_distance(classifier: Literal["linear", "network"]) -> Callable[[Side, Side], Found]:
    def measure(a: Side, b: Side) -> Found:
        sizes = {"folds": a.settings.folds, "seed": _pair_seed(a, b), "max_images": len(a.x)}
        return _distance(a_distance(a.x, b.x, a.patients, b.patients, classifier=classifier, **sizes))

    return measure


def _federated_a_distance(a: Side, b: Side) -> Found:
    found = federated_a_distance(_parties(a, b), a.settings.folds, _pair_seed(a, b), max_images=len(a.x))
    return _distance(found, found.exchange.bytes)


def _private_a_distance(a: Side, b: Side) -> Found:
    s = a.settings
    found = private_a_distance(
        _parties(a, b), s.folds, _pair_seed(a, b), epsilon=s.epsilon, clip=clip_length(a.x), rng=s.noise
    )
    return Found(found.value, found.low, found.high, bytes=found.exchange.bytes, epsilon=s.epsilon)


def _emd(a: Side, b: Side) -> Found:
    return Found(emd(a.signature, b.signature).cost)


def _emd_partial(a: Side, b: Side) -> Found:
    """Match every image of the smaller site into the larger one, the rest of which stays where it is."""
    first, second = (Signature(side.signature.centers, side.signature.weights * len(side.x)) for side in (a, b))
    return Found(emd(first, second).cost)


def _emd_samples(a: Side, b: Side) -> Found:
    """Compare equal numbers of images, which an assignment solves."""
    n = min(len(a.x), len(b.x))
    rows = [subsample(len(side.x), n, numpy_generator(_pair_seed(a, b), "emd")) for side in (a, b)]
    return Found(emd_samples(a.x[rows[0]], b.x[rows[1]]), n=n)


def _mmd(a: Side, b: Side) -> Found:
    sizes = {"permutations": a.settings.permutations, "seed": _pair_seed(a, b), "max_images": max(len(a.x), len(b.x))}
    found = mmd(a.x, b.x, a.patients, b.patients, **sizes)
    return Found(found.value, p_value=found.p_value)


def _federated_emd(a: Side, b: Side) -> Found:
    found = federated_emd(a.summary, b.summary)
    return Found(found.cost, bytes=found.exchange.bytes)


def _private_emd(a: Side, b: Side) -> Found:
    found = federated_emd(a.noisy, b.noisy)
    return Found(found.cost, bytes=found.exchange.bytes, epsilon=a.settings.epsilon)


def _federated_mmd(a: Side, b: Side) -> Found:
    found = federated_mmd(a.summary, b.summary)
    return Found(found.value, bytes=found.exchange.bytes)


def _private_mmd(a: Side, b: Side) -> Found:
    found = federated_mmd(a.noisy, b.noisy)
    return Found(found.value, bytes=found.exchange.bytes, epsilon=a.settings.epsilon)


EXACT: dict[str, Callable[[Side, Side], Found]] = {
    "a_distance_linear": _a_distance("linear"),
    "a_distance_network": _a_distance("network"),
    "emd": _emd,
    "emd_samples": _emd_samples,
    "emd_partial": _emd_partial,
    "mmd": _mmd,
}
FEDERATED = {
    "federated_a_distance": _federated_a_distance,
    "federated_emd": _federated_emd,
    "federated_mmd": _federated_mmd,
}
PRIVATE = {
    "private_a_distance": _private_a_distance,
    "private_emd": _private_emd,
    "private_mmd": _private_mmd,
}
RELEASES = {"private_emd": "signature", "private_mmd": "fourier"}
MEASURES = EXACT | FEDERATED | PRIVATE
