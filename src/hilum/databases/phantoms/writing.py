"""A phantom hospital on disk: the layout of ``databases/folder.py``, the truth beside it, its parameters."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from hilum.databases.phantoms.hospitals import Hospital
from hilum.databases.phantoms.patients import Visit, default_images, known_positives, labels_of, visits
from hilum.databases.phantoms.render import PHANTOM_FINDINGS, Radiograph, render
from hilum.errors import DataError
from hilum.progress import progress
from hilum.randomness import derive_seed

PARAMETERS = "phantom.json"
TRUTH, TRUE_BOXES = "truth.csv", "truth_boxes.csv"
DRAWING = 1  # raise it when the same parameters give other pixels

Row = Sequence[Any]


@dataclass(frozen=True)
class _Written:
    boxes: tuple[Row, ...]
    masks: tuple[Row, ...]


def write_hospital(
    hospital: Hospital,
    root: Path,
    images: int | None = None,
    size: int = 128,
    contrast: float = 1.0,
    seed: int = 0,
    workers: int = 1,
) -> Path:
    """Draw a hospital into ``root`` and return it; with the same parameters a second call does nothing.

    ``images``: None for those of all its patients. ``size``: edge in px. ``contrast``: see ``render``.
    ``workers``: processes; the files do not depend on it. Writes ``labels.csv``, ``boxes.csv``, ``masks.csv``
    and the images in the layout of a hospital's own folder, with boxes and masks of the positives that the
    hospital records; ``truth.csv`` and ``truth_boxes.csv``, everything that was drawn, for analysis only;
    and ``phantom.json``. Raises ``DataError`` where ``root`` holds something else.
    """
    images = default_images(hospital) if images is None else images
    if images < 1:
        raise DataError(f"{hospital.name}: expected at least one image; found {images}.")
    parameters = _parameters(hospital, images, size, contrast, seed)
    if _is_written(root, parameters):
        return root
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _save_parameters(root, parameters, complete=False)
    plan = list(visits(hospital, images, seed))
    draw = partial(_write_image, hospital, root, size, contrast, seed)
    with _mapper(workers) as mapped, progress(f"drawing {hospital.name}", images) as advance:
        written = []
        for one in mapped(draw, plan):
            written.append(one)
            advance()
    _write_tables(hospital, root, plan, written)
    _save_parameters(root, parameters, complete=True)
    return root


def render_visit(hospital: Hospital, visit: Visit, size: int, contrast: float, seed: int) -> Radiograph:
    """Draw one radiograph of a hospital; it depends on nothing but these parameters."""
    key = derive_seed(seed, hospital.name, "image", visit.image)
    return render(key, visit.findings, visit.view, size, contrast, hospital.scanner, visit.anatomy)


def _parameters(hospital: Hospital, images: int, size: int, contrast: float, seed: int) -> dict[str, Any]:
    scalars = {"drawing": DRAWING, "images": images, "size": size, "contrast": contrast, "seed": seed}
    fields = {
        **{name: getattr(hospital, name) for name in hospital.__dataclass_fields__},
        "scanner": asdict(hospital.scanner),
        "prevalence": dict(hospital.prevalence),
        "device": dict(hospital.device),
    }
    found: dict[str, Any] = json.loads(json.dumps({**scalars, "hospital": fields}))
    return found


def _is_written(root: Path, parameters: dict[str, Any]) -> bool:
    """Return whether ``root`` holds this hospital already; raises ``DataError`` if it holds another."""
    path = root / PARAMETERS
    if not path.is_file():
        if root.is_dir() and any(root.iterdir()):
            raise DataError(
                f"Expected an empty folder for the phantom hospital; '{root}' holds other files. Choose another folder."
            )
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    complete = found.pop("complete", False)
    differing = sorted(k for k in found | parameters if found.get(k) != parameters.get(k))
    if differing:
        raise DataError(
            f"Expected the phantom hospital of these parameters in '{root}'; found one with another "
            f"{', '.join(differing)}. Choose another folder, or remove this one."
        )
    return bool(complete)


def _save_parameters(root: Path, parameters: dict[str, Any], complete: bool) -> None:
    text = json.dumps({**parameters, "complete": complete}, indent=2)
    (root / PARAMETERS).write_text(text + "\n", encoding="utf-8")


@contextmanager
def _mapper(workers: int) -> Iterator[Any]:
    if workers <= 1:
        yield map
        return
    with _ignored_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(workers)
    with pool:
        yield partial(pool.imap, chunksize=16)


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Processes begun in here stay silent at Ctrl-C, which is for this one to tell."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _name(visit: Visit) -> str:
    return f"images/{visit.image:06d}.png"


def _write_image(hospital: Hospital, root: Path, size: int, contrast: float, seed: int, visit: Visit) -> _Written:
    radiograph = render_visit(hospital, visit, size, contrast, seed)
    Image.fromarray(radiograph.pixels).save(root / _name(visit))
    boxes = tuple((_name(visit), box[0], *(round(v * size) for v in box[1:])) for box in radiograph.boxes)
    masks = []
    for finding in known_positives(hospital, visit.findings):
        path = f"masks/{visit.image:06d}_{finding.replace(' ', '_')}.png"
        Image.fromarray(radiograph.masks[finding]).convert("1").save(root / path)
        masks.append((_name(visit), finding, path))
    return _Written(boxes, tuple(masks))


def _write_tables(hospital: Hospital, root: Path, plan: list[Visit], written: list[_Written]) -> None:
    who = ("image", "patient", "view", "age_years", "sex_male")
    people = [(_name(v), f"{hospital.name}-{v.patient:06d}", v.view, int(v.age_years), v.sex_male) for v in plan]
    labels = [labels_of(hospital, v.findings) for v in plan]
    truth = [[int(name in v.findings) for name in PHANTOM_FINDINGS] for v in plan]
    rows = [(*p, *(one[f] for f in hospital.labelled)) for p, one in zip(people, labels, strict=True)]
    _write_csv(root / "labels.csv", (*who, *hospital.labelled), rows)
    drawn = [(p[0], *t) for p, t in zip(people, truth, strict=True)]
    _write_csv(root / TRUTH, ("image", *PHANTOM_FINDINGS), drawn)
    head = ("image", "finding", "x0", "y0", "x1", "y1")
    _write_csv(root / TRUE_BOXES, head, [row for one in written for row in one.boxes])
    known = [known_positives(hospital, v.findings) for v in plan]
    boxes = [row for one, names in zip(written, known, strict=True) for row in one.boxes if row[1] in names]
    _write_csv(root / "boxes.csv", head, boxes)
    masks = [row for one in written for row in one.masks]
    _write_csv(root / "masks.csv", ("image", "finding", "path"), masks)


def _write_csv(path: Path, head: Row, rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
