"""A-distance of two sites: how well a classifier tells their images apart (Ben-David et al. 2007)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hilum.errors import DataError
from hilum.randomness import derive_seed, numpy_generator
from hilum.shift.discriminator import Participant, Party, discriminate
from hilum.shift.proportions import Tally, mean_rate
from hilum.shift.samples import Floats, check, halves, same_width

Classifier = Literal["linear", "network"]
CLASSIFIERS = ("linear", "network")
HIDDEN, EPOCHS, BATCH, DECAY = 64, 20, 100, 1.0


@dataclass(frozen=True)
class Distance:
    """``value`` = 2 (1 − 2 ``error``) in [0, 2] with its 95 % interval: 0 alike, 2 never confused.

    ``error``: the mean of the two sites' error rates on patients the classifier has not seen; ``n``: images
    of each site that were used.
    """

    value: float
    low: float
    high: float
    error: float
    n: int


def a_distance(
    a: ArrayLike,
    b: ArrayLike,
    patients_a: ArrayLike,
    patients_b: ArrayLike,
    *,
    classifier: Classifier = "linear",
    folds: int = 5,
    seed: int = 0,
    max_images: int = 1000,
) -> Distance:
    """Return the A-distance of features (n1, d) and (n2, d), estimated on folds that share no patient.

    Equal numbers of images by subsampling, at most ``max_images`` a site; features are scaled on the training
    folds alone. 'linear' is L2-penalized logistic regression with its penalty chosen on inner folds;
    'network' has one hidden layer of 64 ReLU units (scikit-learn, Adam, 20 epochs). The interval is that of
    ``proportions``: Wilson's at the effective number of images of each site, patients being clusters, combined
    for the mean of both; it holds the trained classifiers fixed and keeps a width where no image is confused.
    Raises ``DataError``.
    """
    parts = Party(a, patients_a, "a"), Party(b, patients_b, "b")
    if classifier not in CLASSIFIERS:
        raise DataError(f"Expected a classifier of {', '.join(CLASSIFIERS)}; found '{classifier}'.")
    if classifier == "linear":
        outcome = discriminate(parts, folds, seed, max_images)
        return distance_of(outcome.errors[0], outcome.errors[1], outcome.images)
    size = min(max_images, *(part.images for part in parts))
    seats = [part.join(size, folds, seed) for part in parts]
    same_width(seats[0].x, seats[1].x)
    return distance_of(*_network_errors(seats[0], seats[1], seed), size)


def split_half(
    x: ArrayLike,
    patients: ArrayLike,
    *,
    classifier: Classifier = "linear",
    folds: int = 5,
    seed: int = 0,
    max_images: int = 1000,
) -> Distance:
    """Return the A-distance of two random halves of one site's patients: what no shift looks like here."""
    values, who = check(x, patients)
    first, second = halves(who, numpy_generator(seed, "halves"))
    return a_distance(
        values[first],
        values[second],
        who[first],
        who[second],
        classifier=classifier,
        folds=folds,
        seed=seed,
        max_images=max_images,
    )


def distance_of(errors_a: Tally, errors_b: Tally, images: int) -> Distance:
    """Return the distance that the errors of two sites amount to; below 0 it is 0.

    An error above one half counts as one half, and its interval keeps its width: chance alone can exceed one half.
    """
    error, low, high = mean_rate(errors_a, errors_b)
    low -= max(0.0, error - 0.5)
    value, least, most = (max(0.0, min(2.0, 2 - 4 * rate)) for rate in (error, high, low))
    return Distance(value, least, most, error, images)


def _network_errors(a: Participant, b: Participant, seed: int) -> tuple[Tally, Tally]:
    from sklearn.preprocessing import StandardScaler

    x, fold = np.concatenate([a.x, b.x]).astype(np.float32), np.concatenate([a.fold, b.fold])
    label = np.repeat([1, 0], [len(a.x), len(b.x)])
    wrong = np.empty(len(x), bool)
    for held_out in np.unique(fold):
        train = fold != held_out
        scaler = StandardScaler().fit(x[train])
        net_seed = derive_seed(seed, "network", int(held_out)) % 2**32
        said = _network(scaler.transform(x[train]), label[train], scaler.transform(x[~train]), net_seed)
        wrong[~train] = said != label[~train]
    return Tally.of(wrong[: len(a.x)], a.patients), Tally.of(wrong[len(a.x) :], b.patients)


def _network(x: Floats, label: np.ndarray, test: Floats, seed: int) -> np.ndarray:
    """Train on features (n, d) and return the labels of ``test``."""
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    batch = min(BATCH, len(x))
    net = MLPClassifier(HIDDEN, alpha=DECAY, batch_size=batch, learning_rate_init=2e-3, random_state=seed)
    with threadpool_limits(1):
        for _ in range(EPOCHS):
            net.partial_fit(x, label, classes=[0, 1])
    said: np.ndarray = net.predict(test)
    return said
