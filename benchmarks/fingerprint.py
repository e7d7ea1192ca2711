"""How far apart the perceptual hashes of copies and of different radiographs lie, and how fast pairs are compared.

    python benchmarks/fingerprint.py [--data ../shared/data] [--images 500]

Prints, for real radiographs of every hospital under --data: the distance in bits of each image to its copies (half
size, 128 px, JPEG of quality 60 at 70 %, gamma 0.8, equalized, squeezed or padded to a square), and of all pairs of
different images; then the time of comparing all pairs as a matrix product, against XOR and bit count.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hilum.errors import ImageError
from hilum.images.decode import decode, read_bytes
from hilum.images.fingerprint import BITS, NEAR, near_pairs, perceptual_hash
from hilum.images.intensity import normalize
from hilum.images.letterbox import letterbox

SIZE = 224


def _jpeg(film: Image.Image) -> Image.Image:
    content = io.BytesIO()
    film.resize((round(film.width * 0.7), round(film.height * 0.7))).save(content, "JPEG", quality=60)
    return Image.open(content)


def _padded(film: Image.Image, grey: int = 0) -> Image.Image:
    """Return the film in the middle of a square, 1.2 times its side where it is one itself."""
    side = max(film.size) if film.width != film.height else round(1.2 * film.width)
    square = Image.new("L", (side, side), grey)
    square.paste(film, ((side - film.width) // 2, (side - film.height) // 2))
    return square


def _small(film: Image.Image) -> Image.Image:
    return film.resize((128, round(128 * film.height / film.width)), Image.Resampling.BILINEAR)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half size": lambda film: film.resize((film.width // 2, film.height // 2), Image.Resampling.LANCZOS),
    "128 px": _small,
    "JPEG": _jpeg,
    "gamma 0.8": lambda film: film.point(lambda v: 255 * (v / 255) ** 0.8),
    "equalized": ImageOps.equalize,
    "squeezed": lambda film: film.resize((512, 512)),
    "inverted": ImageOps.invert,
    "padded": _padded,
    "padded white": lambda film: _padded(film, 255),
    "padded grey": lambda film: _padded(film, 100),
    "padded all around": lambda film: ImageOps.expand(film, film.width // 10),
    "padded, JPEG": lambda film: _jpeg(_padded(film)),
    "padded white, JPEG": lambda film: _jpeg(_padded(film, 255)),
    "padded, 128 px": lambda film: _small(_padded(film)),
    "padded, equalized": lambda film: ImageOps.equalize(_padded(film)),
    "padded, inverted": lambda film: ImageOps.invert(_padded(film)),
}


def hashes(films: list[Image.Image]) -> NDArray[np.bool_]:
    """Return the hashes of films through squares of SIZE px."""
    pairs = [letterbox(normalize(np.asarray(film, np.float32) / 255), SIZE) for film in films]
    return perceptual_hash(np.stack([p[0] for p in pairs]), np.array([p[1] for p in pairs]))


def least_apart(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the least distance in bits between two images, with and without borders, in either polarity."""
    apart = np.stack([(a[..., i, :] != b[..., j, :]).sum(-1) for i in (0, 1) for j in (0, 1)])
    return np.asarray(np.minimum(apart, BITS - apart).min(axis=0))


def films_of(root: Path, images: int) -> list[Image.Image]:
    """Return up to ``images`` radiographs of each hospital under ``root``."""
    films = []
    for hospital in sorted(p for p in root.iterdir() if p.is_dir()):
        files = sorted(p for p in hospital.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg") and "mask" not in p.name)
        for k in np.random.default_rng(0).permutation(len(files))[:images]:
            try:
                grey = normalize(decode(read_bytes(files[k])))
            except ImageError:
                continue
            film = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
            film.thumbnail((1024, 1024))
            films.append(film)
    return films


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    films = films_of(options.data, options.images)
    own = hashes(films)
    print(f"{len(films)} radiographs, {BITS} bits, near = {NEAR}")
    for name, change in COPIES.items():
        apart = least_apart(own, hashes([change(film) for film in films]))
        share = (apart <= NEAR).mean()
        median, high = np.median(apart), np.quantile(apart, 0.99)
        print(f"  {name:<18} median {median:3.0f}  99 % {high:3.0f}  most {apart.max():3d}  within {NEAR}: {share:.4f}")
    apart = np.concatenate([least_apart(own[k], own[k + 1 :]) for k in range(len(own) - 1)])
    nearest = ", ".join(map(str, np.sort(apart)[:5]))
    print(f"  different images: {len(apart):,} pairs, nearest {nearest} bits, median {np.median(apart):.0f}")
    rng = np.random.default_rng(0)
    a, b = (np.repeat(rng.random((n, 1, BITS)) < 0.5, 2, axis=1) for n in (20_000, 10_000))
    start = time.perf_counter()
    near_pairs(a, b)
    product = time.perf_counter() - start
    packed = [np.packbits(x[:, 0], axis=1) for x in (a, b)]
    start = time.perf_counter()
    for k in range(0, 400):
        np.bitwise_count(packed[0][k] ^ packed[1]).sum(1)
    count = (time.perf_counter() - start) * len(a) / 400
    print(f"  20,000 × 10,000 pairs: {product:.1f} s as a product; XOR and bit count {count / product:.1f} × as long")


if __name__ == "__main__":
    main()
