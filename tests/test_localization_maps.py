"""Maps on images: smoothing, padding cut away, values in [0, 1]."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from hilum.localization.maps import maps_on_images

WHOLE = np.array([[0, 0, 1, 1]], np.float32)


def test_the_same_grid_gives_the_cells_back() -> None:
    cells = np.random.default_rng(0).random((3, 2, 5, 4)).astype(np.float32)
    maps = maps_on_images(cells, WHOLE.repeat(3, 0), (5, 4), 0.0)
    np.testing.assert_allclose(maps, cells, atol=1e-6)
    assert maps.dtype == np.float32


def test_a_cell_lands_where_it_is_on_an_image_that_does_not_fill_the_square() -> None:
    cells = np.zeros((1, 1, 8, 8), np.float32)
    cells[0, 0, 2, 5] = 1.0
    maps = maps_on_images(cells, np.array([[0.25, 0, 0.75, 1]], np.float32), (80, 40), 0.0)
    y, x = np.argwhere(maps[0, 0] > 0.9 * maps.max()).mean(0)
    np.testing.assert_allclose([(y + 0.5) / 80, (x + 0.5) / 40], [2.5 / 8, (5.5 - 2) / 4], atol=0.01)


def test_smoothing_is_gaussian_within_each_map_and_weakens_a_peak_on_the_border() -> None:
    cells = np.zeros((2, 2, 9, 9), np.float32)
    cells[0, 0, 4, 4] = cells[0, 1, 0, 4] = 1.0
    maps = maps_on_images(cells, WHOLE.repeat(2, 0), (9, 9), 1.0)
    np.testing.assert_allclose(maps[0, 0], gaussian_filter(cells[0, 0], 1.0), atol=1e-6)
    assert not maps[1].any()
    region = np.zeros((1, 2, 9, 9), np.float32)
    region[0, 0, 0, 4] = 1.0
    region[0, 1, 3:6, 3:6] = 0.7
    border, centre = maps_on_images(region, WHOLE, (9, 9), 1.0)[0].max((1, 2))
    assert centre > border
    assert 0 <= maps.min() <= maps.max() <= 1
