"""DeLong against its definition, Holm by hand, Nemenyi against the table of Demšar (2006)."""

import doctest

import numpy as np
import pytest
from scipy.stats import friedmanchisquare
from scipy.stats import t as student

from hilum.errors import DataError
from hilum.evaluation import significance
from hilum.evaluation.bootstrap import resample
from hilum.evaluation.classification import auroc
from hilum.evaluation.delong import delong
from hilum.evaluation.long_tail import tail_groups
from hilum.evaluation.significance import friedman_nemenyi, holm


def arms(n=80, seed=0, findings=1):
    rng = np.random.default_rng(seed)
    t = (rng.random((n, findings)) < 0.35).astype(float)
    shared = rng.normal(size=t.shape)
    return tuple((0.8 * t + shared + rng.normal(size=t.shape)).round(1) for _ in range(2)), t


def u_components(scores, targets):
    """Each positive's and each negative's share of pairs won, from all pairs."""
    won = (scores[targets == 1][:, None] > scores[targets == 0]) + 0.5 * (
        scores[targets == 1][:, None] == scores[targets == 0]
    )
    return won.mean(axis=1), won.mean(axis=0)


def test_one_image_a_patient_is_delongs_covariance():
    """DeLong et al. 1988, equations 4 to 6: S10 / m + S01 / n of the components, from all pairs, with ties."""
    (a, b), t = arms()
    parts = [u_components(s[:, 0], t[:, 0]) for s in (a, b)]
    m, n = len(parts[0][0]), len(parts[0][1])
    covariance = sum(np.cov([p[k] for p in parts]) / size for k, size in ((0, m), (1, n)))
    alone = delong(a, t, np.arange(80), ["Mass"])["Mass"]
    assert alone.value == pytest.approx(auroc(a, t)[0])
    assert alone.error**2 == pytest.approx(covariance[0, 0])
    pair = delong(a, t, np.arange(80), ["Mass"], b)["Mass"]
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert pair.error == pytest.approx(error)
    assert pair.value == pytest.approx(auroc(a, t)[0] - auroc(b, t)[0])
    fewest = min(m, n) - 1
    assert pair.p == pytest.approx(2 * student.sf(abs(pair.value) / error, fewest))
    assert pair.high - pair.value == pytest.approx(student.ppf(0.975, fewest) * error)


def test_images_of_one_patient_are_one_witness():
    """Obuchowski 1997: copies do not narrow it; a patient with both classes adds their covariance."""
    (a, _), t = arms()
    once = delong(a, t, np.arange(80), ["Mass"])["Mass"]
    copied = delong(*(np.repeat(v, 3, axis=0) for v in (a, t, np.arange(80))), ["Mass"])["Mass"]
    assert copied.error == pytest.approx(once.error)
    who = np.arange(80) // 4
    clustered = delong(a, t, who, ["Mass"])["Mass"]
    boot = resample(lambda w: auroc(a, t, w)[:, None], who, 3000, 0)
    assert clustered.error == pytest.approx(np.nanstd(boot.resamples), rel=0.12)


def test_macro_and_seeds_are_means_of_the_components():
    (a, b), t = arms(findings=2)
    names = ["Mass", "Edema"]
    found = delong(np.stack([a, b]), t, np.arange(80) // 2, names)
    assert found["macro"].value == pytest.approx((auroc(a, t) + auroc(b, t)).mean() / 2)
    assert found["macro"].error < max(found[f].error for f in names)
    boot = resample(
        lambda w: np.stack([auroc(s, t, w).mean(axis=1) for s in (a, b)], 1)[..., None], np.arange(80) // 2, 3000, 1
    )
    assert found["macro"].error == pytest.approx(np.nanstd(boot.resamples), rel=0.12)


def test_the_same_scores_do_not_differ_and_too_few_patients_tell_nothing():
    (a, _), t = arms(findings=2)
    same = delong(a, t, np.arange(80), ["Mass", "Edema"], a)
    assert [(d.value, d.error, d.p) for d in same.values()] == [(0, 0, 1)] * 3
    t[:, 1] = 0
    t[0, 1] = 1
    lone = delong(a, t, np.arange(80), ["Mass", "Edema"])
    assert np.isnan(lone["Edema"].p)
    assert np.isnan(delong(a, t, np.arange(80), ["Mass", "Edema"], a)["Edema"].p)  # no difference is no evidence
    assert lone["macro"].value == lone["Mass"].value


def test_p_values_are_uniform_where_nothing_differs():
    p = [delong(a, t, np.arange(80), ["Mass"], b)["Mass"].p for (a, b), t in (arms(seed=s) for s in range(150))]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.1)


