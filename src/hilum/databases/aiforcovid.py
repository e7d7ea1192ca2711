"""AIforCOVID of six Italian hospitals, in the layout of its three releases or of its challenge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases import layout
from hilum.databases.dicom_headers import view_positions
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.databases.spreadsheets import SHEETS
from hilum.errors import DataError

NAME = "aiforcovid"
URL = "https://aiforcovid.radiomica.it/"
# Table → where its images lie, beside it.
RELEASES = {"AIforCOVID": "imgs", "AIforCOVID_r2": "imgs_r2", "AIforCOVID_r3": "imgs_r3"}
CHALLENGE = {"trainClinData": "TrainSet", "completeTestClinData": "TestSet", "testClinData": "TestSet"}
TABLES = RELEASES | CHALLENGE
CLINICAL = (
    *("Age", "Sex", "PositivityAtAdmission", "Temp_C", "DaysFever", "Cough", "DifficultyInBreathing", "WBC", "RBC"),
    *("CRP", "Fibrinogen", "Glucose", "PCT", "LDH", "INR", "D_dimer", "Ox_percentage", "PaO2", "SaO2", "PaCO2", "pH"),
    *("CardiovascularDisease", "IschemicHeartDisease", "AtrialFibrillation", "HeartFailure", "Ictus"),
    *("HighBloodPressure", "Diabetes", "Dementia", "BPCO", "Cancer", "ChronicKidneyDisease", "RespiratoryFailure"),
    "Obesity",
)
FURTHER = ("Position", "Death")
_SUFFIX = re.compile(r"\.(?:dcm|png)$", re.IGNORECASE)


class AIforCOVID:
    """AIforCOVID: COVID-19 patients of six Italian hospitals, mild or severe, with 34 clinical values."""

    card = Card(
        name=NAME,
        title="AIforCOVID imaging archive",
        hospital="six hospitals in Italy, called A to F",
        licence="on request, on the terms of the archive",
        citation="Soda et al. 2021, AIforCOVID, Med. Image Anal. 74:102216",
        url=URL,
        images=1_586,
        patients=1_586,
        labels="COVID-19 of every patient; severe (ventilation, intensive care or death) or mild",
        notes=(
            "Positives only for COVID-19; severity is what can be learned. The column hospital tells the six apart. "
            "Its spreadsheets need hilum[spreadsheets], or are saved as CSV. Which of its codes 0 and 1 for sex is "
            "male is not stated in what we could read, so sex is unknown unless the option 'male' says so. The view "
            "is that of the DICOM header."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, male: int | None = None) -> Manifest:
        """Read the tables of the releases, or of the challenge, that are under ``root``, and their images.

        ``male``: the code (0 or 1) that means male in the column Sex. Raises ``DataError``.
        """
        if male not in (None, 0, 1) or isinstance(male, bool):
            raise DataError(f"{NAME}: expected the option 'male' as 0 or 1; found {male!r}. Correct the study file.")
        tables = _tables(root)
        table = pd.concat([_read_part(root, name, path) for name, path in tables.items()])
        present = np.ones(len(table), bool)
        if not labels_only or not len(table):
            present = layout.on_disk(root, list(table["path"]))
            layout.require_images(NAME, present, root, "'imgs/<ImageFile>.dcm' or 'TrainSet/<ImageFile>'")
        problems = _absent_tables(tables) + _absent(table, present)
        table = table[present]
        ages, age_problems = layout.ages_in_years("Age", table["Age"])
        images = layout.image_table(
            {
                "image_id": table["patient"],
                "path": table["path"],
                "patientid": table["patient"],
                "view": np.nan if labels_only else view_positions([root / path for path in table["path"]]),
                "age_years": ages,
                "sex_male": _males(table["Sex"], male),
                "hospital": table["Hospital"].str.strip().str.upper(),
            }
        )
        labels, label_problems = _labels(table)
        extra, number_problems = _clinical(table)
        problems += age_problems + label_problems + number_problems
        rows = tuple(f"{file} row {row}" for file, row in zip(table["file"], table.index, strict=True))
        return Manifest(NAME, root, images, labels, problems=tuple(problems), rows=rows, extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 18 patients of three releases and six hospitals, one image each, and their tables as CSV."""
        values = (1, 37.5, 4, 1, 1, 6.1, 4.5, 8.2, 410, 105, 0.1, 320, 1.1, 600, 94, 66, 93, 35, 7.4)
        for release, (name, folder) in enumerate(RELEASES.items(), 1):
            rows = []
            for k in range(6):
                patient, severe = f"P_{release}_{k + 1}", (k + release) % 2
                lesions = ((0.2, 0.5, 0.45, 0.75),) if severe else ()
                save_dicom_radiograph(root / folder / f"{patient}.dcm", lesions=lesions, view=("PA", "AP")[k % 2])
                measured = [value if (k + j) % 5 else "" for j, value in enumerate(values)]
                illnesses = [int((k + j) % 4 == 0) if j % 6 else "" for j in range(13)]
                who = (3 * k + 1, patient, "ABCDEF"[k], 40 + 5 * k + release, k // 2 % 2)
                rows.append((*who, *measured, *illnesses, k % 2, ("MILD", "SEVERE")[severe], ""))
            head = ["Row_number", "ImageFile", "Hospital", *CLINICAL, "Position", "Prognosis", "Death"]
            pd.DataFrame(rows, columns=head).to_csv(root / f"{name}.csv", index=False)


def _tables(root: Path) -> dict[str, Path]:
    """Return name → file of every table under ``root``; raises ``DataError`` if there is none."""
    found: dict[str, Path] = {}
    for name in TABLES:
        complete = name == "testClinData" and "completeTestClinData" in found
        if not complete and (file := _table_file(root, name)):
            found[name] = file
    if not found:
        layout.require_file(NAME, root, "AIforCOVID.csv", "trainClinData.csv", source=f"{URL}, on request")
    return found


def _table_file(root: Path, name: str) -> Path | None:
    """Return the CSV of a table, or else its spreadsheet."""
    places = (root, root / TABLES[name]) if name in CHALLENGE else (root,)
    tables = [layout.find_file(place, f"{name}.csv") for place in places]
    sheets = [sheet for place in places for end in SHEETS if (sheet := place / f"{name}{end}").is_file()]
    return next((file for file in [*tables, *sheets] if file), None)


def _absent_tables(tables: Mapping[str, Path]) -> list[Problem]:
    """Return the problems of tables that are absent among those of the releases, or of the challenge."""
    complete, bare = ("completeTestClinData", "testClinData")
    needed = [name for name in RELEASES if tables.keys() & RELEASES.keys()]
    needed += ["trainClinData", bare if bare in tables else complete] if tables.keys() & CHALLENGE.keys() else []
    return [
        layout.absent_file(f"{name}.csv", "its images are not read", f"{URL}, on request")
        for name in needed
        if name not in tables
    ]


def _read_part(root: Path, name: str, path: Path) -> pd.DataFrame:
    """Return a table with the columns file, patient and path, and its others as the first release spells them."""
    table = layout.read_table(NAME, path, ("ImageFile", "Hospital", "Prognosis"))
    layout.require_values(NAME, path.name, table, ("ImageFile",))
    spelled = {_letters(column): column for column in (*CLINICAL, *FURTHER)}
    table = table.rename(columns=lambda column: spelled.get(_letters(column), column))
    table = table.reindex(columns=["ImageFile", "Hospital", "Prognosis", *CLINICAL, *FURTHER]).astype(object)
    patients = table["ImageFile"].str.strip().str.replace(_SUFFIX, "", regex=True)
    layout.relative_paths(NAME, path.name, patients)
    paths = patients.map(_images(root, path.parent, TABLES[name])).astype(object)
    expected = (path.parent / TABLES[name]).relative_to(root).as_posix()
    paths = paths.where(paths.notna(), expected + "/" + patients + (".dcm" if name in RELEASES else ".png"))
    return table.assign(file=path.name, patient=patients, path=paths)


def _images(root: Path, beside: Path, folder: str) -> dict[str, str]:
    """Return name without suffix → path relative to ``root`` of the images in ``folder`` or beside the table."""
    return {
        _SUFFIX.sub("", file): (place / file).relative_to(root).as_posix()
        for place in (beside, beside / folder)
        for file in layout.list_names(place)
        if _SUFFIX.search(file)
    }


def _absent(table: pd.DataFrame, present: NDArray[np.bool_]) -> list[Problem]:
    """Return the problems of images that are not on disk, table by table."""
    problems: list[Problem] = []
    for file in table["file"].unique():
        own = (table["file"] == file).to_numpy()
        problems += layout.absent_problems(file, table["path"][own], present[own])
    return problems


def _letters(column: str) -> str:
    """Return the letters and digits of a column: 'D-dimer' and 'D_dimer' are one."""
    return re.sub(r"[^a-z0-9]", "", column.casefold())


def _males(raw: pd.Series, male: int | None) -> pd.Series:
    """Return 1, 0 or NaN from texts such as 'M', and from the codes 0 and 1 where ``male`` says what they mean."""
    known = {"M": 1.0, "MALE": 1.0, "F": 0.0, "FEMALE": 0.0}
    if male is not None:
        known |= {text: float(int(text[0]) == male) for text in ("0", "1", "0.0", "1.0")}
    return raw.str.strip().str.upper().map(known).astype(np.float64)


def _clinical(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the clinical values as numbers, NaN where blank, and the table that each row is from."""
    raw = table[[*CLINICAL, *FURTHER]]
    numbers = raw.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = int((raw.notna() & numbers.isna()).drop(columns="Sex").to_numpy().sum())
    reason = f"{wrong} clinical values are not numbers; they are unknown"
    problems = [Problem("clinical columns", reason, "clinical value not a number", wrong)] if wrong else []
    tables = table["file"].str.partition(".")[0]
    return numbers.assign(table=tables).reset_index(drop=True), problems


def _labels(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return COVID-19, 1 for all, and whether it is severe, NaN where the prognosis is blank."""
    raw = table["Prognosis"].str.strip()
    severe = raw.str.upper().map({"MILD": 0.0, "SEVERE": 1.0}).astype(np.float64)
    labels = pd.DataFrame({"COVID-19": 1.0, "Severe COVID-19": severe}).reset_index(drop=True)
    wrong = raw[(severe.isna() & raw.notna()).to_numpy()]
    reasons = (f"expected MILD or SEVERE; found '{value}'; it is unknown" for value in wrong)
    summary = "prognoses are neither MILD nor SEVERE; they are unknown"
    return labels, layout.listed("Prognosis", wrong.index, reasons, summary, "prognosis neither MILD nor SEVERE")
