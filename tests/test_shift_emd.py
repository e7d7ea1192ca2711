"""Earth Mover's Distance: axioms, closed forms, and SciPy and POT as oracles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from hilum.errors import DataError
from hilum.shift import transport as transport_module
from hilum.shift.emd import Signature, emd, emd_1d, emd_samples, signature
from hilum.shift.transport import transport

SEEDS = st.integers(0, 10_000)


def random_signature(rng, k=None, d=3, mass=1.0):
    k = k or int(rng.integers(1, 9))
    weights = rng.random(k) + 0.01
    return Signature(rng.normal(size=(k, d)), weights * mass / weights.sum())


@settings(max_examples=30)
@given(SEEDS)
def test_it_is_a_metric_for_equal_mass(seed):
    rng = np.random.default_rng(seed)
    p, q, r = (random_signature(rng) for _ in range(3))
    assert emd(p, p).cost == pytest.approx(0, abs=1e-10)
    pq = emd(p, q).cost
    assert pq == pytest.approx(emd(q, p).cost, abs=1e-9)
    assert pq <= emd(p, r).cost + emd(r, q).cost + 1e-9
    centroids = [s.weights @ s.centers for s in (p, q)]
    assert pq >= np.linalg.norm(centroids[0] - centroids[1]) - 1e-9


@settings(max_examples=20)
@given(SEEDS)
def test_a_translation_costs_its_length(seed):
    rng = np.random.default_rng(seed)
    p, step = random_signature(rng), rng.normal(size=3)
    assert emd(p, Signature(p.centers + step, p.weights)).cost == pytest.approx(np.linalg.norm(step), abs=1e-9)


@settings(max_examples=30)
@given(SEEDS, st.floats(0.1, 10))
def test_on_the_line_it_is_the_area_between_the_distributions(seed, mass):
    rng = np.random.default_rng(seed)
    p, q = (random_signature(rng, d=1, mass=mass) for _ in range(2))
    line = emd_1d(p.centers[:, 0], q.centers[:, 0], p.weights, q.weights)
    assert emd(p, q).cost == pytest.approx(line, abs=1e-8)
    oracle = wasserstein_distance(p.centers[:, 0], q.centers[:, 0], p.weights, q.weights)
    assert line == pytest.approx(oracle, abs=1e-12)


def test_the_lighter_one_inside_the_heavier_costs_nothing():
    rng = np.random.default_rng(0)
    p = random_signature(rng, 6)
    twice = Signature(p.centers, 2 * p.weights)
    part = Signature(p.centers[:3], p.weights[:3])
    for lighter in (p, part):
        for pair in ((lighter, twice), (twice, lighter)):
            found = emd(*pair)
            assert found.cost == pytest.approx(0, abs=1e-10)
            assert found.flow.sum() == pytest.approx(lighter.weights.sum())
    q = Signature(np.array([[0.0], [10.0]]), np.array([1.0, 1.0]))
    assert emd(q, Signature(np.array([[1.0]]), np.array([1.5]))).cost == pytest.approx((1 * 1 + 0.5 * 9) / 1.5)


@settings(max_examples=20)
@given(SEEDS, st.floats(0.2, 5))
def test_the_flow_moves_what_it_may_and_costs_what_it_says(seed, mass):
    rng = np.random.default_rng(seed)
    p, q = random_signature(rng), random_signature(rng, mass=mass)
    found = emd(p, q)
    assert (found.flow >= 0).all()
    assert (found.flow.sum(axis=1) <= p.weights + 1e-9).all()
    assert (found.flow.sum(axis=0) <= q.weights + 1e-9).all()
    assert found.flow.sum() == pytest.approx(min(1, mass))
    cost = (found.flow * cdist(p.centers, q.centers)).sum() / found.flow.sum()
    assert found.cost == pytest.approx(cost)


def test_pot_finds_the_same_of_signatures():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(1)
    for metric in ("euclidean", "cityblock", "sqeuclidean", "chebyshev"):
        p, q = random_signature(rng, 12, 40), random_signature(rng, 16, 40)
        assert emd(p, q, metric).cost == pytest.approx(
            ot.emd2(p.weights, q.weights, cdist(p.centers, q.centers, metric))
        )


def test_pot_and_scipy_find_the_same_of_samples():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(2)
    for n, m in ((150, 150), (150, 90)):
        a, b = rng.normal(size=(n, 10)), rng.normal(size=(m, 10)) + 0.3
        oracle = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cdist(a, b))
        assert emd_samples(a, b) == pytest.approx(oracle, abs=1e-10)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(15, 3))
    assert emd_samples(a, b) == pytest.approx(wasserstein_distance_nd(a, b), abs=1e-8)


@pytest.mark.parametrize(("n", "m", "mass"), [(60, 60, 1.0), (60, 45, 1.0), (45, 60, 0.4)])
def test_few_columns_at_a_time_give_the_optimum_of_all(monkeypatch, n, m, mass):
    rng = np.random.default_rng(3)
    cost = cdist(rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) + 1)
    supply, demand = rng.random(n), rng.random(m)
    supply, demand = supply / supply.sum(), mass * demand / demand.sum()
    whole = transport(cost, supply, demand)
    monkeypatch.setattr(transport_module, "WHOLE", 0)
    parts = transport(cost, supply, demand)
    assert (parts * cost).sum() == pytest.approx((whole * cost).sum(), abs=1e-10)
    np.testing.assert_allclose(parts.sum(axis=0 if n > m or mass == 1 else 1).sum(), min(1, mass))


@pytest.mark.slow
def test_a_thousand_images_against_pot():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(1000, 256)), rng.normal(size=(700, 256)) + 0.1
    oracle = ot.emd2(np.full(1000, 1e-3), np.full(700, 1 / 700), cdist(a, b), numItermax=10**8)
    assert emd_samples(a, b) == pytest.approx(oracle, abs=1e-9)


def test_a_signature_finds_clusters():
    rng = np.random.default_rng(5)
    places = np.array([[0.0, 0], [10, 0], [0, 10]])
    label = np.repeat([0, 1, 2], [50, 30, 20])
    found = signature(places[label] + 0.1 * rng.normal(size=(100, 2)), k=3)
    order = np.argsort(found.weights)[::-1]
    np.testing.assert_allclose(found.weights[order], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(found.centers[order], places, atol=0.1)


def test_a_signature_keeps_the_centroid_and_repeats_itself():
    x = np.random.default_rng(6).normal(size=(300, 8))
    first, again = signature(x, 16, 1), signature(x, 16, 1)
    np.testing.assert_array_equal(first.centers, again.centers)
    np.testing.assert_allclose(first.weights @ first.centers, x.mean(axis=0), atol=1e-12)
    assert first.weights.sum() == pytest.approx(1)
    assert len(signature(x[:5], 16).weights) == 5


def test_where_few_points_differ_the_signature_is_exact():
    a, b = (np.random.default_rng(s).integers(4, size=(60, 1)).astype(float) for s in (0, 1))
    assert emd(signature(a), signature(b)).cost == pytest.approx(emd_samples(a, b))


def test_emd_grows_with_a_shift_of_the_histogram():
    grey = np.random.default_rng(7).beta(2, 4, 5000)
    values = [emd_1d(grey, grey**gamma) for gamma in (1, 1.1, 1.3, 1.6, 2)]
    assert values[0] == 0
    assert (np.diff(values) > 0).all()


def test_refuses_what_does_not_fit():
    p = Signature(np.zeros((1, 2)), np.ones(1))
    with pytest.raises(DataError, match="metric"):
        emd(p, p, "cosine")
    with pytest.raises(DataError, match="points"):
        emd(p, Signature(np.zeros((1, 3)), np.ones(1)))
    with pytest.raises(DataError, match="weights"):
        Signature(np.zeros((2, 2)), np.array([1.0, -1.0]))
    with pytest.raises(DataError, match="weights"):
        Signature(np.zeros((2, 2)), np.zeros(2))
    with pytest.raises(DataError, match="finite"):
        signature(np.full((3, 2), np.nan))
    with pytest.raises(DataError, match="not all 0"):
        emd_1d([1.0], [1.0], [0.0])
