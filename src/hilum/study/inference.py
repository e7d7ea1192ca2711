"""A run's models on new radiographs."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.allocator import keep_freed_memory
from hilum.databases.dicom_elements import DICOM_HEAD, is_dicom
from hilum.errors import DataError, ImageError
from hilum.images.cache import LeftOut
from hilum.images.decode import decode, detect_format, read_bytes
from hilum.images.dicom import TRANSPOSED, read_dicom, turn
from hilum.images.intensity import normalize
from hilum.images.letterbox import letterbox
from hilum.localization.maps import maps_on_images
from hilum.progress import progress
from hilum.study.boxes import COLUMNS, Row, boxes_of
from hilum.study.directory import RunDirectory
from hilum.study.evaluation.evaluate import read_tuned
from hilum.study.localizer import build_localizer
from hilum.study.predictions import GRID
from hilum.study.run import load_run_study
from hilum.study.spec import Adjust, Study
from hilum.study.voices import Voice, adapt, chosen_models, infer_voices, taught_findings, voices_of
from hilum.training.inference import Inferred
from hilum.training.loop import MOMENT_IMAGES
from hilum.training.state import write_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
DICOM, DICOMDIR, LATERAL = ".dcm", "DICOMDIR", "lateral view"
BATCH = 32
MAP_SIDE = 256


@dataclass(frozen=True)
class Radiograph:
    """One image ready for the network: its square, the part of it that the image covers, its height and width.

    ``turned``: what was undone before, of ``hilum.images.dicom.Radiograph``.
    """

    square: NDArray[np.uint8]
    frame: tuple[float, float, float, float]
    shape: tuple[int, int]
    turned: tuple[str, ...]

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Height and width as the file stores the image."""
        return self.shape[::-1] if TRANSPOSED in self.turned else self.shape


@dataclass(frozen=True)
class Predicted:
    """How many images were predicted, with how many boxes, and which were not: unreadable, or lateral views."""

    images: int
    boxes: int
    left_out: tuple[LeftOut, ...]


def predict_paths(
    run_root: Path,
    paths: Sequence[str | Path],
    out: Path,
    arm: str = "federated",
    site: str | None = None,
    seed: int | None = None,
    on_error: Literal["refuse", "leave_out"] = "refuse",
    adjust: Adjust = "none",
) -> Predicted:
    """Write predictions.csv, boxes.csv, maps/ and maps/index.csv (image, map) for images and folders of images.

    With several seeds, probabilities and maps are the mean over their models; ``adjust``: of ``voices_of``. A
    finding that they saw no label of has a blank column, no map and no box. Maps are [h, w] float32 in [0, 1],
    longest side ``MAP_SIDE``, and cover the whole image as its file stores it, also where it was turned for the
    models; boxes, in px, lie on it too, and so do masks/, like maps/, of models that segment. Boxes are those of the
    (mean) map on the grid of ``hilum evaluate``, cut and scored by what that has tuned over all seeds. A lateral view
    is always left out, an unreadable image with ``on_error`` 'leave_out'. An image's map has its stem; of several
    images of one stem the first keeps it and the others get '<stem>-2', '<stem>-3', … that are nobody's stem. Raises
    ``RunError``, ``StudyError``, ``DataError`` and ``ImageError``.
    """
    run = RunDirectory(run_root)
    study = load_run_study(run)
    keys = chosen_models(study, run, arm, site, seed)
    findings = taught_findings(study, run, keys)
    voices = voices_of(study, run, keys, site, adjust)
    tuned = read_tuned(run, keys[0])
    precision = str(run.fact("precision"))
    files = image_files(paths)
    keep_freed_memory()
    radiographs: dict[str, Radiograph] = {}
    left_out: list[LeftOut] = []
    with progress("reading", len(files)) as advance, ThreadPoolExecutor() as pool:
        for row, (file, outcome) in enumerate(zip(files, pool.map(lambda f: _read(study, f), files), strict=True)):
            advance()
            if isinstance(outcome, Radiograph):
                radiographs[file] = outcome
            else:
                left_out.append(LeftOut(row, file, outcome))
    unreadable = [one for one in left_out if one.kind != LATERAL]
    if (unreadable and on_error == "refuse") or not radiographs:
        raise ImageError(_refusal(unreadable if radiographs else left_out, len(files)))
    if adjust == "images":
        films = list(radiographs.values())
        chosen = np.linspace(0, len(films) - 1, min(MOMENT_IMAGES, len(films))).astype(np.int64)
        adapt(voices, _pixels([films[k] for k in chosen]), precision)
    rows, boxes, names = [], list[Row](), _map_names(list(radiographs))
    with progress("predicting", len(radiographs)) as advance:
        files = list(radiographs)
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            found = _infer(voices, [radiographs[f] for f in part], precision, study)
            for k, file in enumerate(part):
                p, c = found.probabilities[k], found.maps[k]
                said, film = {f: float(p[column]) for f, column in findings.items()}, radiographs[file]
                rows.append({"image": file, **said})
                _write_map(out / "maps" / f"{names[file]}.npz", film, c, findings, study)
                if found.masks is not None:
                    _write_map(out / "masks" / f"{names[file]}.npz", film, found.masks[k], findings, study)
                heat = _maps_as_stored(film, c, GRID, findings, study)
                boxes += boxes_of(file, heat, said, film.stored_shape, tuned)
            advance(len(part))
    _write_table(out / "maps" / "index.csv", [(f, f"{names[f]}.npz") for f in files], ["image", "map"])
    _write_table(out / "boxes.csv", boxes, COLUMNS)
    _write_table(out / "predictions.csv", rows, ["image", *study.findings])
    return Predicted(len(rows), len(boxes), tuple(left_out))


