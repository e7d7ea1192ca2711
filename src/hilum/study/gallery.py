"""Pictures for the report: examples of every site, and test images with boxes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.evaluation.maps import hottest_points
from hilum.images.letterbox import Frame
from hilum.randomness import numpy_generator
from hilum.sites.site import Site
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.outcomes import Outcomes
from hilum.training.state import write_atomically

EXAMPLES = 4
MISSES = 2


def choose_gallery(site: Site, per_site: int, seed: int) -> dict[int, str | None]:
    """Return row → finding whose boxes are shown, or None for an example; drawn at random, test patients only."""
    rng = numpy_generator(seed, site.name, "gallery")
    rows = site.indices("test")
    ids = site.manifest.images["image_id"].to_numpy()[rows]
    boxes = site.manifest.boxes[site.manifest.boxes["finding"].isin(site.findings)]
    chosen: dict[int, str | None] = {}
    for finding, group in boxes.groupby("finding"):
        boxed = rows[np.isin(ids, group["image_id"].unique())]
        boxed = boxed[~np.isin(boxed, list(chosen))]
        chosen |= {int(r): str(finding) for r in rng.permutation(boxed)[: max(1, per_site // 2)]}
    chosen = dict(list(chosen.items())[: 3 * per_site]) if per_site else {}
    others = rows[~np.isin(rows, list(chosen))]
    return chosen | {int(r): None for r in rng.permutation(others)[:EXAMPLES]}


def choose_misses(outcomes: Outcomes, keys: Sequence[ModelKey], site: Site) -> dict[int, str]:
    """Return row → finding of the worst misses of a model at a site: the hottest point lies furthest from any true box.

    Up to ``MISSES`` of each finding, of the first seed; distances are fractions of the image.
    """
    found = outcomes.localized(keys[:1], site.name)
    if found is None:
        return {}
    row = {str(image): k for k, image in enumerate(site.manifest.images["image_id"])}
    chosen: dict[int, str] = {}
    for finding, boxes in found.boxes.items():
        boxed = [k for k, b in enumerate(boxes) if len(b) and row[str(found.ids[k])] not in chosen]
        if boxed:
            points = hottest_points(found.maps_of(finding)[0, boxed])
            apart = np.array([_distance(p, boxes[k]) for p, k in zip(points, boxed, strict=True)])
            worst = [k for k in np.argsort(-apart, kind="stable")[:MISSES] if apart[k] > 0]
            chosen |= {row[str(found.ids[boxed[k]])]: finding for k in worst}
    return chosen


def write_gallery(
    sites: list[Site],
    chosen: Mapping[str, Mapping[int, str | None]],
    run: RunDirectory,
    misses: Mapping[str, Mapping[int, str | None]] | None = None,
) -> None:
    """Write the pictures as PNG and gallery/gallery.json: those ``chosen`` at random, then the worst ``misses``."""
    entries: list[dict[str, Any]] = []
    for why, of_site in (("random", chosen), ("miss", misses or {})):
        for site in sites:
            ids = site.manifest.images["image_id"].to_numpy()
            for k, (row, finding) in enumerate(of_site.get(site.name, {}).items()):
                file = f"gallery/{site.name}/{k if why == 'random' else f'miss_{k}'}.png"
                _write_picture(run.root / file, site, row)
                entries.append(
                    {
                        "site": site.name,
                        "file": file,
                        "image_id": str(ids[row]),
                        "finding": finding,
                        "boxes": _boxes(site.manifest.boxes, str(ids[row]), finding),
                        "why": why,
                    }
                )
    run.write_json("gallery/gallery.json", entries)


def _write_picture(path: Path, site: Site, row: int) -> None:
    from PIL import Image

    square = site.images(np.array([row]))[0]
    buffer = io.BytesIO()
    Image.fromarray(_crop(square, Frame(*site.frames[row]))).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _distance(point: NDArray[np.float64], boxes: NDArray[np.float64]) -> float:
    """Return how far a point lies from the nearest of the boxes, 0 inside one."""
    beyond = np.maximum(boxes[:, :2] - point, point - boxes[:, 2:]).clip(min=0)
    return float(np.hypot(*beyond.T).min())


def _boxes(boxes: pd.DataFrame, image_id: str, finding: str | None) -> list[list[float]]:
    chosen = boxes[(boxes["image_id"] == image_id) & (boxes["finding"] == finding)]
    return [[float(v) for v in row] for row in chosen[["x0", "y0", "x1", "y1"]].to_numpy()]


def _crop(square: np.ndarray[Any, np.dtype[np.uint8]], frame: Frame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    x0, y0, x1, y1 = (round(float(v) * len(square)) for v in frame)
    return np.ascontiguousarray(square[y0:y1, x0:x1])
