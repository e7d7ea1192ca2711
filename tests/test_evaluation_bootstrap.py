"""Intervals: exact properties of the resamples, DeLong's variance, coverage in a small simulation."""

from math import comb

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from hilum.errors import DataError, UnknownName
from hilum.evaluation import bootstrap
from hilum.evaluation.bootstrap import (
    Resampled,
    evaluate_classification,
    evaluate_sites,
    figures_of,
    interval,
    macro,
    patient_weights,
    resample,
    too_few,
)
from hilum.evaluation.classification import auroc, average_precision
from hilum.evaluation.comparison import paired_difference, paired_over_sites, two_sided_p
from hilum.evaluation.delong import delong
from hilum.evaluation.localization import paired_localization


def sample(n=400, findings=2, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, findings)) < 0.3).astype(float)
    return rng.normal(size=(n, findings)) + shift * targets, targets


def delong_variance(scores, targets):
    positive, negative = scores[targets == 1], scores[targets == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)


def test_patients_are_drawn_whole_and_as_many_as_there_are():
    patients = np.array(["c", "a", "b", "a", "b", "b"])
    weights = patient_weights(patients, 200, np.random.default_rng(0))
    assert weights.shape == (200, 6)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 3])
    np.testing.assert_array_equal(weights[:, 2], weights[:, 5])
    np.testing.assert_array_equal(weights[:, [0, 1, 2]].sum(axis=1), 3)
    assert abs(weights[:, 0].mean() - 1) < 0.2


def test_resamples_do_not_depend_on_blocks(monkeypatch):
    patients = np.arange(20) // 2
    whole = resample(lambda w: w[:, None, :].astype(float), patients, 9, 5)
    monkeypatch.setattr(bootstrap, "BLOCK", 40)
    np.testing.assert_array_equal(
        resample(lambda w: w[:, None, :].astype(float), patients, 9, 5).resamples, whole.resamples
    )


def test_interval_is_the_percentile_of_known_values():
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert interval([np.nan, 1.0, 2.0, 3.0], 0.5) == (1.5, 2.5)
    assert np.isnan(interval([np.nan, np.nan, 1.0])).all()
    assert np.isnan(interval([])).all()


def test_one_image_a_patient_gives_delongs_variance():
    scores, targets = sample(600, 1)
    boot = resample(lambda w: auroc(scores, targets, w)[:, None], np.arange(600), 2000, 1)
    assert boot.resamples.std() ** 2 == pytest.approx(delong_variance(scores[:, 0], targets[:, 0]), rel=0.15)


def test_copies_of_a_patients_image_do_not_narrow_the_interval():
    scores, targets = sample(200, 1)
    once = evaluate_classification(scores, targets, np.arange(200), ["Mass"], seed=2)["Mass"]["auroc"]
    copied = (np.repeat(a, 5, axis=0) for a in (scores, targets, np.arange(200)))
    five = evaluate_classification(*copied, ["Mass"], seed=2)["Mass"]["auroc"]
    assert (five.low, five.high) == pytest.approx((once.low, once.high))
    assert (five.n, once.n) == (1000, 200)


def test_intervals_cover_the_true_auroc_about_as_often_as_they_say():
    truth = 0.7602499389065233  # Phi(1 / sqrt 2): unit normals one apart
    covered = 0
    for trial in range(150):
        scores, targets = sample(150, 1, seed=1000 + trial)
        table = evaluate_classification(
            scores, targets, np.arange(150), ["Mass"], resamples=200, seed=trial, metrics=["auroc"]
        )
        estimate = table["Mass"]["auroc"]
        covered += estimate.low <= truth <= estimate.high
    assert 0.88 <= covered / 150 <= 0.99


