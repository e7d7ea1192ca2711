"""Tiny hospitals on disk, a tiny study of them, and the command line called in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from PIL import Image

from hilum.cli import main

FINDINGS = ("Nodule", "Effusion")
STUDY = """\
name: tiny
findings: [Nodule, Effusion]
sites:
  north: {database: folder, root: north}
  south: {database: folder, root: south}
  east: {database: folder, root: east, role: outside}
seeds: [0, 1]
images: {size: 32, cache: cache, workers: 1}
model: {backbone: {name: residual, widths: [4, 6, 8]}}
training: {rounds: 2, updates: 2, batch: 4, threads: 1, precision: float32, validate_every: 1}
federation: {normalization: site}
evaluation: {resamples: 100, gallery: 2}
"""

# Orientation in a DICOM header, and how such a file stores an upright film.
ORIENTATIONS: list[tuple[list[str], Callable[[np.ndarray], np.ndarray]]] = [
    (["L", "F"], lambda film: film),
    (["R", "F"], lambda film: film[:, ::-1]),
    (["L", "H"], lambda film: film[::-1]),
    (["F", "L"], lambda film: film.T),
    (["F", "R"], lambda film: film.T[::-1]),
    (["H", "R"], lambda film: film.T[::-1, ::-1]),
]


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


def hilum(*arguments: str | Path) -> Outcome:
    """Call the command line in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["hilum", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


def disc(width: int, height: int, x: float, y: float, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return a grainy image with a bright disc around (x, y) px; a radius of 0 draws none."""
    rows, columns = np.mgrid[:height, :width]
    pixels = 60 + 25 * rng.standard_normal((height, width))
    pixels[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] += 120
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_hospital(root: Path, images: int = 24, findings: Sequence[str] = FINDINGS, split: bool = True) -> Path:
    """Write ``labels.csv``, ``boxes.csv`` and images of two visits a patient; every second patient has a nodule.

    A nodule is a bright disc, an effusion a bright band at the bottom. ``split``: a quarter of the patients is
    in test, a quarter in validation, the rest in training.
    """
    rng = np.random.default_rng(sum(map(ord, root.name)))
    (root / "images").mkdir(parents=True)
    rows, boxes = [], []
    for k in range(images):
        width, height = (56, 40) if k % 3 else (40, 64)
        patient, nodule, effusion = k // 2, k // 2 % 2, k // 4 % 2
        x, y, radius = rng.uniform(14, width - 14), rng.uniform(14, height - 16), 8 * nodule
        pixels = disc(width, height, x, y, radius, rng)
        if effusion and "Effusion" in findings:
            pixels[-6:] = 230
        name = f"images/{root.name}{k:02d}.png"
        Image.fromarray(pixels).save(root / name)
        known = {"Nodule": nodule, "Effusion": effusion, "Mass": nodule}
        rows.append((name, f"{root.name}-secret{patient}", SPLIT[patient // 4 % 4], *(known[f] for f in findings)))
        if nodule:
            boxes.append((name, findings[0], x - radius, y - radius, x + radius, y + radius))
    table = pd.DataFrame(rows, columns=["image", "patient", "split", *findings])
    (table if split else table.drop(columns="split")).to_csv(root / "labels.csv", index=False)
    pd.DataFrame(boxes, columns=["image", "finding", "x0", "y0", "x1", "y1"]).to_csv(root / "boxes.csv", index=False)
    return root


SPLIT = ("train", "test", "train", "val")


def write_study(folder: Path, text: str = STUDY) -> Path:
    """Write the hospitals north, south (which labels no effusion) and east, and a study of them."""
    write_hospital(folder / "north", 32)
    write_hospital(folder / "south", 32, ("Nodule",))
    write_hospital(folder / "east", 12)
    study = folder / "study.yaml"
    study.write_text(text, encoding="utf-8")
    return study


def json_of(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
