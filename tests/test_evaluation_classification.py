"""AUROC and average precision against scikit-learn, one resample and one finding at a time."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from hilum.errors import DataError
from hilum.evaluation import METRICS, classification
from hilum.evaluation.classification import auroc, average_precision

ORACLES = {"auroc": roc_auc_score, "average_precision": average_precision_score}


def oracle(name, scores, targets, weights=None):
    known = ~np.isnan(targets)
    w = np.ones(len(targets)) if weights is None else weights
    known &= w > 0
    if len(np.unique(targets[known])) < 2:
        return np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ORACLES[name](targets[known], scores[known], sample_weight=w[known])


@st.composite
def predictions(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, c, r = draw(st.integers(2, 40)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    scores = rng.integers(levels, size=(n, c)) / levels - draw(st.sampled_from([0.0, 0.5]))
    targets = rng.choice([0.0, 1.0, np.nan], size=(n, c), p=draw(st.sampled_from([(0.5, 0.5, 0), (0.6, 0.2, 0.2)])))
    return scores, targets, rng.integers(0, 4, size=(r, n)).astype(np.uint16)


@pytest.mark.parametrize("name", METRICS)
@given(data=predictions())
@settings(max_examples=80, deadline=None)
def test_agrees_with_scikit_learn_under_ties_gaps_and_multiplicities(name, data):
    scores, targets, weights = data
    metric = METRICS.load(name)
    columns = range(scores.shape[1])
    plain = [oracle(name, scores[:, c], targets[:, c]) for c in columns]
    np.testing.assert_allclose(metric(scores, targets), plain, atol=1e-12)
    expected = [[oracle(name, scores[:, c], targets[:, c], w) for c in columns] for w in weights]
    np.testing.assert_allclose(metric(scores, targets, weights), expected, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_multiplicity_is_a_repeated_row(name):
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(30, 2)).round(1), (rng.random((30, 2)) < 0.4).astype(float)
    weights = rng.integers(0, 5, size=(4, 30))
    metric = METRICS.load(name)
    repeated = [metric(scores.repeat(w, axis=0), targets.repeat(w, axis=0)) for w in weights]
    np.testing.assert_allclose(metric(scores, targets, weights), repeated, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_does_not_depend_on_order_scale_or_chunks(name, monkeypatch):
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(size=(60, 2)), (rng.random((60, 2)) < 0.4).astype(float)
    weights = rng.integers(0, 3, size=(7, 60)).astype(np.uint8)
    metric, shuffled = METRICS.load(name), rng.permutation(60)
    expected = metric(scores, targets, weights)
    np.testing.assert_allclose(metric(np.exp(3 * scores), targets, weights), expected, atol=1e-12)
    np.testing.assert_allclose(metric(scores[shuffled], targets[shuffled], weights[:, shuffled]), expected, atol=1e-12)
    monkeypatch.setattr(classification, "CHUNK", 1)
    np.testing.assert_array_equal(metric(scores, targets, weights), expected)


def test_auroc_of_reversed_scores_is_the_complement():
    rng = np.random.default_rng(3)
    scores, targets = rng.integers(5, size=(50, 1)), (rng.random((50, 1)) < 0.5).astype(float)
    np.testing.assert_allclose(auroc(scores, targets) + auroc(-scores, targets), 1)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("column", [[1, 1, 1], [0, 0, 0], [np.nan, 1, 1], [np.nan] * 3])
def test_is_nan_where_a_class_is_absent(name, column):
    targets = np.array([column, [0, 1, 0]], dtype=float).T
    values = METRICS.load(name)(np.array([[0.1, 0.1], [0.5, 0.9], [0.2, 0.2]]), targets)
    assert np.isnan(values[0])
    assert values[1] == 1


@pytest.mark.parametrize("name", METRICS)
def test_is_nan_in_the_resamples_that_lack_a_class(name):
    values = METRICS.load(name)([[0.1], [0.9]], [[0], [1]], np.array([[1, 1], [2, 0], [0, 2]]))
    np.testing.assert_array_equal(values[:, 0], [1, np.nan, np.nan])


def test_hand_made_average_precision():
    np.testing.assert_allclose(average_precision([[3.0], [2.0], [2.0], [1.0]], [[0], [1], [0], [1]]), [5 / 12])


@pytest.mark.parametrize(
    ("scores", "targets", "weights", "message"),
    [
        ([[np.nan], [1.0]], [[0], [1]], None, "finite scores"),
        ([[np.inf], [1.0]], [[0], [1]], None, "finite scores"),
        ([[0.0], [1.0]], [[-1], [1]], None, "label policy"),
        ([[0.0], [1.0]], [[0, 1]], None, "one shape"),
        ([0.0, 1.0], [0, 1], None, "one shape"),
        ([[0.0], [1.0]], [[0], [1]], [[1, 1, 1]], "weights of shape"),
        ([[0.0], [1.0]], [[0], [1]], [[1, -1]], "at least 0"),
    ],
)
def test_refuses_what_cannot_be_ranked(scores, targets, weights, message):
    with pytest.raises(DataError, match=message):
        auroc(scores, targets, weights)
