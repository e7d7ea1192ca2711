"""Thresholds of validation patients: the best of a grid, Otsu's where there are few; Youden's cut by hand."""

import numpy as np
import pytest

from hilum.evaluation.boxes import cover
from hilum.evaluation.maps import iou
from hilum.evaluation.thresholds import CUTS, tune_threshold, youden_cut

BOX = np.array([[0.25, 0.25, 0.75, 0.75]])


def cones(level, count=12):
    """Maps whose cells reach ``level`` exactly on the box, and fall off outside of it."""
    inside = cover(BOX, (8, 8)) > 0
    heat = np.where(inside, level, level - 0.2)
    heat[4, 4], heat[0, 0] = 1.0, 0.0
    return np.repeat(heat[None], count, axis=0)


@pytest.mark.parametrize("level", [0.4, 0.6, 0.8])
def test_the_tuned_threshold_has_the_highest_mean_iou(level):
    maps, boxes = cones(level), [BOX] * 12
    chosen = tune_threshold(maps, boxes)
    assert level - 0.2 < chosen <= level + 1e-9
    means = [iou(maps, boxes, cut).mean() for cut in CUTS]
    assert iou(maps, boxes, chosen).mean() == max(means) == pytest.approx(1.0)


def test_seeds_share_a_threshold_and_images_without_boxes_do_not_count():
    maps, boxes = cones(0.6), [BOX] * 12
    beside = np.concatenate([maps, cones(0.2)])
    assert tune_threshold(beside, [*boxes, *[[]] * 12]) == tune_threshold(maps, boxes)
    assert tune_threshold(np.stack([maps, maps]), boxes) == tune_threshold(maps, boxes)


def test_few_images_with_boxes_leave_it_to_otsu():
    assert tune_threshold(cones(0.6), [*[BOX] * 9, *[[]] * 3]) == "otsu"


def test_youden_by_hand():
    assert youden_cut([0.9, 0.6, 0.5, 0.2, 0.8], [1, 1, 0, 0, np.nan]) == 0.6
    assert youden_cut([0.9, 0.3, 0.5, 0.2], [1, 1, 0, 0]) == 0.9
    assert np.isnan(youden_cut([0.9, 0.6], [1, 1]))
