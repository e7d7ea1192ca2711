"""Crops cover the image, and what is said of crops returns to the pixels that they cover."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilum.models import BACKBONES
from hilum.models.patches import fold_scores, patch_bag


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(1, 8))
def test_crops_are_those_of_the_image_and_folding_is_the_mean_over_them(
    height: int, width: int, size: int, stride: int
) -> None:
    image = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(0))
    crops, places = patch_bag(image, size, stride)
    scores = torch.rand(2, len(places), 3, generator=torch.Generator().manual_seed(1))
    assert crops.shape == (2, len(places), 1, size, size)
    total, count = torch.zeros(2, 3, height, width), torch.zeros(height, width)
    for k, (x0, y0, x1, y1) in enumerate(places.tolist()):
        seen = image[:, :, y0:y1, x0:x1]
        assert torch.equal(crops[:, k, :, : seen.shape[2], : seen.shape[3]], seen)
        assert float(crops[:, k].sum()) == pytest.approx(float(seen.sum()), abs=1e-4)
        total[:, :, y0:y1, x0:x1] += scores[:, k, :, None, None]
        count[y0:y1, x0:x1] += 1
    if stride <= size:
        assert int(count.min()) >= 1
    folded = fold_scores(scores, places, (height, width))
    torch.testing.assert_close(folded, total / count.clamp(min=1))


def test_the_places_are_row_by_row() -> None:
    _, places = patch_bag(torch.zeros(1, 1, 4, 6), 4, 2)
    assert places.tolist() == [[0, 0, 4, 4], [2, 0, 6, 4]]


def test_crops_of_no_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected a size and a stride of at least 1; found 0 and 4"):
        patch_bag(torch.zeros(1, 1, 4, 4), 0, 4)
    with pytest.raises(ValueError, match=r"^expected a stride of at most the size, .*; found 64, 16"):
        BACKBONES.load("patch_bag")(size=16, stride=64)
