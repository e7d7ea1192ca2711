"""The table of pairs: what it holds, that order does not matter, that no site is too small to be listed."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hilum.errors import DataError
from hilum.shift.measures import EXACT, FEDERATED, MEASURES, PRIVATE
from hilum.shift.pairs import pairwise

SHIFTS = {"south": 0.0, "north": 0.2, "west": 1.0}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(150 + 10 * k, 6)) + s for k, (name, s) in enumerate(SHIFTS.items())}
    return features, {name: rng.integers(90, size=len(x)) for name, x in features.items()}


@pytest.fixture(scope="module")
def table(data):
    return pairwise(*data, measures=tuple(MEASURES), permutations=49, epsilon=8.0)


def test_every_measure_of_every_pair_and_every_control(table):
    frame = table.frame()
    assert len(frame) == len(MEASURES) * 6
    assert frame["value"].notna().all()
    assert (frame["note"] == "").all()
    assert table.sites == ("south", "north", "west")
    distances = frame[frame["measure"].str.contains("a_distance")]
    assert (distances["low"] <= distances["value"]).all()
    assert (distances["value"] <= distances["high"]).all()
    assert frame[frame["measure"] == "mmd"]["p_value"].between(0, 1).all()
    exact, rest = frame[frame["measure"].isin(EXACT)], frame[~frame["measure"].isin(EXACT)]
    assert exact["bytes"].isna().all()
    assert (rest["bytes"] > 0).all()
    assert (rest[rest["measure"].isin(PRIVATE)]["epsilon"] == 8).all()
    assert frame[frame["measure"].isin(FEDERATED)]["epsilon"].isna().all()


def test_the_federated_figures_are_the_exact_ones_or_near(table):
    for name in ("emd", "a_distance"):
        exact = table.matrix("emd" if name == "emd" else "a_distance_linear")
        np.testing.assert_allclose(table.matrix(f"federated_{name}"), exact, atol=1e-9)
    near, exact = table.matrix("federated_mmd"), table.matrix("mmd")
    np.testing.assert_allclose(near, exact, atol=0.01 + 0.1 * exact.max())


def test_measures_agree_on_who_is_far(table):
    pairs = np.triu_indices(3, 1)
    order = table.matrix("a_distance_linear")[pairs]
    for measure in MEASURES:
        assert spearmanr(order, table.matrix(measure)[pairs]).statistic > 0.4, measure
        controls = [c.value for c in table.controls(measure).values()]
        assert len(controls) == 3
        assert measure in PRIVATE or max(controls) < table.matrix(measure).max(), measure
    assert {c.site_b for c in table.controls("mmd").values()} == set(SHIFTS)


def test_order_of_sites_and_other_measures_do_not_matter(data, table):
    features, patients = ({name: d[name] for name in sorted(d)} for d in data)
    for measure in ("a_distance_linear", "emd", "mmd", "private_mmd"):
        options = {"epsilon": 8.0} if measure in PRIVATE else {}
        again = pairwise(features, patients, measures=[measure], permutations=49, **options)
        assert again.sites == ("north", "south", "west")
        first = {(r.site_a, r.site_b): r.value for r in table.records if r.measure == measure}
        second = {(r.site_a, r.site_b): r.value for r in again.records}
        assert list(first) == list(second)
        if measure != "private_mmd":  # alone it has the whole of ε
            assert first == second
    other = pairwise(features, patients, measures=["a_distance_linear"], seed=1)
    assert [r.value for r in other.records] != [r.value for r in table.records if r.measure == "a_distance_linear"]


def test_images_are_capped_and_equal_where_they_must_be(data):
    found = pairwise(*data, measures=["emd_samples", "mmd"], max_images=155, permutations=0, controls=False)
    sizes = {(r.site_a, r.site_b, r.measure): (r.n_a, r.n_b) for r in found.records}
    assert len(sizes) == 6
    assert sizes["north", "south", "emd_samples"] == (150, 150)
    assert sizes["north", "south", "mmd"] == (155, 150)
    assert sizes["north", "west", "mmd"] == (155, 155)


def test_a_site_too_small_is_nan_with_a_note(data):
    features, patients = dict(data[0]), dict(data[1])
    features["east"], patients["east"] = features["south"][:3], np.zeros(3)
    frame = pairwise(features, patients, measures=["a_distance_linear", "mmd", "emd"], permutations=0).frame()
    east = frame[(frame["site_a"] == "east") | (frame["site_b"] == "east")]
    missing = east[east["value"].isna()]
    assert missing["note"].str.contains("patient").all()
    assert set(missing["measure"]) == {"a_distance_linear", "mmd", "emd"}
    assert east[(east["measure"] == "emd") & (east["site_a"] != east["site_b"])]["value"].notna().all()
    assert frame[frame["site_a"] == "south"]["value"].notna().all()


def test_refuses_what_does_not_fit(data, table):
    features, patients = data
    with pytest.raises(DataError, match="found wasserstein"):
        pairwise(features, patients, measures=["wasserstein"])
    with pytest.raises(DataError, match="epsilon"):
        pairwise(features, patients, measures=["private_mmd"])
    with pytest.raises(DataError, match="patients of the sites"):
        pairwise(features, {})
    with pytest.raises(DataError, match="same features"):
        pairwise({**features, "west": np.zeros((9, 2))}, {**patients, "west": np.arange(9)})
    with pytest.raises(DataError, match="measure of"):
        table.matrix("wasserstein")
