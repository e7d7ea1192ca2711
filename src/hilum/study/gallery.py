"""Pictures for the report: examples of every site, and test images with boxes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd

from hilum.images.letterbox import Frame
from hilum.randomness import numpy_generator
from hilum.sites.site import Site
from hilum.study.directory import RunDirectory
from hilum.training.state import write_atomically

EXAMPLES = 4


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


def write_gallery(sites: list[Site], chosen: dict[str, dict[int, str | None]], run: RunDirectory) -> None:
    """Write the pictures as PNG and gallery/gallery.json."""
    from PIL import Image

    entries: list[dict[str, Any]] = []
    for site in sites:
        ids = site.manifest.images["image_id"].to_numpy()
        for k, (row, finding) in enumerate(chosen[site.name].items()):
            square = site.images(np.array([row]))[0]
            buffer = io.BytesIO()
            Image.fromarray(_crop(square, Frame(*site.frames[row]))).save(buffer, "PNG")
            file = f"gallery/{site.name}/{k}.png"
            write_atomically(run.root / file, buffer.getvalue())
            boxes = _boxes(site.manifest.boxes, str(ids[row]), finding)
            entry = {
                "site": site.name,
                "file": file,
                "image_id": str(ids[row]),
                "finding": finding,
                "boxes": boxes,
            }
            entries.append(entry)
    run.write_json("gallery/gallery.json", entries)


def _boxes(boxes: pd.DataFrame, image_id: str, finding: str | None) -> list[list[float]]:
    chosen = boxes[(boxes["image_id"] == image_id) & (boxes["finding"] == finding)]
    return [[float(v) for v in row] for row in chosen[["x0", "y0", "x1", "y1"]].to_numpy()]


def _crop(square: np.ndarray[Any, np.dtype[np.uint8]], frame: Frame) -> np.ndarray[Any, np.dtype[np.uint8]]:
    x0, y0, x1, y1 = (round(float(v) * len(square)) for v in frame)
    return np.ascontiguousarray(square[y0:y1, x0:x1])
