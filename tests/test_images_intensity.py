"""Percentile normalization against numpy.percentile, and its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.errors import ImageError
from hilum.images.intensity import normalize, percentile


def radiograph(top, seed=0, shape=(61, 47)):
    values = np.random.default_rng(seed).beta(2, 4, shape)
    return (np.round(values * top) / 65535).astype(np.float32)


@pytest.mark.parametrize("top", [255 * 257, 65535, 4095])
@pytest.mark.parametrize(("low", "high"), [(0.5, 99.5), (0, 100), (2, 98)])
def test_equals_clipping_at_numpy_percentiles(top, low, high):
    image = radiograph(top)
    bottom, ceiling = np.percentile(image.astype(np.float64), [low, high])
    expected = np.clip((image - bottom) / (ceiling - bottom), 0, 1)
    result = normalize(image, low, high)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@given(st.integers(0, 10_000), st.floats(0, 100), st.integers(1, 400))
def test_percentile_is_that_of_numpy(seed, percent, size):
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    exact = np.percentile(values.astype(np.float64), percent)
    assert percentile(values, percent) == pytest.approx(exact, abs=1e-6)


def test_percentile_is_exact_where_the_sample_misses_the_tail():
    values = np.full(400_000, 0.5, np.float32)
    values[1:20_000:2] = np.linspace(0, 0.4, 10_000)
    values[:: 400_000 // 16_384 | 1] = 0
    values[-1] = 0
    for percent in (0.5, 3.0, 5.5, 6.0):
        exact = np.percentile(values.astype(np.float64), percent)
        assert percentile(values, percent) == pytest.approx(exact, abs=1e-6)


@given(st.floats(0.05, 50), st.floats(-100, 100))
def test_exposure_does_not_matter(gain, offset):
    image = radiograph(65535)
    moved = (image.astype(np.float64) * gain + offset).astype(np.float32)
    tolerance = 1e-3 + 4 * np.spacing(np.float32(100 + gain)) / gain
    np.testing.assert_allclose(normalize(moved), normalize(image), atol=tolerance)


def test_values_that_are_not_finite_do_not_count():
    image = radiograph(65535)
    holed = image.copy()
    holed[::7, ::5] = np.nan
    holed[3, 3] = np.inf
    finite = np.isfinite(holed)
    result = normalize(holed)
    assert (result[~finite] == 0).all()
    expected = normalize(image[finite].reshape(1, -1))
    np.testing.assert_array_equal(result[finite], expected[0])


def test_a_nearly_black_image_keeps_its_few_bright_pixels():
    image = np.zeros((40, 40), np.float32)
    image[20, 20:23] = (0.2, 0.3, 0.4)
    np.testing.assert_allclose(normalize(image)[20, 20:23], (0.5, 0.75, 1), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.7, np.nan])
def test_a_constant_image_is_refused(value):
    with pytest.raises(ImageError, match="constant image"):
        normalize(np.full((20, 20), value, np.float32))


def test_the_input_is_not_written_to():
    image = radiograph(65535)
    image.flags.writeable = False
    assert normalize(image).max() == 1
