"""A linear discriminator of two sites that needs only sums: each site keeps its images.

All training sets (every pair of folds left out) are columns of one problem, so that a round of messages serves them
all; each penalty starts where the stronger one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError
from hilum.randomness import numpy_generator
from hilum.shift.optimizer import minimize
from hilum.shift.proportions import Tally
from hilum.shift.samples import Floats, Ints, check, patient_folds, positive_scale, subsample

PENALTIES = (1.0, 0.1, 0.01, 0.001)
SIGNS = (1, -1)
BYTES = 8


@dataclass(frozen=True)
class Sums:
    """What a site tells of its features for each fold: number of images (F,), sum and sum of squares (F, d)."""

    images: Floats
    total: Floats
    squares: Floats


class Party:
    """One site during the training; its methods are all that the other side may call.

    ``name`` seeds its subsample and its folds. Raises ``DataError``.
    """

    def __init__(self, x: ArrayLike, patients: ArrayLike, name: str) -> None:
        self._x, self._patients = check(x, patients)
        self.name = name
        self.images, self.features = self._x.shape

    def join(self, images: int, folds: int, seed: int) -> Participant:
        """Draw at most ``images`` images and deal the patients to ``folds`` folds."""
        rows = subsample(self.images, images, numpy_generator(seed, "subsample", self.name))
        who = self._patients[rows]
        return Participant(self._x[rows], who, patient_folds(who, folds, numpy_generator(seed, "folds", self.name)))


class Participant:
    """The drawn images of a site; answers with sums over them, label +1 or −1 of ``sign`` for all.

    Discriminators are columns: ``weights`` (d, P) and ``bias`` (P,) on unscaled features.
    """

    def __init__(self, x: Floats, patients: Ints, fold: Ints) -> None:
        self.x, self.patients, self.fold = x, patients, fold
        self._folds = np.eye(fold.max() + 1)[fold]

    def sums(self) -> Sums:
        """Return the moments of each fold."""
        return Sums(self._folds.sum(axis=0), self._folds.T @ self.x, self._folds.T @ self.x**2)

    def gradient(
        self, sign: int, weights: Floats, bias: Floats, training: NDArray[np.bool_]
    ) -> tuple[Floats, Floats, Floats]:
        """Return log loss (P,) and gradients (d, P), (P,), summed over the images of the ``training`` folds (F, P)."""
        margin = sign * (self.x @ weights + bias)
        inside = training[self.fold]
        small = np.exp(-np.abs(margin))
        loss = (np.log1p(small) - np.minimum(margin, 0)) * inside
        pull = -sign * np.where(margin > 0, small, 1) / (1 + small) * inside
        return loss.sum(axis=0), self.x.T @ pull, pull.sum(axis=0)

    def losses(self, sign: int, weights: Floats, bias: Floats) -> Floats:
        """Return the mean log loss on each fold, (F, P)."""
        loss = np.logaddexp(0, -sign * (self.x @ weights + bias))
        return (self._folds.T @ loss) / self._folds.sum(axis=0)[:, None]

    def errors(self, sign: int, weights: Floats, bias: Floats) -> Tally:
        """Count the images that the discriminator of their fold (d, F), trained without it, gives to the other site."""
        score = (self.x @ weights + bias)[np.arange(len(self.x)), self.fold]
        return Tally.of(sign * score <= 0, self.patients)


@dataclass(frozen=True)
class Outcome:
    """Errors of both sites, images of each, and what one site sent and how often."""

    errors: tuple[Tally, Tally]
    images: int
    rounds: int
    sent: dict[str, int]


def discriminate(parts: Sequence[Party], folds: int, seed: int, max_images: int) -> Outcome:
    """Train and test the discriminator of two sites; the strength of its penalty is chosen by inner folds.

    L2-penalized logistic regression on features scaled by the training folds; equal numbers of images. For each
    fold f the penalty is that of least log loss on every other fold g, trained without f and g. One thread: the
    products are small, and threads that wait for each other on a busy machine cost ten times more.
    Raises ``DataError``.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(parts) != 2 or parts[0].features != parts[1].features:
        raise DataError(f"Expected 2 sites with the same features; found {[p.features for p in parts]} features.")
    if folds < 3:
        raise DataError(f"Expected at least 3 folds, two of them to choose the penalty; found {folds}.")
    size, features = min(max_images, *(part.images for part in parts)), parts[0].features
    seats = [part.join(size, folds, seed) for part in parts]
    sums = [seat.sums() for seat in seats]
    pairs = list(combinations(range(folds), 2))
    training = np.ones((folds, len(pairs)), bool)
    training[np.array(pairs).T, np.arange(len(pairs))] = False
    inner, outer = Trainer(seats, sums, training), Trainer(seats, sums, ~np.eye(folds, dtype=bool))
    with threadpool_limits(1):
        losses = np.stack([inner.train(np.full(len(pairs), penalty)).losses() for penalty in PENALTIES], axis=2)
        outer.train(_chosen(losses, pairs))
    first, second = (seat.errors(sign, *outer.unscaled()) for seat, sign in zip(seats, SIGNS, strict=True))
    columns = inner.rounds * len(pairs) + outer.rounds * folds
    sent = {
        "moments of each fold": folds * (2 * features + 1) * BYTES,
        "sums of gradients and losses": columns * (features + 2) * BYTES,
        "losses on each fold": losses.size * BYTES,
        "counts of errors": 6 * BYTES,
    }
    return Outcome((first, second), size, inner.rounds + outer.rounds + len(PENALTIES) + 2, sent)


