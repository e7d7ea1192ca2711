"""Average precision and FROC of detections, by hand, against plain loops, and under weights."""

import numpy as np
import pytest

from hilum.errors import DataError
from hilum.evaluation.detection import detection_ap, froc, match_boxes, match_points
from hilum.localization.components import Detections

LEFT, RIGHT = [0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]


def found(*rows):
    """Detections of (score, box); each peaks in the middle of its box."""
    boxes = np.array([box for _, box in rows], dtype=float).reshape(-1, 4)
    return Detections(boxes, np.array([s for s, _ in rows], dtype=float), (boxes[:, :2] + boxes[:, 2:]) / 2)


THREE = [
    found((0.9, LEFT), (0.5, RIGHT), (0.3, LEFT)),  # a hit, a false alarm, the same box again
    found((0.7, [0.4, 0, 0.6, 1])),  # a false alarm on an image without boxes
    found((0.6, RIGHT)),  # a hit; the other box is missed
]
TRUE = [[LEFT], [], [LEFT, RIGHT]]


def random_scene(rng, images=20):
    corner = rng.random((images, 3, 2)) * 0.5
    boxes = [np.concatenate([c, c + 0.3], axis=1)[: rng.integers(0, 4)] for c in corner]
    marks = rng.random((images, 4, 2)) * 0.6
    scores = rng.integers(0, 12, (images, 4)) / 12
    return [
        found(*zip(s, np.concatenate([m, m + 0.3], axis=1), strict=True)) for s, m in zip(scores, marks, strict=True)
    ], boxes


def test_average_precision_by_hand():
    """0.9 hit, 0.7 false, 0.6 hit: recall 1/3 at precision 1, 2/3 at precision 2/3, then false alarms only."""
    marks = match_boxes(THREE, TRUE, 0.5)
    np.testing.assert_array_equal(marks.hits, [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(marks.false, [0, 1, 0, 1, 1])
    assert detection_ap(marks) == pytest.approx([1 / 3 + 1 / 3 * 2 / 3])


def test_a_better_precision_further_down_counts_above():
    marks = match_boxes([found((0.9, RIGHT)), found((0.8, LEFT)), found((0.7, LEFT))], [[LEFT]] * 3, 0.5)
    assert detection_ap(marks) == pytest.approx([2 / 3 * 2 / 3])


def test_the_overlap_decides():
    half = [found((0.9, [0.0, 0.0, 0.4, 0.4]))]
    assert detection_ap(match_boxes(half, [[LEFT]], 0.3)) == 1
    assert detection_ap(match_boxes(half, [[LEFT]], 0.5)) == 0


def test_froc_by_hand():
    """Points: 0.9 hits, 0.7 and 0.5 are false alarms of three images, 0.6 hits, 0.3 repeats a hit: nothing."""
    marks = match_points(THREE, TRUE)
    np.testing.assert_array_equal(marks.hits, [1, 0, 1, 0, 0])
    np.testing.assert_array_equal(marks.false, [0, 1, 0, 1, 0])
    np.testing.assert_allclose(froc(marks, [0.1, 0.34, 2.0]), [[1 / 3, 2 / 3, 2 / 3]])


def test_one_point_in_two_boxes_finds_both():
    both = [found((0.9, [0.2, 0.2, 0.6, 0.6]))]
    np.testing.assert_allclose(froc(match_points(both, [[LEFT, [0.3, 0.3, 0.9, 0.9]]]), [0.0]), [[1.0]])


def test_detections_of_one_score_are_called_together():
    marks = match_boxes([found((0.5, LEFT)), found((0.5, RIGHT))], [[LEFT], []], 0.5)
    assert detection_ap(marks) == pytest.approx([0.5])
    turned = match_boxes([found((0.5, RIGHT)), found((0.5, LEFT))], [[], [LEFT]], 0.5)
    assert detection_ap(turned) == pytest.approx([0.5])


def test_a_weight_is_a_repeated_image():
    rng = np.random.default_rng(0)
    detections, boxes = random_scene(rng)
    weights = rng.integers(0, 4, (5, len(boxes)))
    for marks_of, figure in (
        (lambda d, b: match_boxes(d, b, 0.3), detection_ap),
        (match_points, lambda marks, weights=None: froc(marks, weights=weights)),
    ):
        whole = figure(marks_of(detections, boxes), weights=weights)
        for k, w in enumerate(weights):
            repeated = [(d, b) for d, b, n in zip(detections, boxes, w, strict=True) for _ in range(n)]
            np.testing.assert_allclose(whole[k], figure(marks_of(*zip(*repeated, strict=True)))[0], atol=1e-12)
        assert (whole[:, None] != whole[0]).any()


def test_agrees_with_a_walk_down_the_list():
    """Oracle: thresholds one by one, detections and images in Python loops."""
    detections, boxes = random_scene(np.random.default_rng(1))
    levels = sorted({float(s) for d in detections for s in d.scores}, reverse=True)
    total = sum(map(len, boxes))
    curve = []
    for level in levels:
        hits = false = 0
        for d, b in zip(detections, boxes, strict=True):
            inside = [
                {j for j, (x0, y0, x1, y1) in enumerate(b) if x0 <= x <= x1 and y0 <= y <= y1}
                for s, (x, y) in zip(d.scores, d.points, strict=True)
                if s >= level
            ]
            hits += len(set().union(*inside))
            false += sum(not one for one in inside)
        curve.append((false / len(boxes), hits / total))
    expected = [max((share for rate, share in curve if rate <= r), default=0) for r in (0.25, 0.5, 1, 2, 4)]
    np.testing.assert_allclose(froc(match_points(detections, boxes), (0.25, 0.5, 1, 2, 4))[0], expected)


def test_nothing_to_find_or_nothing_found():
    nothing = match_boxes(THREE, [[], [], []], 0.5)
    assert np.isnan(detection_ap(nothing)).all()
    assert np.isnan(froc(match_points(THREE, [[], [], []]))).all()
    silent = [found(), found(), found()]
    assert detection_ap(match_boxes(silent, TRUE, 0.5)) == 0
    assert (froc(match_points(silent, TRUE)) == 0).all()


def test_refuses_other_images():
    with pytest.raises(DataError, match="same images"):
        match_boxes(THREE, TRUE[:2], 0.5)
