"""A-distance: the closed form of two Gaussians, honest folds, intervals that cover."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hilum.errors import DataError
from hilum.shift import discriminator
from hilum.shift.a_distance import a_distance, distance_of, split_half
from hilum.shift.discriminator import Participant, Party, Trainer
from hilum.shift.optimizer import minimize
from hilum.shift.proportions import Tally, difference, mean_rate, wilson
from hilum.shift.samples import patient_folds, standardize


def gaussians(shift, n=2000, d=3, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, d))
    b[:, 0] += shift
    return a, b


def test_an_error_above_one_half_keeps_the_width_of_its_interval():
    who = np.arange(17)
    wrong, right = (Tally.of(np.arange(17) < count, who) for count in (15, 4))
    found = distance_of(wrong, wrong, 17)
    assert (found.value, found.low) == (0, 0)
    assert found.high > 0.3
    assert distance_of(right, right, 17).high == pytest.approx(2 - 4 * mean_rate(right, right)[1])


def measure(a, b, **options):
    return a_distance(a, b, np.arange(len(a)), np.arange(len(b)), **options)


@pytest.mark.parametrize("shift", [0, 1, 2, 4])
def test_linear_gives_the_closed_form_of_two_gaussians(shift):
    found = [measure(*gaussians(shift, seed=seed), max_images=2000) for seed in range(4)]
    truth = 2 * (1 - 2 * norm.cdf(-shift / 2))
    assert np.mean([f.value for f in found]) == pytest.approx(truth, abs=0.05)
    assert sum(f.low - 0.01 <= truth <= f.high + 0.01 for f in found) >= 3
    assert all(f.n == 2000 and f.value == max(0, 2 - 4 * f.error) for f in found)


def test_network_sees_what_a_line_cannot():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 600, 2))
    b *= 3
    line, net = (measure(a, b, classifier=c) for c in ("linear", "network"))
    assert line.value < 0.3
    assert net.value > 0.8
    assert net == measure(a, b, classifier="network")
    truth = 2 * (1 - 2 * norm.cdf(-0.5))
    assert measure(*gaussians(1, 800), classifier="network").value == pytest.approx(truth, abs=0.15)


def test_what_is_never_confused_is_2_and_keeps_an_interval():
    a, b = gaussians(40, 60)
    found = measure(a, b)
    assert (found.value, found.high, found.error) == (2, 2, 0)
    assert 1.7 < found.low < 1.95


def test_scale_and_offset_of_a_feature_do_not_matter():
    a, b = gaussians(1, 300, 4)
    first = measure(a, b)
    gain, offset = np.array([1e-3, 1, 50, 1e4]), np.array([5, 0, -300, 1e5])
    moved = measure(a * gain + offset, b * gain + offset)
    assert moved.value == pytest.approx(first.value, abs=0.01)
    constant = measure(np.hstack([a, np.full((300, 1), 7.0)]), np.hstack([b, np.full((300, 1), 7.0)]))
    assert constant.value == pytest.approx(first.value, abs=0.01)


def test_patients_are_never_in_two_folds():
    patients = np.random.default_rng(0).permutation(200) % 40
    fold = patient_folds(patients, 5, np.random.default_rng(1))
    assert all(len(set(fold[patients == p])) == 1 for p in np.unique(patients))
    assert sorted(np.bincount([fold[patients == p][0] for p in np.unique(patients)])) == [8] * 5
    seat = Party(np.zeros((200, 2)), patients, "north").join(150, 5, 3)
    assert len(seat.x) == 150
    assert all(len(set(seat.fold[seat.patients == p])) == 1 for p in np.unique(seat.patients))


def test_knowing_the_patient_is_no_help():
    """Features that name the patient and nothing else: folds of images would find a shift, folds of patients do not."""
    rng = np.random.default_rng(5)
    names, patients = rng.normal(size=(2, 30, 40)), np.repeat(np.arange(30), 20)
    a, b = (n[patients] + 0.01 * rng.normal(size=(600, 40)) for n in names)
    leaking = a_distance(a, b, np.arange(600), np.arange(600))
    honest = a_distance(a, b, patients, patients)
    assert leaking.value > 1
    assert honest.low == 0
    assert honest.high - honest.low > 0.5


def test_the_fit_is_that_of_scikit_learn():
    a, b = gaussians(1, 120, 6, seed=3)
    fold = np.arange(120) % 4
    seats = [Participant(x, np.arange(120), fold) for x in (a, b)]
    training = ~np.eye(4, dtype=bool)
    weights, bias = Trainer(seats, [s.sums() for s in seats], training).train(np.full(4, 0.01), 1e-6).unscaled()
    x, label, both = np.vstack([a, b]), np.repeat([1, 0], 120), np.tile(fold, 2)
    for f in range(4):
        scaler = StandardScaler().fit(x[both != f])
        oracle = LogisticRegression(C=1 / (0.01 * (both != f).sum()), tol=1e-8)
        oracle.fit(scaler.transform(x[both != f]), label[both != f])
        np.testing.assert_allclose(weights[:, f], oracle.coef_[0] / scaler.scale_, atol=2e-4)
        score = oracle.decision_function(scaler.transform(x[both == f]))
        np.testing.assert_allclose(x[both == f] @ weights[:, f] + bias[f], score, atol=1e-3)


def test_the_penalty_is_the_one_of_least_loss_on_other_folds():
    losses = np.full((3, 3, len(discriminator.PENALTIES)), 5.0)
    pairs = [(0, 1), (0, 2), (1, 2)]
    losses[1, 0, 2] = losses[2, 1, 2] = 1  # for fold 0: without (0, 1) on 1, without (0, 2) on 2
    losses[0, 0, 0] = losses[2, 2, 0] = 1
    losses[0, 1, 3] = losses[1, 2, 3] = 1
    found = discriminator._chosen(losses, pairs)
    np.testing.assert_array_equal(found, np.array(discriminator.PENALTIES)[[2, 0, 3]])


def test_columns_of_the_optimizer_are_solved_apart():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(5, 3))
    stretch = np.array([[1.0], [10], [100], [3], [0.1]]) * [1, 2, 30]

    def objective(w):
        return 0.5 * (stretch * (w - roots) ** 2).sum(axis=0), stretch * (w - roots)

    found, calls = minimize(objective, np.zeros((5, 3)), tolerance=1e-9)
    np.testing.assert_allclose(found, roots, atol=1e-6)
    assert calls < 200


def test_halves_of_a_site_are_close_and_sites_are_not():
    rng = np.random.default_rng(2)
    x, patients = rng.normal(size=(800, 32)), rng.integers(500, size=800)
    for classifier in ("linear", "network"):
        half = split_half(x, patients, classifier=classifier)
        assert half.value <= 0.25
        assert half.low == 0
    assert half == split_half(x, patients, classifier="network")
    assert a_distance(x, x + 0.5, patients, patients).value > 1


def test_standardize_pools():
    a, b = np.array([[0.0, 1], [2, 1]]), np.array([[4.0, 1], [6, 1]])
    first, second = standardize([a, b])
    both = np.vstack([first, second])
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(both.std(axis=0), [1, 0])
    assert second[0, 0] - first[0, 0] == pytest.approx(4 / np.sqrt(5))


def test_wilson_and_newcombe_give_published_intervals():
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20)[0] == 0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)
    assert np.isnan(wilson(float("nan"), 0)).all()
    a, b = (Tally(hits, n, n, hits, hits, n) for hits, n in ((56, 70), (48, 80)))
    value, low, high = difference(a, b)  # Newcombe 1998, table II, contrast (a): 0.2, 0.0524 to 0.3339
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-3)


def test_images_of_a_patient_count_as_few_as_they_are():
    alone = Tally.of([1, 0] * 50, np.arange(100))
    assert alone.effective == pytest.approx(99)
    copied = Tally.of(np.repeat([1, 0] * 50, 5), np.repeat(np.arange(100), 5))
    assert copied.effective == pytest.approx(99)
    assert copied.interval() == pytest.approx(alone.interval())
    assert Tally.of(np.zeros(50), np.arange(50) // 5).effective == 10


@pytest.mark.slow
def test_the_interval_covers_the_error_of_the_trained_classifiers():
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        patients = np.repeat(np.arange(60), 3)
        tallies = []
        for rate in (0.1, 0.3):
            own = rng.beta(2 * rate, 2 * (1 - rate), 60)
            tallies.append(Tally.of(rng.random(180) < own[patients], patients))
        _, low, high = mean_rate(*tallies)
        covered += low <= 0.2 <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_refuses_what_does_not_fit():
    x, patients = np.zeros((20, 2)), np.arange(20)
    with pytest.raises(DataError, match="classifier"):
        a_distance(x, x, patients, patients, classifier="forest")
    with pytest.raises(DataError, match="features"):
        a_distance(x, x[:, :1], patients, patients)
    with pytest.raises(DataError, match="features"):
        a_distance(x, x[:, :1], patients, patients, classifier="network")
    with pytest.raises(DataError, match="n patients"):
        a_distance(x, x, patients[:3], patients)
    with pytest.raises(DataError, match="finite"):
        a_distance(x, x + np.nan, patients, patients)
    with pytest.raises(DataError, match="as many patients"):
        a_distance(x, x, patients // 10, patients)
    with pytest.raises(DataError, match="3 folds"):
        a_distance(x, x, patients, patients, folds=2)