def test_few_patients_prove_no_more_than_they_can():
    """Twenty findings that nothing tells: any false finding after Holm in one family of twenty, or so."""
    rng, findings = np.random.default_rng(0), [str(k) for k in range(20)]
    for positive, negative in ((5, 50), (20, 100)):
        count = positive + negative
        targets = np.repeat(np.arange(count)[:, None] < positive, 20, axis=1).astype(float)
        chance, apart = [], []
        for _ in range(40):
            a, b = rng.normal(size=(2, count, 20))
            for p, against in ((chance, None), (apart, b)):
                found = delong(a, targets, np.arange(count), findings, against)
                p.append(holm([found[f].p for f in findings]).min() < 0.05)
        assert np.mean(chance) <= 0.15
        assert np.mean(apart) <= 0.15


def test_against_chance_the_better_ranking_has_the_smaller_p_and_a_constant_none():
    targets = np.repeat([1.0, 0.0], 5)[:, None]
    orders = ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [9, 8, 7, 6, 4, 5, 3, 2, 1, 0], [1] * 10)
    best, next_, same = (
        delong(np.array(order, float)[:, None], targets, np.arange(10), ["Mass"])["Mass"].p for order in orders
    )
    assert best == pytest.approx(2 / 252)
    assert best < next_ < 0.03
    assert same == 1


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([np.nan, 0.5, 0.9]), [np.nan, 1, 1])
    assert holm([]).shape == (0,)
    assert doctest.testmod(significance).failed == 0


DEMSAR = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


@pytest.mark.parametrize(("arms", "q"), DEMSAR.items())
def test_critical_differences_are_those_of_the_table(arms, q):
    found = friedman_nemenyi(np.random.default_rng(0).random((14, arms)), [str(k) for k in range(arms)])
    assert found.critical_difference == pytest.approx(q * np.sqrt(arms * (arms + 1) / (6 * 14)), abs=6e-4)


def test_ranks_and_pairs():
    """Three arms in four blocks, one of them always best; ties share a rank."""
    values = np.array([[0.9, 0.5, 0.4], [0.8, 0.6, 0.6], [0.7, 0.2, 0.3], [0.9, 0.1, 0.0]])
    found = friedman_nemenyi(values, ["a", "b", "c"])
    np.testing.assert_allclose(found.ranks, [1, 2.375, 2.625])
    assert found.p == friedmanchisquare(*values.T).pvalue
    assert found.blocks == 4
    np.testing.assert_allclose(found.pairs, found.pairs.T)
    apart = np.abs(found.ranks[:, None] - found.ranks) >= found.critical_difference
    np.testing.assert_array_equal(apart, found.pairs < 0.05)
    assert np.isnan(friedman_nemenyi(np.ones((3, 3)), ["a", "b", "c"]).p)


@pytest.mark.parametrize("values", [np.ones((3, 2)), np.ones((1, 3)), np.full((3, 3), np.nan), np.ones(3)])
def test_refuses_what_cannot_be_ranked(values):
    names = ["a", "b", "c"][: np.shape(values)[-1]]
    with pytest.raises(DataError, match="at least 2 blocks and 3 arms"):
        friedman_nemenyi(values, names)


def test_groups_by_training_counts():
    counts = {"Effusion": 1001, "Mass": 1000, "Hernia": 99, "Edema": 100}
    assert tail_groups(counts) == {"head": ["Effusion"], "medium": ["Mass", "Edema"], "tail": ["Hernia"]}
