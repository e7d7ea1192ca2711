"""Label distances: the published table from the eight prevalences, unknown findings, ratios with zeros."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.contingency import relative_risk

from hilum.errors import DataError
from hilum.shift.labels import (
    bernoulli_distance,
    bernoulli_matrix,
    label_emd,
    label_emd_matrix,
    patient_counts,
    prevalence_ratio,
)

# Percent of images with no finding, atelectasis, cardiomegaly, consolidation, edema, effusion, pneumonia and
# pneumothorax in ChestX-ray14, CheXpert (frontal), PadChest (frontal), VinDr-CXR and OpenI.
PREVALENCES = np.array(
    [
        [53.84, 10.31, 2.48, 4.16, 2.05, 11.88, 1.28, 4.73],
        [8.89, 15.56, 12.24, 6.80, 26.00, 40.26, 2.45, 9.26],
        [32.63, 5.55, 8.90, 1.51, 1.17, 6.32, 4.72, 0.38],
        [70.71, 1.24, 15.33, 2.35, 0, 6.88, 0, 0.64],
        [35.17, 8.39, 9.48, 0.76, 1.16, 4.07, 1.06, 0.58],
    ]
)
DISTANCES = {
    (0, 1): 1.041,
    (0, 2): 0.363,
    (0, 3): 0.530,
    (0, 4): 0.314,
    (1, 2): 1.124,
    (1, 3): 1.423,
    (1, 4): 1.144,
    (2, 3): 0.414,
    (2, 4): 0.216,
    (3, 4): 0.330,
}


def test_the_table_of_five_databases():
    matrix = label_emd_matrix(PREVALENCES)
    for (i, j), expected in DISTANCES.items():
        assert matrix[i, j] == pytest.approx(expected, abs=1e-3)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 0)
    np.testing.assert_allclose(label_emd(PREVALENCES), [0.288, 0.901, 0.223, 0.533, 0.317], atol=1e-3)


def test_one_class_of_ten_is_the_example_of_the_paper():
    np.testing.assert_allclose(label_emd(np.eye(10)), 1.8)
    np.testing.assert_allclose(label_emd(np.full((4, 10), 0.1)), 0, atol=1e-15)


def test_weights_move_the_mixture():
    priors = np.array([[1.0, 0], [0, 1]])
    np.testing.assert_allclose(label_emd(priors, [3, 1]), [0.5, 1.5])
    np.testing.assert_allclose(label_emd(priors, [1, 0]), [0, 2])


def test_unknown_findings_are_left_out_pair_by_pair():
    priors = np.array([[0.2, 0.1, np.nan], [0.4, 0.2, 0.9], [np.nan, 0.3, 0.3], [np.nan, np.nan, np.nan]])
    matrix = label_emd_matrix(priors)
    assert matrix[0, 1] == pytest.approx(0)
    assert matrix[1, 2] == pytest.approx(2 * abs(2 / 11 - 1 / 2))
    assert np.isnan(matrix[3]).all()
    masked = label_emd_matrix(np.nan_to_num(priors), known=~np.isnan(priors))
    np.testing.assert_array_equal(masked, matrix)
    assert label_emd(priors)[0] == pytest.approx(0)
    assert np.isnan(label_emd(priors)[3])


def test_bernoulli_counts_only_what_both_know():
    a, b = [0.1, 0.5, np.nan], [0.3, np.nan, 0.2]
    assert bernoulli_distance(a, b) == pytest.approx(0.4)
    assert bernoulli_distance([0.0, 1.0], [1.0, 0.0]) == 2
    assert math.isnan(bernoulli_distance([np.nan, 0.1], [0.1, np.nan]))
    matrix = bernoulli_matrix(np.array([a, b, [np.nan] * 3]))
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(0.4)
    assert np.isnan(matrix[2]).all()


def test_patients_are_counted_once():
    targets = np.array([[1, np.nan], [0, np.nan], [0, 1], [np.nan, 1], [0, 0]])
    positive, known = patient_counts(targets, ["a", "a", "b", "b", "c"])
    np.testing.assert_array_equal(positive, [1, 1])
    np.testing.assert_array_equal(known, [3, 2])


@given(st.integers(1, 99), st.integers(1, 99))
def test_ratio_is_that_of_scipy(pos_a, pos_b):
    found = prevalence_ratio(pos_a, 100, pos_b, 120)
    oracle = relative_risk(pos_a, 100, pos_b, 120)
    interval = oracle.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((oracle.relative_risk, interval.low, interval.high))


def test_ratio_with_zeros():
    none_here = prevalence_ratio(0, 50, 10, 60)
    assert (none_here.value, none_here.low) == (0, 0)
    assert 0.1 < none_here.high < 1.5
    none_there = prevalence_ratio(10, 60, 0, 50)
    assert (none_there.value, none_there.high) == (math.inf, math.inf)
    assert none_there.low == pytest.approx(1 / none_here.high)
    nothing = prevalence_ratio(0, 50, 0, 60)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0, math.inf)
    everyone = prevalence_ratio(30, 30, 20, 20)
    assert everyone.low < 1 < everyone.high


@pytest.mark.slow
def test_ratio_covers_also_where_a_finding_is_rare():
    rng = np.random.default_rng(0)
    draws = rng.binomial([300, 200], [0.01, 0.02], size=(2000, 2))
    found = [prevalence_ratio(int(a), 300, int(b), 200) for a, b in draws]
    assert np.mean([r.low <= 0.5 <= r.high for r in found]) >= 0.93


def test_refuses_what_does_not_fit():
    with pytest.raises(DataError, match="prevalences"):
        label_emd([[0.1, -0.1]])
    with pytest.raises(DataError, match="weights"):
        label_emd([[0.1, 0.1]], [1, 1])
    with pytest.raises(DataError, match="known"):
        label_emd([[0.1, 0.1]], known=[[True]])
    with pytest.raises(DataError, match="above 1"):
        bernoulli_distance([2.0], [0.1])
    with pytest.raises(DataError, match="3 of 2"):
        prevalence_ratio(3, 2, 1, 2)
    with pytest.raises(DataError, match="targets"):
        patient_counts([[1.0]], ["a", "b"])