def image_files(paths: Sequence[str | Path]) -> list[str]:
    """Return the given files as given, and the PNG, JPEG and DICOM files under the given folders, in order.

    There, DICOM is also known by its beginning, for archives write names without a suffix.
    """
    files: list[str] = []
    for given in map(str, paths):
        path = Path(given)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and _is_image(p))
            if not found:
                raise DataError(f"Expected PNG, JPEG or DICOM files in the folder {given}; found none.")
            files += [os.path.join(given, p.relative_to(path)) for p in found]  # noqa: PTH118 (as given)
        elif path.is_file():
            files.append(given)
        else:
            raise DataError(f"Expected an image or a folder at {given}; there is none.")
    return list(dict.fromkeys(files))


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return path.name != DICOMDIR and is_dicom(file.read(DICOM_HEAD))
    except OSError:
        return False


def _refusal(left_out: Sequence[LeftOut], total: int) -> str:
    listed = "\n".join(f"  {one.name}: {one.reason}" for one in left_out[:5])
    more = f"\n  and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    advice = "" if len(left_out) == total else "\nAdd --on-error leave_out to predict the others."
    return f"Expected {total} readable images; found {len(left_out)} that are not:\n{listed}{more}{advice}"


def _read(study: Study, path: str) -> Radiograph | str:
    try:
        pixels, turned = _frontal(read_bytes(Path(path)))
        image = normalize(pixels, study.images.low, study.images.high)
    except ImageError as error:
        return str(error)
    square, frame = letterbox(image, study.images.size)
    height, width = image.shape
    return Radiograph(square, (frame[0], frame[1], frame[2], frame[3]), (height, width), turned)


def _frontal(data: bytes) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return the pixels of an image and what was undone to display them; raises ``ImageError`` for a lateral view."""
    if detect_format(data) != DICOM:
        return decode(data), ()
    film = read_dicom(data)
    return film.exposed(), film.turned


def _infer(voices: Sequence[Voice], radiographs: Sequence[Radiograph], precision: str, study: Study) -> Inferred:
    return infer_voices(voices, [_pixels(radiographs)], precision, study.evaluation.flip, build_localizer(study))


def _pixels(radiographs: Sequence[Radiograph]) -> Tensor:
    """Return images (B, 1, S, S) in [0, 1]."""
    return torch.from_numpy(np.stack([r.square for r in radiographs])).unsqueeze(1).float().div_(255)


def _write_map(
    path: Path, radiograph: Radiograph, cells: NDArray[np.float32], findings: dict[str, int], study: Study
) -> None:
    scale = min(1.0, MAP_SIDE / max(radiograph.shape))
    grid = (max(1, round(radiograph.shape[0] * scale)), max(1, round(radiograph.shape[1] * scale)))
    maps = _maps_as_stored(radiograph, cells, grid, findings, study)
    halved: dict[str, Any] = {finding: heat.astype(np.float32) for finding, heat in maps.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **halved)
    write_atomically(path, buffer.getvalue())


def _maps_as_stored(
    radiograph: Radiograph,
    cells: NDArray[np.float32],
    grid: tuple[int, int],
    findings: dict[str, int],
    study: Study,
) -> dict[str, NDArray[np.float32]]:
    """Return finding → map on the image as its file stores it; ``grid`` (h, w) is of the image as it was turned."""
    frame = np.array([radiograph.frame], np.float32)
    upright = maps_on_images(cells[None], frame, grid, study.evaluation.smoothing)[0]
    maps = turn(upright, reversed(radiograph.turned)).astype(np.float32)
    return {finding: maps[k] for finding, k in findings.items()}


def _write_table(path: Path, rows: Sequence[Any], columns: Sequence[str]) -> None:
    text = pd.DataFrame(rows, columns=list(columns)).to_csv(index=False, float_format="%.6g")
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


def _map_names(files: Sequence[str]) -> dict[str, str]:
    """Return file → name of its map: its stem, which the first of several keeps; no name is another's stem."""
    stems = {file: Path(file).stem for file in files}
    taken, kept = set(stems.values()), set[str]()
    names = {}
    for file, stem in stems.items():
        name, count = stem, 1
        while stem in kept and name in taken:
            count += 1
            name = f"{stem}-{count}"
        names[file] = name
        taken.add(name)
        kept.add(stem)
    return names
