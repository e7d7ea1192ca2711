"""Without moving images: equal to the exact figure where it should be, near it where it may, noise as promised."""

import math

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from hilum.errors import DataError
from hilum.shift.a_distance import a_distance
from hilum.shift.emd import emd, emd_1d, signature
from hilum.shift.features import intensity_histogram
from hilum.shift.federated import (
    Moments,
    Party,
    add_noise,
    federated_a_distance,
    federated_emd,
    federated_histogram_emd,
    federated_mmd,
    gaussian_sigma,
    private_a_distance,
    summarize,
)
from hilum.shift.mmd import mmd
from hilum.shift.samples import standardize
from hilum.shift.summary import patient_means


def sites(shift=0.5, n=300, d=12, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) + 2 * np.eye(d)
    a, b = rng.normal(size=(2, n, d)) @ mix * 3 + 7
    return a, b + shift * 3, rng.integers(n // 2, size=n), rng.integers(n // 2, size=n)


def two_messages(a, b, who_a, who_b, **options):
    pooled = Moments.pool([Moments.of(a), Moments.of(b)])
    return pooled, *(summarize(x, who, 8, 1, 2, pooled=pooled, **options) for x, who in ((a, who_a), (b, who_b)))


def test_pooled_moments_are_those_of_all_images():
    a, b, *_ = sites()
    pooled = Moments.pool([Moments.of(a), Moments.of(b)])
    both = np.vstack([a, b])
    np.testing.assert_allclose(pooled.mean, both.mean(axis=0))
    np.testing.assert_allclose(pooled.scale, both.std(axis=0))
    np.testing.assert_allclose(pooled.standardize(a), standardize([a, b])[0], atol=1e-9)
    np.testing.assert_allclose(pooled.restore(pooled.standardize(a)), a)


def test_emd_of_signatures_is_the_exact_one():
    a, b, who_a, who_b = sites()
    pooled, first, second = two_messages(a, b, who_a, who_b)
    x, y = standardize([a, b])
    expected = emd(signature(x, 8, 1), signature(y, 8, 1))
    found = federated_emd(first, second, pooled)
    assert found.cost == pytest.approx(expected.cost, abs=1e-9)
    assert found.exchange.sent == {"signature": 8 * (8 * 12 + 8)}
    assert found.privacy is None


def test_mmd_of_random_features_is_near_the_exact_one():
    a, b, who_a, who_b = sites(1.0)
    _, first, second = two_messages(a, b, who_a, who_b)
    found = federated_mmd(first, second)
    x, y = standardize([a, b])
    exact = mmd(x, y, who_a, who_b, permutations=0, bandwidth=found.bandwidth)
    assert found.bandwidth == pytest.approx(math.sqrt(24))
    assert found.value == pytest.approx(exact.value, abs=0.005)
    assert exact.value > 0.02
    assert found.exchange.bytes == 8 * (2 * 512 + 3)
    many = [summarize(s, w, 8, 1, 2, frequencies=20_000) for s, w in ((x, who_a), (y, who_b))]
    assert federated_mmd(*many).value == pytest.approx(exact.value, abs=0.001)


def test_a_distance_of_sums_is_the_exact_one():
    a, b, who_a, who_b = sites(0.2)
    found = federated_a_distance([Party(a, who_a, "a"), Party(b, who_b, "b")], 5, 3)
    exact = a_distance(a, b, who_a, who_b, seed=3)
    assert (found.value, found.low, found.high, found.n) == (exact.value, exact.low, exact.high, exact.n)
    assert set(found.exchange.sent) > {"moments of each fold", "counts of errors"}
    assert found.exchange.bytes == sum(found.exchange.sent.values())


def test_a_party_answers_with_sums_only():
    a, _, who, _ = sites(n=40)
    seat = Party(a, who, "a").join(40, 4, 0)
    sums = seat.sums()
    np.testing.assert_allclose(sums.total.sum(axis=0), a.sum(axis=0))
    assert sums.images.sum() == 40
    training = np.ones((4, 2), bool)
    loss, slope, offset = seat.gradient(1, np.zeros((12, 2)), np.zeros(2), training)
    np.testing.assert_allclose(loss, 40 * np.log(2))
    np.testing.assert_allclose(slope[:, 0], -a.sum(axis=0) / 2)
    np.testing.assert_allclose(offset, -20)


def test_histograms_and_labels_travel_with_the_summary():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    dark = (pixels * 0.7).astype(np.uint8)
    frames, who = np.tile([0, 0, 1, 1], (20, 1)), np.arange(20) // 2
    targets = np.tile([[1, np.nan], [0, 1]], (10, 1))
    grids = [intensity_histogram(p, frames) for p in (pixels, dark)]
    first, second = (summarize(g, who, histograms=g, targets=targets) for g in grids)
    bins = (np.arange(32) + 0.5) / 32
    expected = emd_1d(bins, bins, grids[0].mean(axis=0), grids[1].mean(axis=0))
    assert federated_histogram_emd(first, second) == pytest.approx(expected)
    assert 0.1 < expected < 0.2
    np.testing.assert_array_equal(first.labels, [[10, 10], [10, 10]])
    assert set(first.exchange.sent) == {"moments", "signature", "fourier", "histogram", "labels"}


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1, 1e-5), (8, 1e-5), (30, 1e-3)])
def test_sigma_solves_the_equation_of_the_mechanism(epsilon, delta):
    s = gaussian_sigma(epsilon, delta)
    spent = norm.cdf(0.5 / s - epsilon * s) - math.exp(epsilon) * norm.cdf(-0.5 / s - epsilon * s)
    assert spent == pytest.approx(delta, rel=1e-6)
    if epsilon < 1:
        assert s < math.sqrt(2 * math.log(1.25 / delta)) / epsilon  # never worse than the classical bound


