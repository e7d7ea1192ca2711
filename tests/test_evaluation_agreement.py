"""Maps that follow the weights and the finding, and maps that do not."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hilum.errors import DataError
from hilum.evaluation.agreement import other_findings, rank_correlation
from hilum.evaluation.controls import random_maps


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    first, second = random_maps(4, (6, 5), rng), random_maps(4, (6, 5), rng).round(1)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), expected)
    np.testing.assert_allclose(rank_correlation(first, first**3), 1)
    np.testing.assert_allclose(rank_correlation(first, -first), -1)
    assert np.isnan(rank_correlation(first, np.ones_like(first))).all()


def test_other_findings_by_hand():
    """Of two other findings one has the same map, one the map turned over: correlation 1 and -1, peak same and not."""
    heat = np.arange(6.0).reshape(1, 2, 3)
    maps = np.stack([heat, heat, -heat], axis=1)
    mean, peaks = other_findings(maps)
    np.testing.assert_allclose(mean, [[0, 0, -1]])
    np.testing.assert_allclose(peaks, [[0.5, 0.5, 0]])
    np.testing.assert_allclose(other_findings(maps[:, :2]), 1)
    assert np.isnan(other_findings(maps[:, :1])).all()


def test_other_findings_is_the_mean_over_pairs_of_maps():
    """Of more images than are ranked at once, with tied cells, and one map that is constant."""
    maps = random_maps(70 * 4, (5, 6), np.random.default_rng(1)).round(1).reshape(70, 4, 5, 6)
    maps[3, 2] = 0.5
    mean, peaks = other_findings(maps.astype(np.float32))
    cells = maps.reshape(70, 4, 30).argmax(axis=2)
    for finding in range(4):
        others = [k for k in range(4) if k != finding]
        pairs = np.stack([rank_correlation(maps[:, finding], maps[:, k]) for k in others])
        known = ~np.isnan(pairs)
        with np.errstate(invalid="ignore"):
            expected = np.where(known, pairs, 0).sum(axis=0) / known.sum(axis=0)
        np.testing.assert_allclose(mean[:, finding], expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(peaks[:, finding], (cells[:, others] == cells[:, [finding]]).mean(axis=1))


def test_a_constant_map_is_left_out():
    heat = np.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_allclose(other_findings(np.stack([heat, heat, heat * 0], axis=1))[0], [[1, 1, np.nan]])


def test_refuses_maps_of_other_shapes():
    with pytest.raises(DataError, match="two maps"):
        rank_correlation(np.ones((2, 3, 3)), np.ones((2, 3, 4)))
