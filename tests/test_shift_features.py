"""Features of pixels: the padding does not count, and cells are means of what they cover."""

import numpy as np
import pytest

from hilum.errors import DataError
from hilum.images.letterbox import letterbox
from hilum.shift.features import downsampled_pixels, intensity_histogram

WHOLE = np.array([[0, 0, 1, 1]], np.float32)


def squares(n=3, size=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def test_histogram_is_that_of_numpy():
    images = squares()
    found = intensity_histogram(images, WHOLE.repeat(3, 0))
    expected = [np.histogram(image, 32, (0, 256))[0] / image.size for image in images]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("bins", [1, 7, 256])
def test_any_number_of_bins_holds_every_pixel(bins):
    found = intensity_histogram(squares(), WHOLE.repeat(3, 0), bins)
    assert found.shape == (3, bins)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64)])
def test_padding_does_not_count(shape):
    image = np.random.default_rng(1).uniform(0.3, 1, shape).astype(np.float32)
    square, frame = letterbox(image, 64)
    assert intensity_histogram(square[None], [frame])[0, :8].sum() == 0
    small = downsampled_pixels(square[None], [frame])
    assert small.min() > 0.3
    assert small.mean() == pytest.approx(image.mean(), abs=0.01)


def test_cells_are_means_of_blocks():
    image = squares(2, 48)
    expected = image.reshape(2, 16, 3, 16, 3).mean(axis=(2, 4)).reshape(2, -1) / 255
    found = downsampled_pixels(image, WHOLE.repeat(2, 0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_pixel_on_an_edge_counts_by_its_part():
    ramp = np.arange(6, dtype=np.uint8)[None, :].repeat(6, 0)[None]
    found = downsampled_pixels(ramp, WHOLE, side=4).reshape(4, 4)[0] * 255
    np.testing.assert_allclose(found, [1 / 3, 5 / 3, 10 / 3, 14 / 3], atol=1e-5)


def test_more_cells_than_pixels_repeats_pixels():
    image = squares(1, 8)
    found = downsampled_pixels(image, WHOLE, side=16).reshape(16, 16) * 255
    np.testing.assert_allclose(found, image[0].repeat(2, 0).repeat(2, 1), atol=1e-4)


def test_chunks_do_not_matter(monkeypatch):
    images, frames = squares(7), np.tile([0.1, 0, 0.9, 1], (7, 1))
    whole = downsampled_pixels(images, frames)
    monkeypatch.setattr("hilum.shift.features.CHUNK", 2)
    np.testing.assert_array_equal(downsampled_pixels(images, frames), whole)


def test_refuses_what_does_not_fit():
    for feature in (intensity_histogram, downsampled_pixels):
        with pytest.raises(DataError, match="uint8"):
            feature(squares().astype(np.float32), WHOLE.repeat(3, 0))
        with pytest.raises(DataError, match="frames"):
            feature(squares(), WHOLE)
        with pytest.raises(DataError, match="at least a pixel"):
            feature(squares(1), [[0.5, 0, 0.5, 1]])
    with pytest.raises(DataError, match="256 bins"):
        intensity_histogram(squares(1), WHOLE, 300)
    with pytest.raises(DataError, match="side"):
        downsampled_pixels(squares(1), WHOLE, 0)
