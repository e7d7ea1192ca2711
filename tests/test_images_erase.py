"""Erased parts of a film: filled from around, never beyond the image, with an equal part elsewhere as a control."""

import numpy as np
import pytest

from hilum.errors import DataError
from hilum.images.erase import MIDDLE, erase, mirrored

ROWS, COLUMNS = np.mgrid[:64, :64]
SLOPE = (COLUMNS + 2 * ROWS).astype(np.uint8)


def boxed(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0 / 64, y0 / 64, x1 / 64, y1 / 64]]


@pytest.mark.parametrize("box", [(10, 20, 20, 30), (1, 1, 63, 63), (40, 5, 41, 6)])
def test_a_lesion_on_a_slope_leaves_the_slope(box: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = box
    spotted = SLOPE.copy()
    spotted[y0:y1, x0:x1] = 255
    before = spotted.copy()
    np.testing.assert_array_equal(erase(spotted, boxed(*box)), SLOPE)
    np.testing.assert_array_equal(spotted, before)


def test_nothing_outside_the_box_changes() -> None:
    film = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    filled = erase(film, [MIDDLE])
    inside = np.zeros((64, 64), dtype=bool)
    inside[6:58, 6:58] = True
    np.testing.assert_array_equal(filled[~inside], film[~inside])
    assert (filled[inside] != film[inside]).mean() > 0.9


def test_a_box_counts_in_the_image_and_is_filled_from_it_alone() -> None:
    """The image is the middle half of the square, grey on black; a box at its left border takes no black."""
    film = np.zeros((64, 64), dtype=np.uint8)
    film[:, 16:48] = 100
    film[20:30, 16:24] = 250
    expected = np.where(film == 250, 100, film)
    frame = (0.25, 0, 0.75, 1)
    np.testing.assert_array_equal(erase(film, [[0, 20 / 64, 0.25, 30 / 64]], frame), expected)
    np.testing.assert_array_equal(erase(expected, [[0, 0.2, 1, 0.4]], frame), expected)
    with pytest.raises(DataError, match="smaller than the image"):
        erase(film, [[0, 0, 1, 1]], frame)


def test_the_control_is_the_mirrored_place() -> None:
    placed, found = mirrored([[0.1, 0.3, 0.3, 0.5]], [[0.1, 0.3, 0.3, 0.5]])
    np.testing.assert_allclose(placed, [[0.7, 0.3, 0.9, 0.5]])
    assert found.all()


def test_a_control_keeps_off_true_boxes_and_other_controls() -> None:
    true = np.array([[0.1, 0.3, 0.3, 0.5], [0.15, 0.35, 0.35, 0.55], [0.7, 0.3, 0.9, 0.5]])
    placed, found = mirrored(true, true)
    assert found.all()
    np.testing.assert_allclose(placed[:, 2:] - placed[:, :2], true[:, 2:] - true[:, :2])
    every = np.concatenate([true, placed])
    for k, one in enumerate(placed, start=len(true)):
        for j, other in enumerate(every):
            if j != k:
                assert (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).min() < 1e-6


def test_a_box_without_a_free_place_has_no_control() -> None:
    heart = [[0.3, 0.4, 0.75, 0.85]]
    placed, found = mirrored(heart, heart)
    assert not found.any()
    np.testing.assert_array_equal(placed, heart)
