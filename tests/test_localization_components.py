"""Masks and boxes of maps: Otsu's threshold against a search over all cuts, components with their scores."""

import numpy as np
import pytest

from hilum.errors import DataError
from hilum.evaluation.controls import random_maps
from hilum.localization.components import BINS, detect, masks, normalise, otsu


def variance_between(heat, cut):
    """The oracle, from the two groups themselves: the weighted variance of their mean bins."""
    bins = np.minimum((heat * BINS).astype(int), BINS - 1).ravel()
    low, high = bins[bins < cut], bins[bins >= cut]
    return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0


def test_otsu_parts_the_cells_better_than_any_other_cut():
    maps = random_maps(6, (9, 7), np.random.default_rng(0)) ** 2
    for heat, cut in zip(maps, otsu(maps), strict=True):
        every = [variance_between(heat, c) for c in range(1, BINS)]
        assert variance_between(heat, round(cut * BINS)) == pytest.approx(max(every))


def test_otsu_of_two_groups_lies_between_them_and_cuts_a_mask():
    heat = np.array([[[0.0, 0.1, 0.1, 0.9, 1.0, 0.9]], [[0.5] * 6]])
    cuts = otsu(normalise(heat))
    assert 0.1 < cuts[0] <= 0.9
    np.testing.assert_array_equal(masks(heat, "otsu")[:, 0], [[0, 0, 0, 1, 1, 1], [0] * 6])


def test_a_mask_keeps_cells_at_its_threshold_of_the_maps_own_range():
    heat = np.array([[[2.0, 3.0, 4.0]]])
    np.testing.assert_array_equal(masks(heat, 0.5)[0, 0], [False, True, True])


def test_detections_score_probability_times_heat():
    heat = np.zeros((2, 4, 8))
    heat[0, 0, :2], heat[0, 0, 1], heat[0, 3, 7] = 0.9, 1.0, 0.6
    found, none = detect(heat, [0.5, 0.9], 0.5)
    np.testing.assert_allclose(found.boxes, [[0, 0, 0.25, 0.25], [0.875, 0.75, 1, 1]])
    np.testing.assert_allclose(found.scores, [0.5, 0.3])
    np.testing.assert_allclose(found.points, [[0.1875, 0.125], [0.9375, 0.875]])
    assert (none.boxes.shape, none.scores.shape, none.points.shape) == ((0, 4), (0,), (0, 2))


def test_a_cell_at_the_threshold_is_detected():
    (found,) = detect(np.array([[[0.0, 0.5, 0.25, 1.0]]]), [1.0], 0.5)
    np.testing.assert_allclose(found.boxes, [[0.25, 0, 0.5, 1], [0.75, 0, 1, 1]])


@pytest.mark.parametrize("threshold", [0, 1.5, -0.1, float("nan"), "Otsu"])
def test_refuses_a_threshold_that_is_none(threshold):
    with pytest.raises(DataError, match="above 0 and at most 1, or 'otsu'"):
        masks(np.ones((1, 2, 2)), threshold)
