"""What a shutter or a collimator leaves of a radiograph: rectangles, circles and polygons (DICOM PS3.3 C.7.6.11)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hilum.databases.dicom_tags import Header

EDGES = ("LeftVerticalEdge", "UpperHorizontalEdge", "RightVerticalEdge", "LowerHorizontalEdge")
MAX_VERTICES = 1000
FARTHEST = 2.0**20

Mask = NDArray[np.bool_]


def left_open(header: Header, device: str, shape: tuple[int, int]) -> Mask | None:
    """Return the pixels (H, W) that the 'Shutter' or 'Collimator' leaves open: those inside all of its shapes.

    Rows and columns count from 1; edges, rims and vertices are open. None where no shape is stated. A shape that
    cannot be read, or that would leave nothing, does not count.
    """
    stated = header.text(f"{device}Shape")
    drawn = [draw(header, device, shape) for kind, draw in SHAPES.items() if kind in stated]
    return overlap([mask for mask in drawn if mask is not None and mask.any()])


def overlap(masks: list[Mask]) -> Mask | None:
    """Return what lies in all masks, the first alone where nothing does, None of none."""
    if not masks:
        return None
    common = np.logical_and.reduce(masks)
    return common if common.any() else masks[0]


def _rectangle(header: Header, device: str, shape: tuple[int, int]) -> Mask | None:
    edges = [header.numbers(f"{device}{edge}") for edge in EDGES]
    if not all(edges):
        return None
    left, top, right, bottom = (max(0, round(edge[0])) for edge in edges)
    mask = np.zeros(shape, bool)
    mask[max(0, top - 1) : bottom, max(0, left - 1) : right] = True
    return mask


def _circle(header: Header, device: str, shape: tuple[int, int]) -> Mask | None:
    """Centre is row and column; pixels count as square."""
    centre, radius = header.numbers(f"CenterOfCircular{device}"), header.numbers(f"RadiusOfCircular{device}")
    if len(centre) != 2 or not radius or radius[0] <= 0:
        return None
    row, column, reach = np.clip((*centre, radius[0]), -FARTHEST, FARTHEST)
    down = np.arange(1, shape[0] + 1) - row
    across = np.abs(np.arange(1, shape[1] + 1) - column)
    half = np.where(np.abs(down) <= reach, np.sqrt(np.maximum(reach**2 - down**2, 0)), -1)
    mask: Mask = across[None] <= half[:, None]
    return mask


def _polygon(header: Header, device: str, shape: tuple[int, int]) -> Mask | None:
    """Vertices are pairs of row and column; the last is joined to the first."""
    numbers = header.numbers(f"VerticesOfThePolygonal{device}")
    if len(numbers) % 2 or not 3 <= len(numbers) // 2 <= MAX_VERTICES:
        return None
    vertices = np.clip(np.reshape(numbers, (-1, 2)) - 1, -FARTHEST, FARTHEST)
    image = Image.new("L", shape[::-1])
    ImageDraw.Draw(image).polygon([(float(column), float(row)) for row, column in vertices], fill=1)
    return np.asarray(image) > 0


SHAPES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
