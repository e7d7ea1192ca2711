"""The Montgomery County tuberculosis set, in the layout of its official download."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from hilum.databases import layout
from hilum.databases.manifest import MASK_COLUMNS, Card, Manifest, Problem
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.vocabulary import NO_FINDING

NAME = "montgomery"
URL = "https://openi.nlm.nih.gov/imgs/collections/NLM-MontgomeryCXRSet.zip"
FOLDER, IMAGES, READINGS = "MontgomerySet", "CXR_png", "ClinicalReadings"
MASKS = ("ManualMask/leftMask", "ManualMask/rightMask")
LUNGS = ("Left Lung", "Right Lung")
_FILE = re.compile(r"MCUCXR_(\d{4})_([01])\.png")
_PAIRS = 3


class Montgomery:
    """Montgomery County set: tuberculosis or normal, one image a patient, with masks of both lungs."""

    card = Card(
        name=NAME,
        title="Montgomery County chest X-ray set",
        hospital="Department of Health and Human Services, Montgomery County, Maryland, USA",
        licence="public, U.S. National Library of Medicine",
        citation="Jaeger et al. 2014, Quant. Imaging Med. Surg. 4(6):475-477",
        url=URL,
        images=138,
        patients=138,
        labels="tuberculosis or normal, from the last digit of the file name",
        notes=(
            "Postero-anterior images of 4020 × 4892 or 4892 × 4020 px. The masks are of the lungs, not of lesions. "
            "Whose left 'leftMask' means is not stated in what we could read: the lung on the right of the image is "
            "the patient's left, and the first pairs of masks tell which folder holds it."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the images of ``CXR_png/``, and the readings and masks where they are present.

        ``root`` is the folder MontgomerySet or its parent. Raises ``DataError`` if no image is named as
        ``MCUCXR_0001_0.png``.
        """
        root = root / FOLDER if (root / FOLDER).is_dir() else root
        names = [name for name in layout.list_names(root / IMAGES) if name.endswith(".png")]
        found = pd.Series([name for name in names if _FILE.fullmatch(name)], dtype=object)
        if found.empty:
            raise DataError(
                f"{NAME}: expected images named as '{IMAGES}/MCUCXR_0001_0.png' in '{root}'; found none in "
                f"{len(names)} images. Point the site at the folder that holds '{IMAGES}'; it is given at {URL}."
            )
        reason = "not named as MCUCXR_0001_0.png; it is left out"
        odd = [name for name in names if not _FILE.fullmatch(name)]
        problems = [Problem(f"{IMAGES}/{name}", reason, "file not named as an image") for name in odd]
        parts = found.str.extract(_FILE)
        readings, reading_problems = _readings(root, found)
        ages, age_problems = layout.ages_in_years(READINGS, readings["age"])
        images = layout.image_table(
            {
                "image_id": found,
                "path": f"{IMAGES}/" + found,
                "patientid": parts[0],
                "view": "PA",
                "age_years": ages.to_numpy(),
                "sex_male": readings["sex"].map({"M": 1.0, "F": 0.0}).to_numpy(),
            }
        )
        ill = parts[1].astype(np.float64)
        labels = pd.DataFrame({"Tuberculosis": ill, NO_FINDING: 1 - ill})
        extra = readings[["reading"]].reset_index(drop=True)
        problems += reading_problems + age_problems
        masks = _masks(root, list(found))
        return Manifest(NAME, root, images, labels, masks=masks, problems=tuple(problems), extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with one image, one reading and two masks each."""
        for folder in (READINGS, *MASKS):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(1, 15):
            ill = number % 2
            name = f"MCUCXR_{number:04d}_{ill}.png"
            save_radiograph(root / IMAGES / name, lesions=((0.2, 0.2, 0.35, 0.35),) if ill else ())
            for folder, left in zip(MASKS, (53, 15), strict=True):
                mask = Image.new("1", (96, 96))
                mask.paste(1, (left, 16, left + 28, 78))
                mask.save(root / folder / name)
            finding = "improved right upper infiltrate" if ill else "normal"
            text = f"Patient's Sex: {'FM'[number % 3 % 2]}\nPatient's Age: {20 + number:03d}Y\n{finding}\n"
            (root / READINGS / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def _readings(root: Path, names: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return sex, age and reading of every image as written, NaN where its reading is absent or does not say."""
    files = names.str.replace(".png", ".txt", regex=False)
    present = files.isin(layout.list_names(root / READINGS))
    texts = [
        (root / READINGS / file).read_text(encoding="utf-8", errors="replace") if there else ""
        for file, there in zip(files, present, strict=True)
    ]
    table = pd.Series(texts, files, dtype=object).str.extract(
        r"(?is)(?:.*?sex:[ \t]*(?P<sex>[a-z]))?(?:.*?age:[ \t]*(?P<age>\w+))?(?P<reading>.*)"
    )
    table = table.assign(sex=table["sex"].str.upper(), reading=table["reading"].str.strip())
    wanting = files[present & table[["sex", "age"]].isna().any(axis=1).to_numpy()]
    reason = 'expected "Patient\'s Sex: F" and "Patient\'s Age: 026Y"; what it does not say is unknown'
    problems = [Problem(f"{READINGS}/{file}", reason, "reading without an age or a sex") for file in wanting]
    return table, problems


def _masks(root: Path, names: list[str]) -> pd.DataFrame:
    """Return the masks of the lungs that are on disk, named after the patient's side."""
    folders = [set(layout.list_names(root / folder)) for folder in MASKS]
    pairs = [name for name in names if all(name in folder for folder in folders)]
    left, right = LUNGS if _left_is_on_the_right(root, pairs[:_PAIRS]) else LUNGS[::-1]
    rows = [
        {"image_id": name, "finding": finding, "path": f"{folder}/{name}"}
        for finding, folder, present in zip((left, right), MASKS, folders, strict=True)
        for name in names
        if name in present
    ]
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS))


def _left_is_on_the_right(root: Path, pairs: list[str]) -> bool:
    """Tell whether 'leftMask' lies on the right of the image in most pairs: then it is the patient's left."""
    votes = [np.sign(_centre(root / MASKS[0] / name) - _centre(root / MASKS[1] / name)) for name in pairs]
    return sum(votes) >= 0


def _centre(path: Path) -> float:
    """Return the mean column of a mask as a fraction of its width."""
    try:
        with Image.open(path) as image:
            marked = np.asarray(image.convert("L")).max(axis=0) > 0
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        raise DataError(f"{NAME}: expected a mask in '{path}'; found a file that does not open.") from None
    return float(np.flatnonzero(marked).mean() / len(marked)) if marked.any() else 0.5
