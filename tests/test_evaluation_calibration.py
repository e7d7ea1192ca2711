"""Calibration: hand-made errors, corrections that undo what was done to the logits, scikit-learn beside them."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hilum.errors import DataError
from hilum.evaluation.bootstrap import interval, resample
from hilum.evaluation.calibration import (
    Correction,
    evaluate_calibration,
    expected_calibration_error,
    fit_platt,
    fit_prior_shift,
    fit_temperature,
    reliability,
)


def patients(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1.5, n)
    return expit(z), (rng.random(n) < expit(z)).astype(float)


def test_expected_calibration_error_by_hand():
    """Two bins of two images: |0.2 - 0.5| and |0.9 - 1|, weighed alike; a NaN label is left out."""
    p, t = [[0.1], [0.3], [0.8], [1.0], [0.7]], [[0], [1], [1], [1], [np.nan]]
    np.testing.assert_allclose(expected_calibration_error(p, t, bins=2), [0.2])
    np.testing.assert_allclose(
        expected_calibration_error(p, t, [[1, 1, 0, 0, 5], [0, 0, 1, 1, 0]], bins=2)[:, 0], [0.3, 0.1]
    )
    assert np.isnan(expected_calibration_error([[0.5]], [[np.nan]]))


def test_a_multiplicity_is_a_repeated_row():
    rng = np.random.default_rng(3)
    p, t = rng.random((30, 2)), (rng.random((30, 2)) < 0.4).astype(float)
    w = rng.integers(0, 4, (5, 30))
    repeated = [expected_calibration_error(p.repeat(r, axis=0), t.repeat(r, axis=0)) for r in w]
    np.testing.assert_allclose(expected_calibration_error(p, t, w), repeated, atol=1e-12)


def test_reliability_points_make_the_error():
    p, t = patients(500)
    points = reliability(p, t)
    assert points.images.sum() == 500
    gap = (np.abs(points.predicted - points.observed) * points.images).sum() / 500
    assert gap == pytest.approx(expected_calibration_error(p[:, None], t[:, None])[0])
    lone = reliability([0.05, 1.0, 0.5], [0, 1, np.nan], bins=10)
    np.testing.assert_allclose([lone.predicted, lone.observed, lone.images], [[0.05, 1], [0, 1], [1, 1]])


def test_temperature_undoes_overconfidence():
    p, t = patients()
    sharp = expit(2.5 * logit(p))
    fitted = fit_temperature(sharp, t)
    assert fitted.slope == pytest.approx(1 / 2.5, rel=0.08)
    assert fitted.intercept == 0
    error = [expected_calibration_error(q[:, None], t[:, None])[0] for q in (sharp, fitted(sharp))]
    assert error[1] < 0.4 * error[0]


def test_prior_shift_is_the_difference_of_log_odds_and_meets_the_prevalence():
    """A hospital with the same images of either class, and three times the odds of the finding."""
    p, t = patients(20000)
    moved = expit(logit(p) - np.log(3))
    fitted = fit_prior_shift(moved, t)
    assert fitted.slope == 1
    assert fitted.intercept == pytest.approx(np.log(3), abs=0.06)
    assert fitted(moved).mean() == pytest.approx(t.mean(), abs=1e-4)


def test_platt_is_logistic_regression_on_many_images():
    p, t = patients()
    x = logit(p)[:, None] * 1.7 + 0.4
    ours, theirs = fit_platt(expit(x[:, 0]), t), LogisticRegression(C=np.inf).fit(x, t)
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], rel=0.01)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=0.01)


def test_few_separable_images_do_not_make_a_step():
    fitted = fit_platt([0.2, 0.3, 0.7, 0.8], [0, 0, 1, 1])
    assert 0.1 < fitted(0.25) < 0.9


@pytest.mark.parametrize("fit", [fit_temperature, fit_prior_shift, fit_platt])
def test_a_correction_keeps_the_ranking_even_where_labels_contradict_it(fit):
    p, t = patients(200)
    fitted = fit(p, 1 - t)
    assert fitted.slope > 0
    order = np.argsort(p)
    assert (np.diff(fitted(p[order])) > 0).all()
    assert roc_auc_score(t, fitted(p)) == roc_auc_score(t, p)


@pytest.mark.parametrize("fit", [fit_temperature, fit_prior_shift])
def test_one_class_is_not_corrected(fit):
    assert fit([0.2, 0.9, 0.4], [1, 1, np.nan]) == Correction()


@pytest.mark.parametrize(("label", "mean"), [(0, 1 / 42), (1, 41 / 42)])
def test_scores_that_always_miss_or_hit_are_calibrated_too(label, mean):
    """Forty detections of which none is right are no reason to trust the next."""
    p = np.linspace(0.5, 0.99, 40)
    fitted = fit_platt(p, np.full(40, label))
    assert fitted.slope == 1
    assert fitted(p).mean() == pytest.approx(mean, rel=1e-3)
    assert fit_platt(p, np.full(40, np.nan)) == Correction()


def test_certain_probabilities_stay_finite():
    assert np.isfinite(Correction(2.0, 1.0)([0.0, 1.0])).all()
    assert np.isfinite(fit_temperature([0.0, 1.0, 1.0], [0, 1, 0]).slope)


def test_refuses_scores_that_are_no_probabilities():
    with pytest.raises(DataError, match="sigmoid"):
        expected_calibration_error([[2.0], [0.1]], [[1], [0]])


def test_a_table_of_errors_averages_seeds_and_findings():
    rng = np.random.default_rng(5)
    p, t = rng.random((2, 60, 2)), (rng.random((60, 2)) < 0.4).astype(float)
    t[:, 1] = np.nan
    table = evaluate_calibration(p, t, np.arange(60), ["Mass", "Edema"], resamples=100)
    each = [expected_calibration_error(one, t)[0] for one in p]
    assert table["Mass"].value == pytest.approx(np.mean(each))
    assert table["macro"].value == table["Mass"].value
    assert (table["macro"].findings, table["Edema"].n) == (1, 0)
    assert np.isnan(table["Edema"].value)


@pytest.mark.parametrize(
    ("p", "t", "lowest"),
    [(*patients(60), False), (np.full(12, 0.4), np.tile([0.0, 1.0], 6), True)],
    ids=["apart", "cut at 0"],
)
def test_an_interval_is_the_basic_one(p, t, lowest):
    """Resamples of few patients err upwards: the percentile interval is turned round the value, and cut at 0."""
    who = np.arange(len(p))
    one = evaluate_calibration(p[:, None], t[:, None], who, ["Mass"], resamples=300)["Mass"]
    sample = resample(
        lambda weights: expected_calibration_error(p[:, None], t[:, None], weights)[:, None], who, 300, seed=0
    )
    low, high = interval(sample.resamples[:, 0])
    assert (one.low, one.high) == pytest.approx((max(2 * one.value - high, 0), 2 * one.value - low))
    assert (one.low == 0) == lowest
    assert high > one.high + 0.05


def test_a_calibration_error_of_few_patients_has_no_interval():
    targets = np.array([0.0, 1.0, 0.0, 1.0])
    few = evaluate_calibration(np.full((4, 1), 0.5), targets[:, None], np.arange(4), ["Mass"], resamples=100)["Mass"]
    assert few.value == 0
    assert np.isnan([few.low, few.high]).all()
    more = evaluate_calibration(np.full((8, 1), 0.4), np.tile(targets, 2)[:, None], np.arange(8), ["Mass"])["Mass"]
    assert more.low < more.value < more.high
