"""BrixIA: chest X-rays with Brixia scores, of Brescia and of the public Cohen set, as their tables lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.brixia_cohen import read_cohen
from hilum.databases.brixia_layout import NAME, REGIONS, find_table, region_scores
from hilum.databases.dicom_headers import view_positions
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError

URL = "https://brixia.github.io/"
# Version 2 is separated by semicolons, version 1 by commas.
TABLES = {"metadata_global_v2.csv": ";", "metadata_global_v1.csv": ","}
CONSENSUS = "metadata_consensus_v1.csv"
IMAGES = "dicom_clean"
REQUIRED = ("Filename", "StudyId", "Subject", "BrixiaScore", "BrixiaScoreGlobal")
KEPT = ("AgeAtStudyDateFiveYear", "ConsensusTestset", "StudyDate", "Modality", "Manufacturer")
PARTS = ("brescia", "cohen")


class Brixia:
    """BrixIA: COVID-19 patients of Brescia with the Brixia score of six lung regions, or the scored Cohen images."""

    card = Card(
        name=NAME,
        title="BrixIA COVID-19",
        hospital="ASST Spedali Civili di Brescia, Italy",
        licence="research only, on registration; do not redistribute",
        citation="Signoroni et al. 2021, BS-Net, Med. Image Anal. 71:102046",
        url=URL,
        images=4_695,
        patients=None,
        labels="COVID-19 of the patient, positive for every image; scores of six regions are kept as extra values",
        notes=(
            "Positives only. The first edition had 4,703 images. Ages are published in groups of five years and read "
            "as the middle of the group. The view is that of the DICOM header, or frontal. The re-annotated consensus "
            "set is no split by patients. Option 'part': 'cohen' reads the scores of 192 images of the Cohen set."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, part: str = "brescia") -> Manifest:
        """Read the tables and ``dicom_clean/`` under ``root`` or its ``data/``; raises ``DataError``.

        ``part``: 'brescia', or 'cohen' for ``public-annotations.csv`` over images of the Cohen set.
        """
        if part not in PARTS:
            raise DataError(
                f"{NAME}: expected the option 'part' as 'brescia' or 'cohen'; found {part!r}. Correct the study file."
            )
        return read_cohen(root, labels_only) if part == "cohen" else _read_brescia(root, labels_only)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 12 patients of Brescia with 18 images, of which four are in the consensus set."""
        rows, consensus = [], []
        for patient in range(12):
            for visit in range(1 + patient % 2):
                score = [(patient + visit + k) % 4 for k in range(6)]
                name, tested = f"{1000 + 10 * patient + visit}.dcm", int(patient > 9)
                made = ("CR", "SIEMENS") if patient % 3 else ("DX", "Villa Sistemi Medicali")
                lesions = ((0.2, 0.55, 0.4, 0.75),) if sum(score) > 8 else ()
                save_dicom_radiograph(root / IMAGES / name, lesions=lesions, view=("AP", "PA")[patient % 2])
                digits = "".join(map(str, score))
                who = (f"S{patient:03d}", "MF"[patient % 2], 9 + patient % 6)
                rows.append(
                    (name, 20200310 + visit, *made, 7000 + 10 * patient + visit, digits, sum(score), tested, *who)
                )
                if tested:
                    consensus.append((name, *(s + 0.2 for s in score), sum(score) + 1.2, *score, sum(score)))
        head = ["Filename", "StudyDate", "Modality", "Manufacturer", "StudyId", "BrixiaScore", "BrixiaScoreGlobal"]
        head += ["ConsensusTestset", "Subject", "Sex", "AgeAtStudyDateFiveYear"]
        pd.DataFrame(rows, columns=head).to_csv(root / next(iter(TABLES)), sep=";", index=False)
        head = ["Filename", *(f"{kind}{k}" for kind in ("Mean", "Mode") for k in (*REGIONS, "Global"))]
        pd.DataFrame(consensus, columns=head).to_csv(root / CONSENSUS, index=False)


