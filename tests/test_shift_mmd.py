"""MMD: the plain formula, the null, power, and patients who move whole."""

import numpy as np
import pytest

from hilum.errors import DataError
from hilum.shift import mmd as module
from hilum.shift.mmd import mmd


def plain(a, b, sigma):
    def kernel(x, y):
        return np.exp(-((x[:, None] - y[None]) ** 2).sum(axis=2) / (2 * sigma**2))

    n, m = len(a), len(b)
    aa, bb = ((kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return aa + bb - 2 * kernel(a, b).sum() / (n * m)


def data(n=40, m=30, d=4, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift


def test_value_is_the_unbiased_formula_with_the_median_bandwidth():
    a, b = data(shift=0.5)
    found = mmd(a, b, np.arange(40), np.arange(30), permutations=20)
    both = np.vstack([a, b])
    distances = np.linalg.norm(both[:, None] - both[None], axis=2)[np.triu_indices(70, 1)]
    assert found.bandwidth == pytest.approx(np.median(distances))
    assert found.value == pytest.approx(plain(a, b, found.bandwidth), abs=1e-12)
    fixed = mmd(a, b, np.arange(40), np.arange(30), permutations=0, bandwidth=1.5)
    assert fixed.value == pytest.approx(plain(a, b, 1.5), abs=1e-12)
    assert np.isnan(fixed.p_value)


def test_pairs_of_one_patient_are_left_out():
    rng = np.random.default_rng(1)
    a, b = data(12, 10)
    who_a, who_b = rng.integers(5, size=12), rng.integers(4, size=10)
    sigma = 1.3

    def mean_between(x, y, apart):
        kernel = np.exp(-((x[:, None] - y[None]) ** 2).sum(axis=2) / (2 * sigma**2))
        return kernel[apart].mean()

    expected = mean_between(a, a, who_a[:, None] != who_a) + mean_between(b, b, who_b[:, None] != who_b)
    expected -= 2 * mean_between(a, b, np.ones((12, 10), bool))
    found = mmd(a, b, who_a, who_b, permutations=0, bandwidth=sigma)
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_each_permutation_is_the_value_of_its_split():
    a, b = data(15, 9)
    x, images = np.vstack([a, b]), np.arange(24)
    between = module._between_patients(np.exp(-module._squared_distances(x) / 2), images)
    at_a = np.zeros((24, 3))
    for column in range(3):
        at_a[np.random.default_rng(column).permutation(24)[:15], column] = 1
    found = module._estimates(between, np.ones(24), at_a)
    expected = [plain(x[c == 1], x[c == 0], 1.0) for c in at_a.T]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_p_is_uniform_where_nothing_differs_and_small_where_something_does():
    def p_values(shift):
        found = []
        for seed in range(60):
            a, b = data(30, 30, 3, shift, seed)
            found.append(mmd(a, b, np.arange(30) // 2, np.arange(30) // 2, permutations=99, seed=seed).p_value)
        return np.array(found)

    null = p_values(0.0)
    assert 0.35 < null.mean() < 0.65
    assert (null <= 0.05).mean() <= 0.15
    assert (null <= 0.5).mean() == pytest.approx(0.5, abs=0.2)
    assert (p_values(1.0) <= 0.05).mean() > 0.9


def test_many_images_of_a_patient_do_not_make_a_shift():
    """Patients differ, sites do not: permuting images finds a shift nearly always, permuting patients seldom."""
    whole, split, values = [], [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(8), 10)
        a, b = (rng.normal(size=(8, 3))[patients] + 0.1 * rng.normal(size=(80, 3)) for _ in range(2))
        whole.append(mmd(a, b, patients, patients, permutations=99, seed=seed))
        split.append(mmd(a, b, np.arange(80), np.arange(80), permutations=99, seed=seed).p_value)
        values.append(whole[-1].value)
    assert (np.array(split) <= 0.05).mean() > 0.9
    assert (np.array([w.p_value for w in whole]) <= 0.05).mean() < 0.2
    assert abs(np.mean(values)) < 2 * np.std(values) / np.sqrt(30) + 0.01


def test_one_seed_one_result_and_the_least_p():
    a, b = data(60, 60, shift=2.0)
    first, again = (mmd(a, b, np.arange(60), np.arange(60), permutations=49, seed=4) for _ in range(2))
    assert first == again
    assert first.p_value == pytest.approx(1 / 50)
    limited = mmd(a, b, np.arange(60), np.arange(60), permutations=0, max_images=20)
    assert limited.value != first.value


def test_refuses_what_does_not_fit():
    a, b = data()
    with pytest.raises(DataError, match="2 patients"):
        mmd(a, b, np.zeros(40), np.arange(30))
    with pytest.raises(DataError, match="same features"):
        mmd(a, b[:, :2], np.arange(40), np.arange(30))