def test_noise_has_the_deviation_that_is_stated():
    a, _, who, _ = sites(n=400)
    targets = np.random.default_rng(1).integers(0, 2, (400, 3)).astype(float)
    x = standardize([a])[0]
    plain = summarize(x, who, clip=3.0, histograms=np.abs(x), targets=targets)
    noisy = [add_noise(plain, 1.0, np.random.default_rng(seed)) for seed in range(200)]
    stated = noisy[0].privacy.noise
    sigma = gaussian_sigma(1.0, 1e-5) * math.sqrt(7)
    assert stated["moments: total"] == pytest.approx(6 * sigma)
    assert stated["fourier"] == pytest.approx(2 * sigma)
    added = {
        "moments: total": np.array([s.moments.total - plain.moments.total for s in noisy]),
        "moments: squares": np.array([s.moments.squares - plain.moments.squares for s in noisy]),
        "fourier": np.array([s.fourier.total - plain.fourier.total for s in noisy]),
    }
    for part, values in added.items():
        assert values.std() == pytest.approx(stated[part], rel=0.05)
        assert abs(values.mean()) < 4 * stated[part] / math.sqrt(values.size)
    assert noisy[0].fourier.noise == stated["fourier"] ** 2
    again = add_noise(plain, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(again.fourier.total, noisy[0].fourier.total)
    fewer = add_noise(plain, 1.0, parts=["fourier"])
    assert fewer.signature is None
    assert fewer.privacy.noise["fourier"] == pytest.approx(stated["fourier"] / math.sqrt(7))


def test_no_published_value_repeats_the_noise():
    a, b, who_a, who_b = sites(n=60)
    plain = summarize(a, who_a, 4, clip=2.0)
    first, second = (add_noise(plain, 1.0) for _ in range(2))
    assert not np.isclose(first.moments.total, second.moments.total).any()
    parts = Party(a, who_a, "a"), Party(b, who_b, "b")
    sizes = {"epsilon": 0.5, "clip": 3.0}
    assert len({private_a_distance(parts, 3, 0, **sizes).error for _ in range(20)}) > 1


def test_a_private_distance_counts_patients_not_images():
    a, b, who_a, who_b = sites(n=60)
    found = private_a_distance([Party(a, who_a, "a"), Party(b, who_b, "b")], 3, 0, epsilon=1.0, clip=3.0)
    assert found.n == min(len(set(who_a)), len(set(who_b))) < 60


def test_one_patient_changes_no_part_by_more_than_its_sensitivity():
    rng = np.random.default_rng(2)
    who = np.arange(60) // 3
    x = 5 * np.eye(6)[who % 6]
    targets = rng.integers(0, 2, (60, 4)).astype(float)
    grids = rng.dirichlet(np.ones(8), 60)
    clip = 2.0

    def released(features, hist, labels):
        s = summarize(features, who, 5, 0, 0, clip=clip, histograms=hist, targets=labels)
        counts = s.signature.weights * s.patients
        return [
            s.moments.total,
            s.moments.squares,
            counts,
            s.signature.centers * counts[:, None],
            s.fourier.total,
            s.histogram * s.patients,
            s.labels,
        ]

    limits = [2 * clip, math.sqrt(2) * clip**2, math.sqrt(2), 2 * clip, 2, math.sqrt(2), math.sqrt(8)]
    before, worst = released(x, grids, targets), np.zeros(7)
    for patient in range(20):
        other = [values.copy() for values in (x, grids, targets)]
        other[0][who == patient] = rng.choice([-9, 9]) * np.eye(6)[rng.integers(6)]
        other[1][who == patient] = np.eye(8)[patient % 8]
        other[2][who == patient] = [np.nan, 1, 0, 1]
        gaps = [np.linalg.norm(a - b) for a, b in zip(before, released(*other), strict=True)]
        assert (np.array(gaps) <= np.array(limits) + 1e-9).all()
        worst = np.maximum(worst, gaps)
    assert (worst > 0.3 * np.array(limits)).all()


def test_noise_cancels_on_average_in_the_mmd():
    a, b, who_a, who_b = sites(1.0, n=600)
    _, first, second = two_messages(a, b, who_a, who_b, clip=4.0)
    exact = federated_mmd(first, second).value
    rng = np.random.default_rng(0)
    noisy = [
        federated_mmd(*(add_noise(s, 2.0, rng, parts=["fourier"]) for s in (first, second))).value for _ in range(200)
    ]
    assert np.mean(noisy) == pytest.approx(exact, abs=4 * np.std(noisy) / math.sqrt(200))
    assert np.std(noisy) > 1e-4


def test_less_privacy_comes_closer():
    a, b, who_a, who_b = sites(1.0, n=600, d=6)
    pooled, first, second = two_messages(a, b, who_a, who_b, clip=2.5)
    exact = federated_emd(first, second, pooled).cost
    off, draw = [], np.random.default_rng(0)
    for epsilon in (0.5, 4.0, 1000.0):
        pairs = [(add_noise(first, epsilon, draw), add_noise(second, epsilon, draw)) for _ in range(10)]
        off.append(np.mean([abs(federated_emd(*pair, pooled).cost - exact) for pair in pairs]))
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.01 * exact


def test_private_a_distance_orders_shifts_and_pays_for_them():
    shifts = (0, 0.3, 0.6, 1.0, 2.0)
    values, draw = [], np.random.default_rng(0)
    for shift in shifts:
        rng = np.random.default_rng(7)
        a, b = rng.normal(size=(2, 500, 10))
        parts = Party(a, np.arange(500), "a"), Party(b + shift / math.sqrt(10), np.arange(500), "b")
        values.append(private_a_distance(parts, 5, 0, epsilon=2.0, clip=math.sqrt(10), rng=draw))
    assert spearmanr(shifts, [v.value for v in values]).statistic > 0.85
    assert values[-1].value == pytest.approx(2 * (1 - 2 * norm.cdf(-1)), abs=0.2)
    free = private_a_distance(parts, 5, 0, epsilon=1e4, clip=1e3, rng=draw)
    assert free.value == pytest.approx(2 * (1 - 2 * norm.cdf(-1)), abs=0.1)
    assert values[-1].high - values[-1].low > free.high - free.low
    assert values[0].privacy.epsilon == 2.0
    assert values[0].exchange.bytes == 8 * (5 * 10 + 1)


def test_patient_means():
    found = patient_means(np.array([[1.0], [3], [10]]), np.array([1, 1, 0]))
    np.testing.assert_array_equal(found, [[10], [2]])


def test_refuses_what_does_not_fit():
    a, b, who_a, who_b = sites(n=60)
    first, other = summarize(a, who_a, 4, 0, 0), summarize(b, who_b, 4, 0, 1)
    with pytest.raises(DataError, match="one kernel"):
        federated_mmd(first, other)
    with pytest.raises(DataError, match="clip"):
        add_noise(first, 1.0)
    clipped = summarize(a, who_a, 4, clip=2.0)
    with pytest.raises(DataError, match="parts of"):
        add_noise(clipped, 1.0, parts=["images"])
    with pytest.raises(DataError, match="ε > 0"):
        add_noise(clipped, 0.0)
    with pytest.raises(DataError, match="without noise"):
        add_noise(add_noise(clipped, 1.0), 1.0)
    with pytest.raises(DataError, match="histogram"):
        federated_histogram_emd(first, first)
    with pytest.raises(DataError, match="2 sites"):
        federated_a_distance([Party(a, who_a, "a")])
    lonely = summarize(a, np.zeros(60), 4)
    with pytest.raises(DataError, match="2 patients"):
        federated_mmd(lonely, lonely)
