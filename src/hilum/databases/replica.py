"""Made-up radiographs for the replicas that every database writes for tests: no patient, no real pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hilum.randomness import numpy_generator

Corners = tuple[float, float, float, float]


def draw_radiograph(seed: str, size: tuple[int, int] = (96, 96), lesions: tuple[Corners, ...] = ()) -> Image.Image:
    """Return a made-up chest: two dark lungs, ribs, noise and bright lesions.

    ``seed`` names the image; ``size`` is (width, height) in px; ``lesions`` are corners as fractions [0, 1].
    """
    width, height = size
    draws = numpy_generator("replica", seed)
    film = Image.new("L", size, 40)
    pen = ImageDraw.Draw(film)

    def box(x0: float, y0: float, x1: float, y1: float) -> Corners:
        return (x0 * width, y0 * height, x1 * width, y1 * height)

    pen.rectangle(box(0.06, 0.08, 0.94, 1.0), fill=165)
    for left in (0.16, 0.55):
        pen.ellipse(box(left, 0.16, left + 0.29, 0.82 + draws.uniform(-0.04, 0.04)), fill=70)
    pen.ellipse(box(0.40, 0.48, 0.66, 0.82), fill=185)
    for top in np.arange(0.2, 0.75, 0.11):
        pen.arc(box(0.12, top, 0.88, top + 0.3), 200, 340, fill=110, width=max(1, height // 60))
    for lesion in lesions:
        pen.ellipse(box(*lesion), fill=205)
    smooth = np.asarray(film.filter(ImageFilter.GaussianBlur(width / 64)), dtype=np.float64)
    noisy = np.clip(smooth + draws.normal(0, 6, smooth.shape), 0, 255)
    return Image.fromarray(noisy.astype(np.uint8))


def save_radiograph(
    path: Path, size: tuple[int, int] = (96, 96), lesions: tuple[Corners, ...] = (), mode: str = "L"
) -> None:
    """Draw a made-up radiograph named after its file and save it in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_radiograph(path.name, size, lesions).convert(mode).save(path)
