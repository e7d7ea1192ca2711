"""Cells of the padded square → maps that cover the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hilum.images.letterbox import sample_map_on_image


def maps_on_images(
    cells: NDArray[np.float32], frames: NDArray[np.float32], grid: tuple[int, int], smoothing: float
) -> NDArray[np.float32]:
    """Smooth cell maps and resample them onto a grid that covers each image.

    Shapes: ``cells`` (N, C, h, w) over the padded square; ``frames`` (N, 4); result (N, C, *grid) in [0, 1].
    ``smoothing``: s.d. in cells of a Gaussian (0 is none) that counts nothing outside the square, so that a
    lone peak on the border, where the trunk sees padding, does not outweigh a region.
    """
    if smoothing > 0:
        cells = gaussian_filter(cells, (0, 0, smoothing, smoothing), mode="constant", cval=0.0)
    return np.clip(sample_map_on_image(cells, frames, grid), 0, 1).astype(np.float32)
