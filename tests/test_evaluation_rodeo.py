"""RoDeO by hand, and as the authors' package rodeometric 0.0.1 computes it."""

import numpy as np
import pytest

from hilum.errors import DataError
from hilum.evaluation.rodeo import rodeo_counts

BOX = [0.2, 0.2, 0.4, 0.6]
NONE = np.empty((0, 4))


def figures(predicted, true):
    """The four figures of each finding and of all."""
    return rodeo_counts(predicted, true).figures()[0]


def test_the_right_boxes_score_one():
    boxes = {"Mass": [[BOX], []], "Nodule": [[[0.6, 0.6, 0.7, 0.7]], [BOX]]}
    np.testing.assert_allclose(figures(boxes, boxes), 1)


def test_place_and_shape_by_hand():
    """Moved by one width of the true box: 2 ** -1. Half as high in the same place: a centred IoU of one half."""
    moved, lower = [0.4, 0.2, 0.6, 0.6], [0.2, 0.3, 0.4, 0.5]
    found = figures({"Mass": [[moved], [lower]]}, {"Mass": [[BOX], [BOX]]})
    np.testing.assert_allclose(found[1:, 0], [(0.5 + 1) / 2, (1 + 0.5) / 2, 1])
    np.testing.assert_allclose(found[0, 0], 3 / (1 / 0.75 + 1 / 0.75 + 1))


def test_a_box_too_many_and_one_too_few_both_cost():
    exact = {"Mass": [[BOX]]}
    many = figures({"Mass": [[BOX, [0.6, 0.6, 0.9, 0.9]]]}, exact)
    few = figures(exact, {"Mass": [[BOX, [0.6, 0.6, 0.9, 0.9]]]})
    np.testing.assert_allclose(many, 0.5)
    np.testing.assert_allclose(few, 0.5)
    np.testing.assert_allclose(figures({"Mass": [NONE]}, exact), 0)
    assert np.isnan(figures({"Mass": [NONE]}, {"Mass": [NONE]})).all()


def test_a_wrong_finding_in_the_right_place_costs_its_class_alone():
    found = figures({"Mass": [[BOX], NONE], "Nodule": [NONE, NONE]}, {"Mass": [NONE, NONE], "Nodule": [[BOX], NONE]})
    np.testing.assert_allclose(found[:, 2], [0, 1, 1, 0])
    np.testing.assert_allclose(found[:, 1], [0, 1, 1, 0])
    assert np.isnan(found[:, 0]).all()


@pytest.mark.parametrize(("images", "place", "told"), [(2, 2**-0.0625, 1), (1, 1, 0)])
def test_boxes_meet_those_of_their_finding_as_far_as_findings_of_images_are_told(images, place, told):
    """Two findings a quarter of a width apart, each found where the other is: their generalized IoU is 0.6.

    With an image that shows neither, and is told so, ω = 1 and 0.6 + 1 is more than 1; without it ω = 0.
    """
    left, right = [0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4]
    predicted, true = (
        {"Mass": [[a], NONE][:images], "Nodule": [[b], NONE][:images]} for a, b in ((left, right), (right, left))
    )
    np.testing.assert_allclose(figures(predicted, true)[1:, -1], [place, 1, told])


def test_as_the_authors_package_on_its_own_example():
    """The example of its README: boxes there are x, y, width, height."""
    predicted = {"a": [[[0.1, 0.1, 0.3, 0.2], [0.2, 0.2, 0.3, 0.3]]], "b": [[[0.0, 0.3, 0.1, 0.4]]]}
    true = {"a": [[[0.0, 0.0, 0.1, 0.1]]], "b": [[[0.0, 0.2, 0.1, 0.3]]]}
    np.testing.assert_allclose(figures(predicted, true)[:, 2], [0.354706, 0.201704, 0.5, 2 / 3], atol=1e-5)


def test_resamples_weigh_images():
    rng = np.random.default_rng(0)
    corner = rng.random((2, 2, 6, 2, 2)) * 0.5
    boxes = np.concatenate([corner, corner + 0.1 + rng.random(corner.shape) * 0.3], axis=-1)
    sides = [{f: list(part) for f, part in zip(("Mass", "Nodule"), side, strict=True)} for side in boxes]
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 0, 2]])
    drawn = [0, 0, 2, 3, 5, 5]
    counts = rodeo_counts(*sides)
    again = rodeo_counts(*({f: [b[k] for k in drawn] for f, b in side.items()} for side in sides))
    np.testing.assert_allclose(counts.figures(weights)[0], counts.figures()[0])
    np.testing.assert_allclose(counts.figures(weights)[1], again.figures()[0])


def test_refuses_other_findings():
    with pytest.raises(DataError, match="same findings"):
        rodeo_counts({"Mass": [NONE]}, {"Nodule": [NONE]})