def test_table_gives_counts_values_and_the_macro_of_what_exists():
    scores, targets = sample(300, 3)
    targets[:, 2], targets[:50, 1] = 0, np.nan
    table = evaluate_classification(scores, targets, np.arange(300) // 2, ["Mass", "Edema", "Hernia"])
    for metric, function in {"auroc": auroc, "average_precision": average_precision}.items():
        expected = function(scores, targets)
        assert [table[f][metric].value for f in ("Mass", "Edema")] == list(expected[:2])
        assert table["macro"][metric].value == pytest.approx(expected[:2].mean())
        assert table["macro"][metric].low < table["macro"][metric].value < table["macro"][metric].high
        hernia = table["Hernia"][metric]
        assert np.isnan([hernia.value, hernia.low, hernia.high]).all()
        assert (hernia.n, hernia.positives) == (300, 0)
    assert table["Edema"]["auroc"].n == 250
    assert table["Edema"]["auroc"].positives == (targets[:, 1] == 1).sum()
    assert table["macro"]["auroc"].findings == 2
    assert table["macro"]["auroc"].n == 550


def test_macro_of_a_resample_without_a_finding_does_not_jump():
    boot = np.array([[0.9, 0.5], [0.92, np.nan], [np.nan, np.nan]])
    mean = macro(Resampled(np.array([[0.9, 0.5]]), boot))
    np.testing.assert_allclose(mean.resamples[:, 0], [0.7, 0.72, np.nan])
    nothing = macro(Resampled(np.array([[np.nan]]), np.full((3, 1), np.nan)))
    assert np.isnan(nothing.values).all()


def test_seeds_are_averaged_under_the_same_patients():
    one, targets = sample(200, 2)
    two = one + np.random.default_rng(9).normal(size=one.shape)
    table = evaluate_classification(np.stack([one, two]), targets, np.arange(200), ["Mass", "Edema"])
    each = auroc(one, targets), auroc(two, targets)
    assert table["Mass"]["auroc"].value == pytest.approx(np.mean([v[0] for v in each]))
    assert table["Mass"]["auroc"].sd == pytest.approx(np.std([v[0] for v in each], ddof=1))
    assert table["macro"]["auroc"].sd == pytest.approx(np.std([v.mean() for v in each], ddof=1))
    same = evaluate_classification(np.stack([one, one]), targets, np.arange(200), ["Mass", "Edema"])
    alone = evaluate_classification(one, targets, np.arange(200), ["Mass", "Edema"])
    assert same["macro"]["auroc"].low == pytest.approx(alone["macro"]["auroc"].low)
    assert same["macro"]["auroc"].sd == 0
    assert np.isnan(alone["macro"]["auroc"].sd)


def test_sites_are_ranked_apart_and_averaged():
    scores, targets = sample(300, 2)
    sites = np.array(["north"] * 200 + ["south"] * 100)
    scores[200:] += 100
    tables = evaluate_sites(scores, targets, np.arange(300), sites, ["Mass", "Edema"], resamples=100)
    expected = [auroc(scores[sites == s], targets[sites == s]) for s in ("north", "south")]
    assert list(tables) == ["north", "south", "macro"]
    assert tables["south"]["Edema"]["auroc"].value == pytest.approx(expected[1][1])
    assert tables["macro"]["Mass"]["auroc"].value == pytest.approx(np.mean([e[0] for e in expected]))
    assert tables["macro"]["macro"]["auroc"].value == pytest.approx(np.mean(expected))
    assert tables["macro"]["Mass"]["auroc"].n == 300
    width = {s: tables[s]["Mass"]["auroc"].high - tables[s]["Mass"]["auroc"].low for s in ("south", "macro")}
    assert width["macro"] < width["south"]


def test_paired_difference_cancels_what_two_arms_share():
    scores, targets = sample(300, 2)
    close = scores + 0.05 * np.random.default_rng(4).normal(size=scores.shape)
    patients = np.arange(300)
    alone = evaluate_classification(scores, targets, patients, ["Mass", "Edema"])["macro"]["auroc"]
    table = paired_difference(close, scores, targets, patients, ["Mass", "Edema"])
    paired = table["macro"]["auroc"]
    assert paired.value == pytest.approx((auroc(close, targets) - auroc(scores, targets)).mean())
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    nothing = paired_difference(scores, scores, targets, patients, ["Mass", "Edema"], resamples=50)["Mass"]["auroc"]
    assert (nothing.value, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    worse = np.random.default_rng(5).normal(size=(2, *scores.shape))
    clear = paired_difference(scores, worse, targets, patients, ["Mass", "Edema"], resamples=99)["macro"]["auroc"]
    assert clear.low > 0
    assert clear.p < 0.02


def test_p_value_counts_both_sides():
    assert two_sided_p([-1.0, 1.0, 1.0, 1.0, np.nan], 10) == pytest.approx(0.8)
    assert np.isnan(two_sided_p([np.nan], 10))


def test_p_value_goes_on_beyond_the_last_resample():
    """Few resamples say of a clear difference what many do, as far as the t test of its images goes; never less."""
    rng = np.random.default_rng(0)
    gains = rng.normal(0.5, 1, 40)
    exact = ttest_1samp(gains, 0).pvalue
    means = rng.choice(gains, (200_000, 40)).mean(axis=1)
    assert 0.0002 < exact < 0.02
    assert two_sided_p(means, 40) == pytest.approx(exact, rel=0.8)
    above = means[means > 0][:99]
    assert two_sided_p(above, 40) == pytest.approx(exact, rel=0.8)
    assert two_sided_p(above + 1, 40) < 1e-6
    assert two_sided_p(above + 1, 3) > 1e-3
    assert two_sided_p(np.full(99, 0.3), 40) == pytest.approx(0.02)


@pytest.mark.parametrize("images", [1, 10])
def test_small_p_values_are_as_rare_as_they_say(images):
    """Where nothing differs, also with many images of few patients: these are what is drawn."""
    rng, who = np.random.default_rng(0), np.repeat(np.arange(8), images)
    values = rng.normal(size=(800, 8, 1)) + 0.3 * rng.normal(size=(800, 8, images))
    p = [
        paired_localization(v.reshape(1, -1, 1, 1), np.zeros((1, 8 * images, 1, 1)), who, resamples=400)[0][0].p
        if images > 1
        else two_sided_p(
            resample(lambda w, v=v: (w @ v / w.sum(1, keepdims=True))[:, :, None], who, 400, 0).resamples, 8
        )
        for v in values
    ]
    assert np.mean(np.array(p) < 0.001) < 0.006


def test_a_mean_hangs_on_its_finding_of_fewest_patients():
    targets = np.zeros((60, 2))
    targets[:5, 0], targets[:30, 1] = 1, 1
    who = np.arange(60)
    sample = resample(lambda w: (w @ targets)[:, None] / w.sum(1)[:, None, None], who, 100, 0)
    figures = figures_of(sample, targets, who, ["Mass", "Edema"])
    assert [figures[f].witnesses for f in ("Mass", "Edema", "macro")] == [5, 30, 5]
    assert figures_of(sample, targets, who // 2, ["Mass", "Edema"])["Edema"].witnesses == 15


def test_a_perfect_ranking_has_the_p_of_its_chance():
    targets = np.repeat([1.0, 0.0], 8)[:, None]
    scores = targets + np.arange(16)[:, None] / 100
    for s in (scores, -scores):
        assert delong(s, targets, np.arange(16), ["Mass"])["Mass"].p == pytest.approx(2 / comb(16, 8))
    assert np.isnan(delong(scores, targets, np.arange(16) // 4, ["Mass"])["Mass"].p)


def test_a_mean_over_sites_and_a_group_are_compared_as_they_are_measured():
    rng = np.random.default_rng(1)
    findings, sites = ["Mass", "Edema", "Hernia"], np.repeat(["north", "south"], 150)
    targets = (rng.random((300, 3)) < 0.4).astype(float)
    targets[sites == "south", 2] = np.nan
    good, poor = (targets + s * rng.normal(size=(2, 300, 3)) for s in (0.8, 1.5))
    good, poor = np.nan_to_num(good), np.nan_to_num(poor)
    groups = {"head": [], "tail": ["Hernia"], "medium": ["Mass", "Edema"]}
    options = {"resamples": 100, "metrics": ["average_precision"], "groups": groups}
    table = paired_over_sites(good, poor, targets, np.arange(300), sites, findings, **options)
    assert list(table) == ["macro", "tail", "medium"]
    ours, theirs = (evaluate_sites(s, targets, np.arange(300), sites, findings, **options) for s in (good, poor))
    for name, metrics in table.items():
        one = metrics["average_precision"]
        expected = [t["macro"][name]["average_precision"].value for t in (ours, theirs)]
        assert one.value == pytest.approx(expected[0] - expected[1])
        assert one.low < one.value < one.high
        assert one.p < 0.02
    nothing = paired_over_sites(good, good, targets, np.arange(300), sites, findings, **options)
    assert {m["average_precision"].p for m in nothing.values()} == {1.0}


def test_a_figure_that_one_seed_lacks_is_the_mean_of_the_others():
    values = np.array([[[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]], np.full((6, 1), np.nan)])
    sample = resample(lambda w: np.stack([w @ values[k] / w.sum(1)[:, None] for k in (0, 1)], 1), np.arange(6), 50, 0)
    assert sample.values == pytest.approx([2 / 3])
    assert not np.isnan(sample.resamples).any()


def test_one_seed_one_result():
    scores, targets = sample(100, 1)
    first, again, other = (
        evaluate_classification(scores, targets, np.arange(100), ["Mass"], resamples=50, seed=s) for s in (1, 1, 2)
    )
    assert first["Mass"]["auroc"].low == again["Mass"]["auroc"].low
    assert first["Mass"]["auroc"].low != other["Mass"]["auroc"].low


def test_refuses_what_does_not_fit():
    scores, targets = sample(10, 2)
    with pytest.raises(DataError, match="finding names"):
        evaluate_classification(scores, targets, np.arange(10), ["Mass"])
    with pytest.raises(DataError, match="finding names"):
        evaluate_classification(scores, targets, np.arange(10), ["Mass", "macro"])
    with pytest.raises(DataError, match="patients"):
        evaluate_classification(scores, targets, np.arange(9), ["Mass", "Edema"])
    with pytest.raises(DataError, match="seeds"):
        evaluate_classification(scores[0], targets, np.arange(10), ["Mass", "Edema"])
    with pytest.raises(DataError, match="at least one image"):
        evaluate_classification(scores[:0], targets[:0], [], ["Mass", "Edema"])
    with pytest.raises(DataError, match="site names"):
        evaluate_sites(scores, targets, np.arange(10), ["macro"] * 10, ["Mass", "Edema"])
    with pytest.raises(UnknownName, match="auroc"):
        evaluate_classification(scores, targets, np.arange(10), ["Mass", "Edema"], metrics=["auroq"])


def test_groups_of_findings_are_means_and_an_empty_one_is_absent():
    scores, targets = sample(200, 3)
    tables = evaluate_sites(
        scores,
        targets,
        np.arange(200),
        ["north"] * 200,
        ["Mass", "Edema", "Hernia"],
        resamples=50,
        groups={"head": ["Mass", "Hernia"], "medium": [], "tail": ["Edema"]},
    )
    each = average_precision(scores, targets)
    found = {name: row["average_precision"] for name, row in tables["north"].items()}
    assert found["head"].value == pytest.approx((each[0] + each[2]) / 2)
    assert (found["head"].findings, found["head"].n) == (2, 400)
    assert found["tail"].low == found["Edema"].low
    assert "medium" not in found
    assert tables["macro"]["head"]["auroc"].value == pytest.approx(tables["north"]["head"]["auroc"].value)


def test_a_class_of_few_patients_has_no_interval_and_no_part_in_a_mean_that_has_one():
    scores, targets = sample(200, 2)
    targets[:, 0] = 1
    targets[3, 0] = 0
    table = evaluate_classification(scores, targets, np.arange(200), ["Tuberculosis", "Mass"], resamples=100)
    few, macro_ = table["Tuberculosis"]["auroc"], table["macro"]["auroc"]
    assert few.value == pytest.approx(auroc(scores, targets)[0])
    assert np.isnan([few.low, few.high]).all()
    assert macro_.findings == 1
    assert (macro_.value, macro_.low) == (table["Mass"]["auroc"].value, table["Mass"]["auroc"].low)
    alone = evaluate_classification(scores[:, :1], targets[:, :1], np.arange(200), ["Tuberculosis"], resamples=100)
    assert alone["macro"]["auroc"].value == few.value
    assert np.isnan(alone["macro"]["auroc"].low)
    other = paired_difference(scores, -scores, targets, np.arange(200), ["Tuberculosis", "Mass"], resamples=100)
    assert np.isnan(other["Tuberculosis"]["auroc"].p)
    targets[:6, 0] = 0
    one = np.maximum(np.arange(200), 5)
    same = evaluate_classification(scores, targets, one, ["Tuberculosis", "Mass"], resamples=100)
    assert np.isnan(same["Tuberculosis"]["auroc"].low)
    assert not np.isnan(same["Mass"]["auroc"].low)
    assert np.isnan(delong(scores, targets, one, ["Tuberculosis", "Mass"])["Tuberculosis"].p)
    assert too_few(targets, one).tolist() == [True, False]
    assert not too_few(targets, np.arange(200)).any()
    enough = evaluate_classification(scores, targets, np.arange(200), ["Tuberculosis", "Mass"], resamples=100)
    assert not np.isnan(enough["Tuberculosis"]["auroc"].low)
