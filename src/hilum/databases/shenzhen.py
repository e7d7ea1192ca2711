"""The Shenzhen tuberculosis set, in the layout of its official download."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.vocabulary import NO_FINDING

NAME = "shenzhen"
IMAGES, READINGS = "CXR_png", "ClinicalReadings"
_FILE = re.compile(r"CHNCXR_(\d{4})_([01])\.png")
_SEX = re.compile(r"\b(fe)?male\b", re.IGNORECASE)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*-?\s*([ymd])", re.IGNORECASE)


class Shenzhen:
    """Shenzhen chest X-ray set: tuberculosis or normal, one image a patient."""

    card = Card(
        name=NAME,
        title="Shenzhen chest X-ray set",
        hospital="Shenzhen No. 3 People's Hospital, China",
        licence="public, U.S. National Library of Medicine",
        citation="Jaeger et al. 2014, Quant. Imaging Med. Surg. 4(6):475-477",
        url="https://openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip",
        images=662,
        patients=662,
        labels="tuberculosis or normal, from the last digit of the file name",
        notes=(
            "The view is not stated. Images are padded to squares in some copies. The masks in mask/ are of "
            "the lungs, not of lesions, and are not read."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the images of ``CXR_png/``, and age and sex from ``ClinicalReadings/`` where it exists.

        Raises ``DataError`` if no image is named as ``CHNCXR_0001_0.png``.
        """
        names = [name for name in layout.list_names(root / IMAGES) if name != "Thumbs.db"]
        found = [(name, match) for name in names if (match := _FILE.fullmatch(name))]
        if not found:
            raise DataError(
                f"{NAME}: expected images named as '{IMAGES}/CHNCXR_0001_0.png' in '{root}'; found none in "
                f"{len(names)} files. Point the site at the folder that holds '{IMAGES}'. "
                f"It is given at {cls.card.url}."
            )
        odd = [name for name in names if not _FILE.fullmatch(name)]
        reason = "not named as CHNCXR_0001_0.png; it is left out"
        problems = [Problem(f"{IMAGES}/{name}", reason, "file not named as an image") for name in odd]
        ages, males, reading_problems = _readings(root, [name for name, _ in found])
        images = layout.image_table(
            {
                "image_id": [name for name, _ in found],
                "path": [f"{IMAGES}/{name}" for name, _ in found],
                "patientid": [match[1] for _, match in found],
                "age_years": ages,
                "sex_male": males,
            }
        )
        ill = np.array([float(match[2]) for _, match in found])
        labels = pd.DataFrame({"Tuberculosis": ill, NO_FINDING: 1 - ill})
        return Manifest(NAME, root, images, labels, problems=tuple(problems + reading_problems))

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with one image and one reading each."""
        (root / READINGS).mkdir(parents=True, exist_ok=True)
        for number in range(1, 15):
            ill = number % 2
            stem = f"CHNCXR_{number:04d}_{ill}"
            save_radiograph(root / IMAGES / f"{stem}.png", lesions=((0.2, 0.2, 0.35, 0.35),) if ill else ())
            sex = "male" if number % 3 else "Female"
            reading = "right upper PTB" if ill else "normal"
            (root / READINGS / f"{stem}.txt").write_text(f"{sex}  {20 + number}yrs\n{reading}\n", encoding="utf-8")


def _readings(root: Path, names: list[str]) -> tuple[list[float], list[float], list[Problem]]:
    """Return age in years and sex of every image, NaN where its reading is absent or does not say."""
    present = set(layout.list_names(root / READINGS))
    ages, males, problems = [], [], []
    for name in names:
        age = male = np.nan
        reading = Path(name).with_suffix(".txt").name
        if reading in present:
            line = (root / READINGS / reading).read_text(encoding="utf-8", errors="replace").strip()
            age, male = _age_and_sex(line.splitlines()[0] if line else "")
            if np.isnan(age) or np.isnan(male):
                reason = "expected a first line such as 'male 45yrs'; what it does not say is unknown"
                problems.append(Problem(f"{READINGS}/{reading}", reason, "reading without an age or a sex"))
        ages.append(age)
        males.append(male)
    return ages, males, problems


def _age_and_sex(line: str) -> tuple[float, float]:
    """Return years and 1/0 (male) from a line such as 'male 45yrs' or 'female, 8 months'."""
    sex, age = _SEX.search(line), _AGE.search(line)
    male = np.nan if sex is None else float(sex[1] is None)
    if age is None:
        return np.nan, male
    years = float(age[1]) * {"y": 1.0, "m": 1 / 12, "d": 1 / 365.25}[age[2].lower()]
    return (years if years <= layout.OLDEST_YEARS else np.nan), male
