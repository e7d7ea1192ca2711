"""Heat maps over radiographs: small JPEGs as data URIs, with the hottest point and whether it hits."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.errors import RunError
from hilum.report.read import Box, GalleryImage, RunDirectory

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

SIDE, EXAMPLE_SIDE = 300, 200
QUALITY = 80
MOST_ROWS, MOST_MISSES, MOST_EXAMPLES = 36, 12, 4
OPACITY = 0.72
COLOURS = "inferno"


@dataclass(frozen=True)
class Tile:
    """One picture of a gallery row: the image with its boxes, or one arm's map over it."""

    arm: str
    model: str
    picture: str = ""
    probability: float | None = None
    point: tuple[float, float] | None = None
    hit: bool | None = None
    peak: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """An image with true boxes, as it is and under each arm."""

    site: str
    finding: str
    boxes: list[Box]
    width: int
    height: int
    picture: str
    tiles: list[Tile]


def overlay(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Return a greyscale image under a map (G, G) in [0, 1], from nothing at 0 to full colour at its peak."""
    peak = float(heat.max())
    scaled = Image.fromarray(heat / peak if peak > 0 else heat).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(scaled, dtype=np.float32), 0, 1)
    colour = np.asarray(_colours()(strength)[..., :3], dtype=np.float32)
    alpha = (OPACITY * np.clip(strength * 1.25 - 0.1, 0, 1))[..., None]
    grey = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return Image.fromarray(np.round(255 * (grey * (1 - alpha) + colour * alpha)).astype(np.uint8))


def colour_bar() -> str:
    """Return the colours from 0 to a map's peak as a CSS gradient."""
    stops = [tuple(round(255 * c) for c in _colours()(i / 8)[:3]) for i in range(9)]
    return f"linear-gradient(to right, {', '.join(f'rgb{stop}' for stop in stops)})"


def data_uri(image: Image.Image) -> str:
    """Return an image as a JPEG data URI, without metadata."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def examples(run: RunDirectory) -> dict[str, list[str]]:
    """Return site → data URIs of its example images."""
    found: dict[str, list[str]] = {}
    for one in run.gallery:
        if one.finding is None and len(found.get(one.site, [])) < MOST_EXAMPLES:
            found.setdefault(one.site, []).append(data_uri(_grey(run.path / one.file, EXAMPLE_SIDE)))
    return found


@dataclass(frozen=True)
class Gallery:
    """The rows shown of those that the run holds."""

    run: RunDirectory

    @cached_property
    def chosen(self) -> list[GalleryImage]:
        """The first images of each site and finding that were drawn at random, up to ``MOST_ROWS`` in all."""
        return self._first("random", MOST_ROWS)

    @cached_property
    def misses(self) -> list[GalleryImage]:
        """The worst misses of each site and finding, up to ``MOST_MISSES`` in all."""
        return self._first("miss", MOST_MISSES)

    def _first(self, why: str, most: int) -> list[GalleryImage]:
        groups: dict[tuple[str, str], list[GalleryImage]] = {}
        for one in self.run.gallery:
            if one.finding is not None and one.why == why:
                groups.setdefault((one.site, one.finding), []).append(one)
        each = max(1, most // max(1, len(groups)))
        return [one for group in groups.values() for one in group[:each]]

    @property
    def held(self) -> int:
        """Images with a finding that the run holds and that were drawn at random."""
        return sum(one.finding is not None and one.why == "random" for one in self.run.gallery)

    def rows(self, images: Sequence[GalleryImage]) -> Iterator[Row]:
        """Return images with every arm's map."""
        for one in images:
            grey = _grey(self.run.path / one.file, SIDE)
            tiles = [self._tile(arm, one, grey) for arm in self.run.run.arms]
            yield Row(one.site, one.finding or "", one.boxes, grey.width, grey.height, data_uri(grey), tiles)

    def _tile(self, arm: str, one: GalleryImage, grey: Image.Image) -> Tile:
        from hilum.evaluation.maps import hottest_points, pointing_game

        site = self.run.site(one.site)
        if arm == "local" and site is not None and site.outside:
            return Tile(arm, "", reason="no local model: outside site")
        model = one.site if arm == "local" else arm
        key = (one.image_id, one.finding or "")
        heat = self._maps(arm, model, one.site).get(key)
        chance = self._probabilities(arm, model, one.site).get(key)
        if heat is None:
            return Tile(arm, model, probability=chance, reason="no map in this run")
        x, y = hottest_points(heat[None])[0]
        hit = bool(pointing_game(heat[None], [one.boxes])[0]) if one.boxes else None
        return Tile(arm, model, data_uri(overlay(grey, heat)), chance, (float(x), float(y)), hit, float(heat.max()))

    def _maps(self, *key: str) -> dict[tuple[str, str], NDArray[np.float32]]:
        if key not in self._kept[0]:
            self._kept[0][key] = self.run.maps(*key)
        return self._kept[0][key]

    def _probabilities(self, *key: str) -> dict[tuple[str, str], float]:
        if key not in self._kept[1]:
            self._kept[1][key] = self.run.probabilities(*key)
        return self._kept[1][key]

    @cached_property
    def _kept(self) -> tuple[dict, dict]:
        return {}, {}


def _grey(file: Path, side: int) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            grey = image.convert("L")
    except OSError as error:
        raise RunError(
            f"{file}: expected an image of the gallery; found {type(error).__name__}. "
            "Resume the study to write the gallery again."
        ) from None
    grey.thumbnail((side, side), Image.Resampling.LANCZOS)
    return grey


def _colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps[COLOURS]
