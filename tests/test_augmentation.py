"""Augmentation stays an image, mirrors when it says so, and depends on its generator alone."""

from __future__ import annotations

import pytest
import torch

from hilum.images.augmentation import BORDER_SHARE, BORDER_WIDTH, Augmentation
from hilum.randomness import torch_generator

IMAGES = torch.rand(16, 1, 24, 20, generator=torch_generator("images"))


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("flip", [False, True])
def test_the_result_is_a_batch_of_images(strength: float, flip: bool) -> None:
    result = Augmentation(strength, flip)(IMAGES, torch_generator(0))
    assert result.shape == IMAGES.shape
    assert result.dtype == torch.float32
    assert float(result.min()) >= 0
    assert float(result.max()) <= 1
    assert all(float((a - b).abs().mean()) > 1e-3 for a, b in zip(result, IMAGES, strict=True))


def test_the_generator_decides_and_nothing_global() -> None:
    before, kept = torch.get_rng_state(), IMAGES.clone()
    augment = Augmentation()
    first, again, other = (augment(IMAGES, torch_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(IMAGES, kept)


def test_no_strength_and_no_flip_change_nothing() -> None:
    assert torch.equal(Augmentation(0.0, flip=False)(IMAGES, torch_generator(0)), IMAGES)


def test_flip_alone_mirrors_left_and_right_for_about_half() -> None:
    images = torch.rand(200, 1, 6, 6, generator=torch_generator("flip"))
    result = Augmentation(0.0, flip=True)(images, torch_generator(0))
    same = ((result - images).abs().amax((1, 2, 3)) < 1e-5).float()
    mirrored = ((result - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5).float()
    assert torch.equal(same + mirrored, torch.ones(200))
    assert 70 < int(mirrored.sum()) < 130


def test_without_flip_nothing_is_mirrored() -> None:
    ramp = torch.linspace(0, 1, 32).expand(64, 1, 32, 32).contiguous()
    result = Augmentation(0.5, flip=False)(ramp, torch_generator(0))[:, :, 8:24]
    assert bool((result[..., 20:26].mean((1, 2, 3)) > result[..., 6:12].mean((1, 2, 3))).all())


def test_weaker_augmentation_moves_less() -> None:
    smooth = torch.linspace(0, 1, 32).outer(torch.linspace(0, 1, 32)).expand(64, 1, 32, 32).contiguous()
    moved = [
        float((Augmentation(s, flip=False)(smooth, torch_generator(0)) - smooth).abs().mean()) for s in (0.1, 0.4, 1)
    ]
    assert moved == sorted(moved)
    assert moved[0] < 0.05


def test_a_border_is_painted_on_one_side_of_some_images_with_one_shade() -> None:
    plain = torch.full((400, 1, 50, 50), 0.37)
    changed = Augmentation(1.0)._paint_border(plain, torch_generator(0))[:, 0]
    touched = changed != 0.37
    painted = touched.any(2).any(1)
    assert float(painted.float().mean()) == pytest.approx(BORDER_SHARE, abs=0.08)
    assert float(touched[painted].float().mean((1, 2)).max()) <= BORDER_WIDTH + 0.02
    for mask, image in zip(touched[painted], changed[painted], strict=True):
        assert image[mask].unique().numel() == 1
        assert bool(mask.all(0).any() ^ mask.all(1).any())  # whole rows or whole columns
        assert mask.sum() in (50 * mask.all(0).sum(), 50 * mask.all(1).sum())
    assert torch.equal(Augmentation(0.0)._paint_border(plain, torch_generator(0)), plain)