def _read_brescia(root: Path, labels_only: bool) -> Manifest:
    source = find_table(root, tuple(TABLES), f"{URL}, on registration")
    separator = next(separator for name, separator in TABLES.items() if source.name.startswith(name))
    table = layout.read_table(NAME, source, REQUIRED, separator)
    layout.require_values(NAME, source.name, table, ("Filename", "Subject"))
    table = table.reindex(columns=[*table.columns, *(c for c in ("Sex", *KEPT) if c not in table)]).astype(object)
    folder = (source.parent / IMAGES).relative_to(root).as_posix()
    paths = folder + "/" + layout.relative_paths(NAME, source.name, table["Filename"])
    present, problems = layout.listed_images(NAME, root, source.name, paths, f"'{folder}/<Filename>'", labels_only)
    table, paths = table[present], paths[present]
    ages, age_problems = _ages(source.name, table["AgeAtStudyDateFiveYear"])
    scores, score_problems = _scores(source.name, table)
    images = layout.image_table(
        {
            "image_id": table["Filename"],
            "path": paths,
            "patientid": table["Subject"],
            "studyid": table["StudyId"],
            "view": "FRONTAL" if labels_only else _views(root, paths),
            "age_years": ages,
            "sex_male": table["Sex"].str.strip().str.upper().map({"M": 1.0, "F": 0.0}),
        }
    )
    consensus, consensus_problems = _consensus(source.parent, table["Filename"])
    extra = pd.concat([scores, consensus, table[list(KEPT)]], axis=1)
    labels = pd.DataFrame({"COVID-19": [1.0] * len(images)})
    return Manifest(
        NAME,
        root,
        images,
        labels,
        problems=tuple(problems + age_problems + score_problems + consensus_problems),
        rows=layout.rows_in(source.name, table),
        extra=extra.reset_index(drop=True),
    )


def _views(root: Path, paths: pd.Series) -> pd.Series:
    """Return the view of every header; where it is silent, the image is PA or AP, as the database promises."""
    views = view_positions([root / path for path in paths])
    return pd.Series(views, index=paths.index, dtype=object).fillna("FRONTAL")


def _ages(source: str, raw: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return the middle of the group of five years, such as 2 for 0 (0 to 4 years), in completed years."""
    groups = pd.to_numeric(raw, errors="coerce").astype(np.float64)
    years = (5 * groups + 2).where(groups.between(0, layout.OLDEST_YEARS / 5))
    wrong = raw[years.isna() & raw.notna()]
    reasons = (f"expected a group of five years from 0 to 24; found '{value}'; it is unknown" for value in wrong)
    summary = "ages are not within the groups 0 to 24; they are unknown"
    return years, layout.listed(source, wrong.index, reasons, summary, "age not plausible")


def _scores(source: str, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the scores of the regions, which are six digits that may have lost their leading zeros, and their sum."""
    digits = table["BrixiaScore"].str.strip().str.zfill(6)
    single = digits.str.extract("^" + "([0-3])" * 6 + "$")
    scores = region_scores(single, table["BrixiaScoreGlobal"])
    wrong = table["BrixiaScore"][single[0].isna() & digits.notna()]
    reasons = (f"expected a Brixia score of six digits from 0 to 3; found '{value}'; it is unknown" for value in wrong)
    summary = "Brixia scores are not six digits from 0 to 3; they are unknown"
    return scores, layout.listed(source, wrong.index, reasons, summary, "score not readable")


def _consensus(folder: Path, names: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the consensus of five radiologists, as ``MeanA`` and ``ModeA``; NaN for other images."""
    columns = [f"{kind}{region}" for kind in ("Mean", "Mode") for region in (*REGIONS, "Global")]
    if (file := layout.find_file(folder, CONSENSUS)) is None:
        problem = layout.absent_file(CONSENSUS, "the scores of the consensus set are unknown", URL)
        return pd.DataFrame(index=names.index), [problem]
    table = layout.read_table(NAME, file, ("Filename",)).drop_duplicates("Filename").set_index("Filename")
    found = table.reindex(index=names, columns=columns).apply(pd.to_numeric, errors="coerce").astype(np.float64)
    return found.set_axis(names.index), []
