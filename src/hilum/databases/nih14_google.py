"""Google's expert labels of ChestX-ray14, in the layout of their download beside that of the NIH."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.nih14 import image_paths
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.aliases import finding_of
from hilum.findings.vocabulary import NO_FINDING

NAME = "nih14_google"
URL = "https://cloud.google.com/healthcare-api/docs/resources/public-datasets/nih-chest"
BUCKET = "gcs-public-data--healthcare-nih-chest-xray-labels"
FOLDERS = {"four": "four_findings_expert_labels", "all": "all_findings_expert_labels"}
TABLES = {"test_labels.csv": "test", "validation_labels.csv": "val"}
READERS = {"four": "individual_readers.csv", "all": "test_individual_readers.csv"}
JOINED = "google2019_nih-chest-xray-labels.csv"
COLUMNS = {
    "four": ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"),
    "all": (
        *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
        *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia"),
    ),
}
ABNORMAL = "Abnormal"
_ANSWERS = {"YES": 1.0, "NO": 0.0, "HEDGE": -1.0, "1": 1.0, "0": 0.0}
_FURTHER = ("Patient Age", "Patient Gender", "View Position", "Set Id", "Finding Labels", "Other")


class NIH14Google:
    """Google's relabels of ChestX-ray14: 4,376 images that three radiologists each judged until they agreed."""

    card = Card(
        name=NAME,
        title="ChestX-ray14, expert labels of Google",
        hospital="NIH Clinical Center, Bethesda, USA; read by radiologists for Google",
        licence="labels: research and education, after a form; images: attribution to the NIH Clinical Center",
        citation="Majkowska et al. 2020, Radiology 294(2):421-431; Nabulsi et al. 2021, Sci. Rep. 11:15523",
        url=URL,
        images=4_376,
        patients=1_695,
        labels="fracture, pneumothorax, airspace opacity, nodule or mass, adjudicated by three radiologists",
        notes=(
            "All images are ChestX-ray14's: never train on both without removing what they share. Airspace opacity is "
            "read as Lung Opacity, nodule or mass as Nodule/Mass. The page of the labels counts 4,374 images, the "
            "table that torchxrayvision ships 4,376. Images were chosen so as to hold enough positives: prevalence is "
            "not that of the hospital."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, findings: str = "four") -> Manifest:
        """Read the labels under ``root``, and the images, which lie as ``nih14`` reads them.

        ``findings``: 'four' (adjudicated, 4,376 images) or 'all' (the 14 of the NIH by a majority of three
        radiologists, 810 of these images). Raises ``DataError``.
        """
        if findings not in FOLDERS:
            raise DataError(
                f"{NAME}: expected the option 'findings' as one of {', '.join(FOLDERS)}; found {findings!r}. "
                "Correct the study file."
            )
        tables = _tables(root, findings)
        table = pd.concat([_read_part(path, split, findings) for path, split in tables])
        table = table.drop_duplicates("image")
        paths = table["image"].map(image_paths(root)).astype(object).fillna("images/" + table["image"])
        source, where = FOLDERS[findings], "'images/*.png' or 'images_001/images/*.png'"
        present, problems = layout.listed_images(NAME, root, source, paths, where, labels_only)
        table = table[present]
        images, age_problems = _images(source, table, paths[present])
        labels = pd.DataFrame({finding_of(NAME, column): table[column] for column in COLUMNS[findings]})
        if findings == "all":
            labels[NO_FINDING] = 1 - table[ABNORMAL]
        further = table[["Finding Labels", "Other"]].dropna(axis="columns", how="all").reset_index(drop=True)
        extra = further.join(_votes(root, findings).reindex(table["image"]).reset_index(drop=True))
        rows = tuple(f"{file} row {row}" for file, row in zip(table["file"], table.index, strict=True))
        problems += age_problems + _absent_tables(root, findings, [path for path, split in tables if split])
        labels = labels.reset_index(drop=True)
        return Manifest(NAME, root, images, labels, problems=tuple(problems), rows=rows, extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 12 patients with 18 images, both sets of labels and the answers of three readers an image."""
        four, every, votes = [], [], []
        for patient in range(1, 13):
            for visit in range(1 + patient % 2):
                name, part = f"{patient:08d}_{visit:03d}.png", ("val", "test", "test")[patient % 3]
                answers = [("NO", "YES")[(patient + k) % 3 == 0] for k in range(4)]
                save_radiograph(root / "images" / name, lesions=((0.25, 0.5, 0.4, 0.7),) if "YES" in answers else ())
                view = ("AP", "PA")[patient % 2]
                four.append([name, "No Finding", visit, patient, 30 + patient, "MF"[patient % 2], view, *answers, part])
                votes += [[name, patient, 900 + k, *answers[:3], (answers[3], "HEDGE")[k // 2]] for k in range(3)]
                if (view, part) == ("PA", "test"):
                    ill = ["YES" if patient in (k, k + 5) and visit else "NO" for k in range(14)]
                    every.append([name, patient, int("YES" in ill), *ill, "NO"])
        meta = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"]
        head = [*meta, "View Position", *COLUMNS["four"], "Set Id"]
        for name, part in TABLES.items():
            _write(root, "four", name, [row for row in four if row[-1] == part], head)
        read = ["Image ID", "Patient ID", "Reader ID", *COLUMNS["four"][:3], "Nodule/mass"]
        _write(root, "four", READERS["four"], votes, read)
        _write(root, "all", "test_labels.csv", every, ["Image ID", "Patient ID", ABNORMAL, *COLUMNS["all"], "Other"])


def _images(source: str, table: pd.DataFrame, paths: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    ages, problems = layout.ages_in_years(source, table["Patient Age"])
    patients = table["patient"].str.strip().str.lstrip("0")
    columns = {
        "image_id": table["image"],
        "path": paths,
        "patientid": patients,
        "view": table["View Position"].where(table["View Position"].isin(("PA", "AP"))),
        "age_years": ages,
        "sex_male": table["Patient Gender"].map({"M": 1.0, "F": 0.0}),
        "official_split": table["Set Id"],
        "origin": "nih14/" + table["image"],
        "origin_patientid": "nih14/" + patients,
    }
    return layout.image_table(columns), problems


def _write(root: Path, findings: str, name: str, rows: list[list[object]], columns: list[str]) -> None:
    path = root / FOLDERS[findings] / name
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def _find(root: Path, findings: str, name: str) -> Path | None:
    """Return a table that is there: in its folder, or saved with the folder in its name."""
    folder = FOLDERS[findings]
    names = (f"{folder}/{name}", f"{folder}/{folder}_{name}", f"{folder}_{name}")
    files = (layout.find_file(base, name) for base in (root, root / BUCKET) for name in names)
    return next((file for file in files if file), None)


def _tables(root: Path, findings: str) -> list[tuple[Path, str | None]]:
    """Return every table of labels with the official split that it is of; the joined table tells it by itself."""
    found = [(file, part) for name, part in TABLES.items() if (file := _find(root, findings, name))]
    if found:
        return list(found)
    further = (JOINED,) if findings == "four" else ()
    return [(layout.require_file(NAME, root, f"{FOLDERS[findings]}/test_labels.csv", *further, source=URL), None)]


def _absent_tables(root: Path, findings: str, found: list[Path]) -> list[Problem]:
    """Return the problems of official tables that are not there, where any is: the joined one has no others."""
    parts = {name: "its part is not read" for name in (TABLES if findings == "four" else ("test_labels.csv",))}
    wanted = parts | {READERS[findings]: "what each reader said is unknown"}
    absent = [name for name in wanted if found and not _find(root, findings, name)]
    return [layout.absent_file(f"{FOLDERS[findings]}/{name}", wanted[name], URL) for name in absent]


def _read_part(file: Path, part: str | None, findings: str) -> pd.DataFrame:
    """Return a table with the columns image, file and ``_FURTHER``, and its answers as 1, 0, -1 or NaN."""
    image = {"four": "Image Index", "all": "Image ID"}[findings]
    answers = [*COLUMNS[findings], *((ABNORMAL,) if findings == "all" else ())]
    table = layout.read_table(NAME, file, (image, "Patient ID", *answers))
    layout.require_values(NAME, file.name, table, (image, "Patient ID"))
    columns = {column: _numbers(file.name, table[column]) for column in answers}
    table = table.rename(columns={"Patient Sex": "Patient Gender"})
    further = table.reindex(columns=list(_FURTHER)).astype(object)
    if findings == "all":
        further["View Position"] = "PA"
    if part:
        further["Set Id"] = part
    images = layout.relative_paths(NAME, file.name, table[image])
    return pd.DataFrame(columns).join(further).assign(image=images, file=file.name, patient=table["Patient ID"])


def _numbers(file: str, raw: pd.Series) -> pd.Series:
    answers = raw.str.strip().str.upper()
    wrong = answers.notna() & ~answers.isin(list(_ANSWERS))
    if wrong.any():
        raise DataError(
            f"{NAME}: expected YES, NO or HEDGE under \"{raw.name}\" in '{file}'; found another answer in the rows "
            f"{layout.rows_of(wrong)}. Download it again."
        )
    return answers.map(_ANSWERS).astype(np.float64)


def _votes(root: Path, findings: str) -> pd.DataFrame:
    """Return how many readers judged an image, and how many said yes and hedged for each finding; by image."""
    file = _find(root, findings, READERS[findings])
    if file is None:
        return pd.DataFrame()
    names = dict(zip(COLUMNS[findings], COLUMNS[findings], strict=True))
    if findings == "four":
        names["Nodule or mass"] = "Nodule/mass"
    table = layout.read_table(NAME, file, ("Image ID", *names.values()))
    given = {finding_of(NAME, column): _numbers(file.name, table[spelled]) for column, spelled in names.items()}
    votes = {"readers": pd.Series(1, index=table.index)}
    votes |= {f"{finding}: yes": (answers == 1).astype(int) for finding, answers in given.items()}
    hedged = {finding: (answers == -1).astype(int) for finding, answers in given.items()}
    votes |= {f"{finding}: hedge": answers for finding, answers in hedged.items() if answers.any()}
    return pd.DataFrame(votes).groupby(table["Image ID"]).sum()