class Trainer:
    """The server's half: fits one discriminator for each column of training folds (F, P), from sums alone."""

    def __init__(self, seats: Sequence[Participant], sums: Sequence[Sums], training: NDArray[np.bool_]) -> None:
        used = training.astype(np.float64)
        self.seats, self.training, self.rounds = seats, training, 0
        self.images = [s.images @ used for s in sums]
        everyone = self.images[0] + self.images[1]
        self.mean = (sums[0].total + sums[1].total).T @ used / everyone
        variance = (sums[0].squares + sums[1].squares).T @ used / everyone - self.mean**2
        self.scale = positive_scale(self.mean, np.sqrt(np.maximum(variance, 0)))
        self.fitted = np.zeros((len(self.mean) + 1, training.shape[1]))

    def train(self, penalty: Floats, tolerance: float = 1e-4) -> Trainer:
        """Fit with penalties (P,) until no gradient exceeds ``tolerance``, from the last fit; the bias is free."""
        self.fitted, rounds = minimize(lambda w: self._objective(w, penalty), self.fitted, tolerance=tolerance)
        self.rounds += rounds
        return self

    def losses(self) -> Floats:
        """Return the mean log loss of each fold, both sites added, (F, P)."""
        a, b = (seat.losses(sign, *self.unscaled()) for seat, sign in zip(self.seats, SIGNS, strict=True))
        return a + b

    def unscaled(self, w: Floats | None = None) -> tuple[Floats, Floats]:
        """Return weights (d, P) and biases (P,) on the features as they are."""
        w = self.fitted if w is None else w
        weights = w[:-1] / self.scale
        return weights, w[-1] - np.einsum("dp,dp->p", self.mean, weights)

    def _objective(self, w: Floats, penalty: Floats) -> tuple[Floats, Floats]:
        value = 0.5 * penalty * np.einsum("dp,dp->p", w[:-1], w[:-1])
        gradient = np.vstack([penalty * w[:-1], np.zeros(w.shape[1])])
        for seat, sign, n in zip(self.seats, SIGNS, self.images, strict=True):
            loss, slope, offset = seat.gradient(sign, *self.unscaled(w), self.training)
            value = value + loss / (2 * n)
            gradient[:-1] += (slope - self.mean * offset) / self.scale / (2 * n)
            gradient[-1] += offset / (2 * n)
        return value, gradient


def _chosen(losses: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Return the penalty of each outer fold from losses (F, pairs, penalties)."""
    total = np.zeros((len(losses), len(PENALTIES)))
    for column, (f, g) in enumerate(pairs):
        total[f] += losses[g, column]
        total[g] += losses[f, column]
    chosen: Floats = np.array(PENALTIES)[total.argmin(axis=1)]
    return chosen
