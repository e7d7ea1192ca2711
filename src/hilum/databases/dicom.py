"""Radiographs as they come out of a hospital's archive: a folder of DICOM files, and labels where there are any."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.dicom_elements import DICOM_HEAD, is_dicom
from hilum.databases.dicom_headers import THREADS
from hilum.databases.dicom_identity import KEY_BYTES, KEY_FILE, pseudonym, site_key, write_key
from hilum.databases.dicom_labels import LABELS, NAME, read_labels
from hilum.databases.dicom_tags import IDENTIFIERS, Header, identifier, read_header, require_radiograph
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.replica import draw_radiograph
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError, ImageError
from hilum.progress import progress

NOT_DICOM = "not DICOM: it is left out"
NO_PATIENT = "no patient id: its study counts as a patient of its own"
ODD_AGE = "age not plausible: expected up to 120 years with their unit, as 045Y, 011M, 006W or 010D; it is unknown"
NOT_LISTED = "folder not readable: nothing in it is read"
_NO_IMAGES = ("DICOMDIR", KEY_FILE, LABELS, f"{LABELS}.gz", f"{LABELS}.zip")


EXTRA = ("laterality", "row_spacing_mm", "column_spacing_mm", "spacing_from")


class Found(NamedTuple):
    """What the header of one radiograph tells; identifiers are hashes."""

    path: str
    image_id: str
    patientid: str
    studyid: str
    view: str | None
    age_years: float | None
    sex_male: float | None
    patient_known: bool
    age_odd: bool
    laterality: str | None
    row_spacing_mm: float | None
    column_spacing_mm: float | None
    spacing_from: str | None


class DicomFolder:
    """A folder of DICOM files from a hospital's archive, with or without labels."""

    card = Card(
        name=NAME,
        title="A folder of DICOM files",
        hospital="yours",
        licence="the hospital's own",
        citation="none",
        url="",
        images=None,
        patients=None,
        labels="any findings of the vocabulary in an optional labels.csv",
        notes=(
            "Patient, study, view, age and sex come from the headers. Ids are keyed hashes; the key stays at the site. "
            "Files: docs/reference/databases/dicom.md."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, key_file: Path | None = None) -> Manifest:
        """Read the header of every DICOM file under ``root``, and ``labels.csv`` where it exists.

        ``key_file``: a file of 32 bytes that the ids are hashed with; without it, 'hilum-id-key' under ``root``, made
        on first use. ``labels_only`` changes nothing: what the manifest holds is in the headers. Files that are no
        chest radiographs are problems. Raises ``DataError`` if none is, or for a faulty ``labels.csv``.
        """
        names, closed = _files(root)
        if not names:
            raise DataError(f"{NAME}: expected DICOM files under '{root}'; found none. Correct the path of the site.")
        key = site_key(NAME, root, key_file)
        found, problems = _headers(root, names, key)
        if not found:
            raise DataError(
                f"{NAME}: expected chest radiographs in DICOM under '{root}'; found none in {len(names)} files "
                f"({problems[0].reason}). Point the site at the folder that holds them."
            )
        problems = _problems([(name, NOT_LISTED) for name in closed]) + problems
        # As object: text of pandas' own kind may not hold file names that are not UTF-8.
        table = pd.DataFrame(found, columns=list(Found._fields), dtype=object)
        table = table.where(table.notna(), np.nan)
        images = layout.image_table({name: table[name] for name in layout.IMAGE_COLUMNS if name in table})
        labels, label_problems = read_labels(root, images, key)
        return Manifest(NAME, root, images, labels, problems=tuple(problems + label_problems), extra=table[list(EXTRA)])

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 13 patients with 19 images of 18 studies, one of them lateral, one compressed, and two findings."""
        root.mkdir(parents=True, exist_ok=True)
        (root / KEY_FILE).unlink(missing_ok=True)
        write_key(root / KEY_FILE, bytes(range(KEY_BYTES)))
        rows = []
        for patient in range(13):
            ill = patient % 2
            for visit in range(2 if patient < 5 else 1):
                name = f"{patient:02d}/{visit}/IM{visit}.dcm"
                _save(root / name, patient, visit, ((0.2, 0.3, 0.4, 0.5),) if ill else ())
                rows.append((name, ill, -1 if patient == 3 else ill, 1 - ill))
        lateral = "00/0/lateral.dcm"
        _save(root / lateral, 0, 0, (), ViewPosition="LL")
        rows.append((lateral, 0, 0, 1))
        _compress(root / "01/0/IM0.dcm")
        head = ["image", "Pneumonia", "Lung Opacity", "No Finding"]
        pd.DataFrame(rows, columns=head).to_csv(root / LABELS, index=False)


def _files(root: Path) -> tuple[list[str], list[str]]:
    """Return the paths of all files that may be images, and of the folders that cannot be read.

    Relative to ``root``; hidden ones are passed over. Links to folders are followed after all else, so that a folder
    is read once, under its own path where it has one.
    """
    names: list[str] = []
    closed: list[str] = []
    starts, seen = [root], set()

    def inside(path: str, name: str = "") -> str:
        return (Path(path) / name).relative_to(root).as_posix()

    for start in starts:
        for folder, folders, files in os.walk(start, onerror=lambda error: closed.append(inside(error.filename))):
            status = Path(folder).stat()
            place = (status.st_dev, status.st_ino)
            shown = [] if place in seen else sorted(name for name in folders if not name.startswith("."))
            starts += [path for path in (Path(folder, name) for name in shown) if path.is_symlink()]
            if place not in seen:
                names += [inside(folder, n) for n in files if not n.startswith(".") and n not in _NO_IMAGES]
            folders[:] = shown
            seen.add(place)
    return sorted(names), closed


def _headers(root: Path, names: list[str], key: bytes) -> tuple[list[Found], list[Problem]]:
    """Return the radiographs among the files, each once, and the others as problems."""
    found: dict[str, Found] = {}
    refused = []
    with progress("reading headers", len(names)) as advance, ThreadPoolExecutor(THREADS) as pool:
        for name, answer in zip(names, pool.map(lambda name: _header(root, name, key), names), strict=True):
            advance()
            if isinstance(answer, str):
                refused.append((name, answer))
            elif answer.image_id in found:
                refused.append((name, "repeated image: a file read before is the same image; it is left out"))
            else:
                found[answer.image_id] = answer
    kept = list(found.values())
    told = [(image.path, NO_PATIENT) for image in kept if not image.patient_known]
    told += [(image.path, ODD_AGE) for image in kept if image.age_odd]
    return kept, _problems(refused) + _problems(told)


def _header(root: Path, name: str, key: bytes) -> Found | str:
    """Return what one file's header tells, or why it is left out."""
    path = root / name
    try:
        if not path.is_file():
            return NOT_DICOM
        with path.open("rb") as file:
            if not is_dicom(file.read(DICOM_HEAD)):
                return NOT_DICOM
            header = read_header(file, tuple(IDENTIFIERS))
        require_radiograph(header)
    except ImageError as error:
        return str(error)
    except (OSError, struct.error) as error:
        return f"unreadable: {type(error).__name__}"
    if not header.chest:
        return "not a chest: the header names another part of the body"
    return _found(header, name, key)


def _found(header: Header, name: str, key: bytes) -> Found:
    image, patient, study = (identifier(header, keyword) for keyword in IDENTIFIERS)
    (down, across), source = header.pixel_spacing or ((None, None), None)
    return Found(
        path=name,
        image_id=pseudonym(key, "image", image) if image else pseudonym(key, "path", name),
        patientid=pseudonym(key, "patient", patient) if patient else pseudonym(key, "unknown", study or image or name),
        studyid=pseudonym(key, "study", study) if study else "",
        view=header.view,
        age_years=header.age_years,
        sex_male=header.sex_male,
        patient_known=bool(patient),
        age_odd=bool(header.text("PatientAge")) and header.age_years is None,
        laterality=header.laterality,
        row_spacing_mm=down,
        column_spacing_mm=across,
        spacing_from=source,
    )


def _problems(reasons: Sequence[tuple[str, str]]) -> list[Problem]:
    """Return, for each kind of reason, its count and up to twenty files."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, reason in reasons:
        kinds.setdefault(reason.partition(":")[0], []).append((name, reason))
    problems = []
    for kind, files in kinds.items():
        several = len(files) > 1
        if several:
            problems.append(Problem("DICOM files", f"{len(files)} files: {kind}", kind, len(files)))
        problems += [Problem(n, r, kind, 0 if several else 1) for n, r in files[: layout.SINGLE_PROBLEMS]]
    return problems


def _save(
    path: Path, patient: int, visit: int, lesions: tuple[tuple[float, float, float, float], ...], **tags: object
) -> None:
    """Write one image of the replica; every third patient's are MONOCHROME1."""
    name = f"{patient:02d}-{visit}-{path.name}"
    tags |= {"PatientID": f"{patient:04d}", "StudyInstanceUID": f"2.25.{1000 + 10 * patient + visit}"}
    tags |= {"SOPInstanceUID": f"2.25.{int.from_bytes(name.encode(), 'big')}"}
    if patient % 3 == 0:
        film = 4095 - (np.asarray(draw_radiograph(path.name, (96, 96), lesions), np.uint16) << 4)
        tags |= {"PhotometricInterpretation": "MONOCHROME1", "PixelData": film.astype("<u2").tobytes()}
    view = str(tags.pop("ViewPosition", ("PA", "AP")[patient % 2]))
    save_dicom_radiograph(path, (96, 96), lesions, view, "MF"[patient % 2], f"{40 + patient:03d}Y", **tags)


def _compress(path: Path) -> None:
    """Rewrite a file with run-length coded pixels."""
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    data = dcmread(path)
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path)
