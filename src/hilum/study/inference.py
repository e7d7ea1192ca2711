"""A run's models on new radiographs."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hilum.allocator import keep_freed_memory
from hilum.databases.dicom_elements import DICOM_HEAD, is_dicom
from hilum.errors import DataError, ImageError, RunError, StudyError
from hilum.images.cache import LeftOut
from hilum.images.decode import decode, detect_format, read_bytes
from hilum.images.dicom import read_dicom, turn
from hilum.images.intensity import normalize
from hilum.images.letterbox import letterbox
from hilum.localization.maps import maps_on_images
from hilum.models.classifier import LocalizingClassifier
from hilum.progress import progress
from hilum.study.arms import is_trained, load_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.localizer import build_localizer
from hilum.study.run import load_run_study
from hilum.study.spec import Study
from hilum.training.inference import infer
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


@dataclass(frozen=True)
class Predicted:
    """How many images were predicted, and which were not: they could not be read, or are lateral views."""

    images: int
    left_out: tuple[LeftOut, ...]


def predict_paths(
    run_root: Path,
    paths: Sequence[str | Path],
    out: Path,
    arm: str = "federated",
    site: str | None = None,
    seed: int | None = None,
    on_error: Literal["refuse", "leave_out"] = "refuse",
) -> Predicted:
    """Write predictions.csv, maps/ and maps/index.csv (image, map) for images and folders of images.

    With several seeds, probabilities and maps are the mean over their models. A finding that they saw no
    label of has a blank column and no map. Maps are [h, w] float16 in [0, 1], longest side ``MAP_SIDE``, and
    cover the whole image as its file stores it, also where it was turned for the models. A lateral view is
    always left out, an unreadable image with ``on_error`` 'leave_out'. An image's map has its stem; of several
    images of one stem the first keeps it and the others get '<stem>-2', '<stem>-3', … that are nobody's stem.
    Raises ``RunError``, ``StudyError``, ``DataError`` and ``ImageError``.
    """
    run = RunDirectory(run_root)
    study = load_run_study(run)
    keys = chosen_models(study, run, arm, site, seed)
    findings = taught_findings(study, run, keys)
    models = [load_model(study, run, key, site) for key in keys]
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
    rows, names = [], _map_names(list(radiographs))
    with progress("predicting", len(radiographs)) as advance:
        files = list(radiographs)
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            probabilities, cells = _infer(models, [radiographs[f] for f in part], precision, study)
            for file, p, c in zip(part, probabilities, cells, strict=True):
                rows.append({"image": file, **{f: float(p[k]) for f, k in findings.items()}})
                _write_map(out / "maps" / f"{names[file]}.npz", radiographs[file], c, findings, study)
            advance(len(part))
    table = pd.DataFrame(rows, columns=["image", *study.findings])
    index = pd.DataFrame([(f, f"{names[f]}.npz") for f in files], columns=["image", "map"])
    write_atomically(out / "maps" / "index.csv", index.to_csv(index=False).encode("utf-8", "surrogateescape"))
    write_atomically(
        out / "predictions.csv", table.to_csv(index=False, float_format="%.6g").encode("utf-8", "surrogateescape")
    )
    return Predicted(len(rows), tuple(left_out))


def chosen_models(study: Study, run: RunDirectory, arm: str, site: str | None, seed: int | None) -> list[ModelKey]:
    """Return the models of an arm, one a seed; raises ``StudyError`` for an arm, site or seed the run lacks."""
    if arm not in study.arms:
        raise StudyError(f"Expected --arm among those of the run: {', '.join(study.arms)}; found '{arm}'.")
    roles = run.roles()
    training = [name for name, role in roles.items() if role == "training"]
    if site is not None and site not in roles:
        raise StudyError(f"Expected --site among {', '.join(roles)}, or none for another hospital; found '{site}'.")
    if arm == "local" and site not in training:
        raise StudyError(f"--arm local has one model a hospital: name one with --site: {', '.join(training)}.")
    if seed is not None and seed not in study.seeds:
        raise StudyError(f"Expected --seed among {study.seeds}; found {seed}.")
    seeds = study.seeds if seed is None else [seed]
    keys = [ModelKey(s, arm, str(site) if arm == "local" else arm) for s in seeds]
    absent = [key for key in keys if not is_trained(run, key)]
    if absent:
        raise RunError(
            f"Expected trained models in {run.model(absent[0])}; there is none yet. "
            "Run 'hilum study … --resume' to the end, or choose another --seed."
        )
    return keys


def taught_findings(study: Study, run: RunDirectory, keys: Sequence[ModelKey]) -> dict[str, int]:
    """Return finding → column of those that the models have seen labels of; raises ``RunError``."""
    facts = run.read_json("run.json")
    taught = facts.get("taught") if isinstance(facts, dict) else None
    if taught is not None:  # between hospitals, where nobody is told the counts of the others
        return {finding: k for k, finding in enumerate(study.findings) if finding in taught}
    entries = run.read_json("sites.json")
    try:
        sites = {entry["name"]: entry for entry in entries}
        training = [name for name, role in run.roles().items() if role == "training"]
        teachers = [keys[0].model] if keys[0].arm == "local" else training

        def labelled(finding: str) -> bool:
            counts = (sites[name]["findings"][finding]["train"] for name in teachers)
            return any(c["positive"] + c["negative"] for c in counts)

        return {finding: k for k, finding in enumerate(study.findings) if labelled(finding)}
    except (KeyError, TypeError) as error:
        raise RunError(
            f"Expected the label counts of every site in {run.root / 'sites.json'}; the file is damaged ({error!r}). "
            "Run the study again with --resume: it writes the file anew."
        ) from None


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


def _infer(
    models: Sequence[LocalizingClassifier], radiographs: Sequence[Radiograph], precision: str, study: Study
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    pixels = np.stack([r.square for r in radiographs])
    images = torch.from_numpy(pixels).unsqueeze(1).float().div_(255)
    localize, flip = build_localizer(study), study.evaluation.flip
    inferred = [infer(model, [images], precision, flip, localize) for model in models]
    return np.mean([i.probabilities for i in inferred], 0), np.mean([i.maps for i in inferred], 0)


def _write_map(
    path: Path, radiograph: Radiograph, cells: NDArray[np.float32], findings: dict[str, int], study: Study
) -> None:
    scale = min(1.0, MAP_SIDE / max(radiograph.shape))
    grid = (max(1, round(radiograph.shape[0] * scale)), max(1, round(radiograph.shape[1] * scale)))
    frame = np.array([radiograph.frame], np.float32)
    upright = maps_on_images(cells[None], frame, grid, study.evaluation.smoothing)[0]
    maps = turn(upright, reversed(radiograph.turned))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{finding: maps[k].astype(np.float16) for finding, k in findings.items()})
    write_atomically(path, buffer.getvalue())


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
