"""Embeddings: exact in a plane, signs fixed; typical and foreign images are those that were planted."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from hilum.errors import DataError
from hilum.shift.embedding import sample_embedding, site_embedding, typical_and_foreign


def test_sites_of_a_plane_keep_their_distances():
    places = np.random.default_rng(0).normal(size=(6, 2))
    points = site_embedding(cdist(places, places))
    np.testing.assert_allclose(cdist(points, points), cdist(places, places), atol=1e-9)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    assert points[:, 0].std() >= points[:, 1].std()
    assert (points[np.abs(points).argmax(axis=0), [0, 1]] > 0).all()


def test_few_sites_and_distances_that_are_not_euclidean():
    np.testing.assert_array_equal(site_embedding([[0.0]]), [[0, 0]])
    two = site_embedding([[0, 3], [3, 0]])
    assert abs(two[0, 0] - two[1, 0]) == pytest.approx(3)
    np.testing.assert_allclose(two[:, 1], 0, atol=1e-6)
    odd = site_embedding([[0, 1, 1, 9], [1, 0, 1, 1], [1, 1, 0, 1], [9, 1, 1, 0]])
    assert np.isfinite(odd).all()


def test_images_are_placed_by_principal_components():
    x = np.random.default_rng(1).normal(size=(50, 7)) * np.arange(1, 8)
    found, oracle = sample_embedding(x), PCA(2).fit_transform(x)
    np.testing.assert_allclose(np.abs(found), np.abs(oracle), atol=1e-9)
    assert (found[np.abs(found).argmax(axis=0), [0, 1]] > 0).all()
    assert sample_embedding(x[:, :1])[:, 1].tolist() == [0] * 50


def test_planted_strangers_are_found():
    rng = np.random.default_rng(2)
    centres = {"north": 0.0, "south": 4.0, "west": -4.0}
    features = {name: rng.normal(size=(120, 5)) + shift * np.eye(5)[0] for name, shift in centres.items()}
    patients = {name: np.repeat(np.arange(60), 2) for name in centres}
    features["north"][:4] += [4, 0, 0, 0, 0]
    found = typical_and_foreign(features, patients, count=4)
    assert list(found) == ["north", "south", "west"]
    assert {e.row for e in found["north"].foreign} == {0, 1, 2, 3}
    assert {e.site for e in found["north"].foreign} == {"south"}
    assert all(e.site == "west" and e.probability > 0.9 for e in found["west"].typical)
    probabilities = [e.probability for e in found["south"].typical]
    assert probabilities == sorted(probabilities, reverse=True)
    assert found == typical_and_foreign(dict(reversed(features.items())), patients, count=4)


def test_refuses_what_does_not_fit():
    for distances in ([[0, 1]], [[0, np.nan], [np.nan, 0]], [[0, 1], [2, 0]], [[1, 1], [1, 1]]):
        with pytest.raises(DataError, match="distances"):
            site_embedding(distances)
    with pytest.raises(DataError, match="2 sites"):
        typical_and_foreign({"north": np.zeros((9, 2))}, {"north": np.arange(9)})
