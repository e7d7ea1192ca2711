"""The letterbox: geometry of images, boxes and maps, there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from hilum.images.letterbox import Frame, fit, letterbox, sample_map_on_image

sides = st.integers(16, 5000)
sizes = st.integers(16, 640)
unit = st.floats(0, 1, width=32)
frames = st.builds(fit, sides, sides, sizes)


@given(sides, sides, sizes)
def test_fit_fills_the_long_side_and_keeps_the_aspect_to_half_a_pixel(width, height, size):
    x0, y0, x1, y1 = np.multiply(fit(width, height, size), size)
    scale = size / max(width, height)
    assert max(x1 - x0, y1 - y0) == pytest.approx(size)
    assert abs((x1 - x0) - max(1, width * scale)) <= 0.5 + 1e-6
    assert abs((y1 - y0) - max(1, height * scale)) <= 0.5 + 1e-6
    assert abs(x0 - (size - x1)) <= 1 + 1e-6
    assert abs(y0 - (size - y1)) <= 1 + 1e-6


@settings(max_examples=30)
@given(st.integers(16, 300), st.integers(16, 300), st.integers(16, 128))
def test_padding_is_black_and_the_image_is_not(width, height, size):
    square, frame = letterbox(np.ones((height, width), np.float32), size)
    x0, y0, x1, y1 = (round(v * size) for v in frame)
    inside = np.zeros((size, size), bool)
    inside[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(square, np.where(inside, 255, 0))


@pytest.mark.parametrize(("height", "width"), [(400, 300), (300, 400), (150, 90), (224, 224), (90, 1000)])
def test_what_a_box_marks_stays_under_the_box(height, width):
    image = np.zeros((height, width), np.float32)
    image[height // 4 : height // 2, width // 2 : 3 * width // 4] = 1
    box = [width // 2 / width, height // 4 / height, 3 * width // 4 / width, height // 2 / height]
    square, frame = letterbox(image, 224)
    corner, extent = np.array(frame[:2]), np.subtract(frame[2:], frame[:2])
    x0, y0, x1, y1 = (np.tile(corner, 2) + np.array(box) * np.tile(extent, 2)) * 224
    rows, columns = np.indices(square.shape) + 0.5
    assert np.average(columns, weights=square) == pytest.approx((x0 + x1) / 2, abs=0.6)
    assert np.average(rows, weights=square) == pytest.approx((y0 + y1) / 2, abs=0.6)
    assert square.sum() / 255 == pytest.approx((x1 - x0) * (y1 - y0), rel=0.03)


def test_shrinking_averages_and_does_not_pick():
    checkers = (np.indices((512, 512)).sum(0) % 2).astype(np.float32)
    square, _ = letterbox(checkers, 64)
    assert np.abs(square.astype(float) - 127.5).max() < 4


def test_an_image_of_the_size_is_only_rounded():
    image = np.random.default_rng(0).random((64, 64), np.float32)
    square, frame = letterbox(image, 64)
    np.testing.assert_array_equal(square, np.rint(image * 255))
    assert frame == Frame(0, 0, 1, 1)


@given(st.integers(1, 28), st.integers(1, 28), frames, st.integers(1, 40), st.integers(1, 40))
def test_maps_are_sampled_as_scipy_does(h, w, frame, gh, gw):
    cells = np.random.default_rng(h * 31 + w).normal(size=(h, w))
    y = (frame.y0 + (np.arange(gh) + 0.5) / gh * (frame.y1 - frame.y0)) * h - 0.5
    x = (frame.x0 + (np.arange(gw) + 0.5) / gw * (frame.x1 - frame.x0)) * w - 0.5
    expected = map_coordinates(cells, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(sample_map_on_image(cells, frame, (gh, gw)), expected, atol=1e-9)


@settings(max_examples=30)
@given(st.integers(16, 300), st.integers(16, 300), st.integers(16, 64))
def test_sampling_the_square_at_its_own_pixels_cuts_the_image_out(width, height, size):
    image = np.random.default_rng(0).random((height, width), np.float32)
    square, frame = letterbox(image, size)
    x0, y0, x1, y1 = (round(v * size) for v in frame)
    cut = sample_map_on_image(square.astype(np.float64), frame, (y1 - y0, x1 - x0))
    np.testing.assert_allclose(cut, square[y0:y1, x0:x1], atol=1e-6)


def test_maps_of_many_images_and_findings_take_one_frame_an_image():
    maps = np.random.default_rng(0).random((3, 5, 7, 7), np.float32)
    each = np.array([fit(300, 200, 224), fit(200, 300, 224), fit(9, 9, 224)], np.float32)
    sampled = sample_map_on_image(maps, each, (30, 20))
    assert sampled.shape == (3, 5, 30, 20)
    assert sampled.dtype == np.float32
    for i in range(3):
        for j in range(5):
            one = sample_map_on_image(maps[i, j], each[i], (30, 20))
            np.testing.assert_allclose(sampled[i, j], one, atol=1e-6)
