"""The table of pairs: what it holds, that order does not matter, that no site is too small to be listed."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hilum.errors import DataError
from hilum.shift import measures
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
    return pairwise(*data, measures=tuple(MEASURES), permutations=49, epsilon=8.0, noise=np.random.default_rng(0))


def test_every_measure_of_every_pair_and_every_control(table):
    frame = table.frame()
    assert len(frame) == len(MEASURES) * 6 - len(PRIVATE) * 3  # noisy halves would cost again
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
        assert len(controls) == (0 if measure in PRIVATE else 3)
        assert max(controls, default=0) < table.matrix(measure).max(), measure
    assert {c.site_b for c in table.controls("mmd").values()} == set(SHIFTS)


def test_order_of_sites_and_other_measures_do_not_matter(data, table):
    features, patients = ({name: d[name] for name in sorted(d)} for d in data)
    for measure in ("a_distance_linear", "emd", "mmd"):
        again = pairwise(features, patients, measures=[measure], permutations=49)
        assert again.sites == ("north", "south", "west")
        first = {(r.site_a, r.site_b): r.value for r in table.records if r.measure == measure}
        second = {(r.site_a, r.site_b): r.value for r in again.records}
        assert list(first) == list(second)
        assert first == second
    other = pairwise(features, patients, measures=["a_distance_linear"], seed=1)
    assert [r.value for r in other.records] != [r.value for r in table.records if r.measure == "a_distance_linear"]


def test_one_noisy_summary_serves_emd_and_mmd_and_every_draw_is_new(data, monkeypatch):
    drawn = []
    release = measures.add_noise
    monkeypatch.setattr(measures, "add_noise", lambda *args, **options: drawn.append(1) or release(*args, **options))
    found = [pairwise(*data, measures=tuple(PRIVATE), epsilon=1.0) for _ in range(2)]
    assert len(drawn) == 2 * 3
    for measure in PRIVATE:
        assert not np.isclose(found[0].matrix(measure), found[1].matrix(measure))[np.triu_indices(3, 1)].all()
    for record in found[0].records:
        assert (record.n_a, record.n_b) == tuple(len(set(data[1][s])) for s in (record.site_a, record.site_b))


def test_noise_of_one_site_differs_between_kinds_of_features(data):
    """The difference of two kinds' summaries holds the noise of both, none of it cancelled."""
    features, patients = data
    seen = []
    noise = np.random.default_rng(0)
    for _ in range(2):
        settings = measures.Settings(5, 0, 16, 0, 1.0, ("fourier",), noise)
        side = measures.Side(
            "south", 0, features["south"], np.unique(patients["south"], return_inverse=True)[1], settings
        )
        seen.append(side.noisy.fourier)
    gap = seen[0].total - seen[1].total
    assert gap.std() == pytest.approx(np.sqrt(2 * seen[0].noise), rel=0.3)


def test_two_sites_with_the_same_data_have_no_distance():
    rng = np.random.default_rng(3)
    x, far, who = rng.normal(size=(400, 8)), rng.normal(size=(400, 8)) + 2, np.arange(400)
    order = rng.permutation(400)
    sites = {"a": x, "b": x, "c": x[order], "far": far}
    for most in (1000, 300):
        names = ("emd", "emd_samples", "emd_partial")
        found = pairwise(sites, dict.fromkeys(sites, who), measures=names, max_images=most, controls=False)
        for name in names:
            assert found.matrix(name)[0, 1] == pytest.approx(0, abs=1e-9)
            assert found.matrix(name)[0, 2] == pytest.approx(0, abs=1e-9) or most < 400
            assert found.matrix(name)[0, 3] > 1


def test_the_partial_distance_is_that_of_the_nearest_part():
    rng = np.random.default_rng(4)
    near, elsewhere = rng.normal(size=(100, 4)), rng.normal(size=(300, 4)) + 9
    sites = {"part": near, "whole": np.vstack([near, elsewhere])}
    patients = {name: np.arange(len(x)) for name, x in sites.items()}
    found = pairwise(sites, patients, measures=["emd", "emd_partial"], k=500, controls=False)
    assert found.matrix("emd_partial")[0, 1] == pytest.approx(0, abs=1e-9)
    assert found.matrix("emd")[0, 1] > 1


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
    for epsilon in (float("inf"), float("nan"), 0.0):
        with pytest.raises(DataError, match="finite ε"):
            pairwise(features, patients, measures=["private_mmd"], epsilon=epsilon)
    with pytest.raises(DataError, match="epsilon"):
        pairwise(features, patients, measures=["private_mmd"])
    with pytest.raises(DataError, match="patients of the sites"):
        pairwise(features, {})
    with pytest.raises(DataError, match="same features"):
        pairwise({**features, "west": np.zeros((9, 2))}, {**patients, "west": np.arange(9)})
    with pytest.raises(DataError, match="measure of"):
        table.matrix("wasserstein")
