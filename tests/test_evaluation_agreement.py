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
    mean, peaks = other_findings(maps, 0)
    np.testing.assert_allclose([mean[0], peaks[0]], [0, 0.5])
    np.testing.assert_allclose([v[0] for v in other_findings(maps, 2)], [-1, 0])
    np.testing.assert_allclose([v[0] for v in other_findings(maps[:, :2], 0)], [1, 1])
    assert np.isnan(other_findings(maps[:, :1], 0)).all()


def test_a_constant_map_is_left_out():
    heat = np.arange(6.0).reshape(1, 2, 3)
    assert other_findings(np.stack([heat, heat, heat * 0], axis=1), 0)[0] == 1


def test_refuses_maps_of_other_shapes():
    with pytest.raises(DataError, match="two maps"):
        rank_correlation(np.ones((2, 3, 3)), np.ones((2, 3, 4)))
