"""The contact sheet of the documentation: ``python -m hilum.databases.phantoms.sheet phantoms.png``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hilum.databases.phantoms.hospitals import HOSPITALS, NORTHGATE
from hilum.databases.phantoms.patients import DEVICE, Visit, visits
from hilum.databases.phantoms.render import PHANTOM_FINDINGS, Radiograph, render
from hilum.databases.phantoms.writing import render_visit

_CELL, _CAPTION, _COLUMNS = 128, 13, 6
Cell = tuple[str, NDArray[np.uint8]]


def contact_sheet() -> Image.Image:
    """Return one radiograph a finding at contrast 1 with its boxes, a contrast series, every hospital and a shortcut.

    The shortcut is northgate's: its first radiographs with a pneumothorax, most of them with a drain.
    """
    cells: list[Cell] = []
    for i, finding in enumerate(PHANTOM_FINDINGS):
        radiograph = render(100 + i, (finding,), "PA", _CELL)
        cells.append((finding, _with_boxes(radiograph)))
    for contrast in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        radiograph = render(11, ("Mass", "Effusion"), "PA", _CELL, contrast)
        cells.append((f"Mass, Effusion at {contrast}", _gray(radiograph)))
    for hospital in HOSPITALS.values():
        for visit in visits(hospital, _COLUMNS, 2):
            cells.append((hospital.name, _gray(render_visit(hospital, visit, _CELL, 1.0, 2))))
    for visit in _pneumothoraces():
        caption = "Pneumothorax, drain" if DEVICE in visit.findings else "Pneumothorax alone"
        cells.append((caption, _gray(render_visit(NORTHGATE, visit, _CELL, 1.0, 2))))
    return _tiled(cells)


def _pneumothoraces() -> list[Visit]:
    """Return northgate's first radiographs with a pneumothorax, one a patient."""
    found: dict[int, Visit] = {}
    for visit in visits(NORTHGATE, 400, 2):
        if "Pneumothorax" in visit.findings and len(found) < _COLUMNS:
            found.setdefault(visit.patient, visit)
    return list(found.values())


def _gray(radiograph: Radiograph) -> NDArray[np.uint8]:
    return np.repeat(radiograph.pixels[..., None], 3, axis=2)


def _with_boxes(radiograph: Radiograph) -> NDArray[np.uint8]:
    image = Image.fromarray(_gray(radiograph))
    pen = ImageDraw.Draw(image)
    for _, *corners in radiograph.boxes:
        x0, y0, x1, y1 = (round(v * _CELL) for v in corners)
        pen.rectangle((x0 - 1, y0 - 1, x1, y1), outline=(255, 190, 60))
    return np.asarray(image)


def _tiled(cells: list[Cell]) -> Image.Image:
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * (_CELL + 2), rows * (_CELL + _CAPTION + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (caption, pixels) in enumerate(cells):
        x, y = (i % _COLUMNS) * (_CELL + 2), (i // _COLUMNS) * (_CELL + _CAPTION + 2)
        pen.text((x + 2, y), caption, fill="black")
        sheet.paste(Image.fromarray(pixels), (x, y + _CAPTION))
    return sheet


_coarse = [min(255, round(gray / 9) * 9) for gray in range(256)]  # noise compresses badly

if __name__ == "__main__":
    contact_sheet().convert("L").point(_coarse).save(Path(sys.argv[1]), optimize=True)
