"""MIMIC-CXR and MIMIC-CXR-JPG of the Beth Israel Deaconess Medical Center, in the layouts of PhysioNet."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.chexpert_tables import OBSERVATIONS
from hilum.databases.dicom_headers import view_positions
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.mimic_replica import write_dicom, write_jpg
from hilum.databases.mimic_tables import (
    KEYS,
    LABELLERS,
    METADATA,
    NAME,
    RECORDS,
    URL,
    has_list,
    read_labels,
    read_list,
    read_patients,
    read_splits,
)
from hilum.errors import DataError
from hilum.findings.aliases import finding_of

VERSIONS = ("2.1.0", "2.0.0")
VIEWS = {
    **dict.fromkeys(("PA", "PA LLD", "PA RLD", "POSTERO-ANTERIOR"), "PA"),
    **dict.fromkeys(("AP", "AP LLD", "AP RLD", "AP AXIAL", "ANTERO-POSTERIOR"), "AP"),
    **dict.fromkeys(("LATERAL", "LL", "RL", "XTABLE LATERAL", "SWIMMERS", "LEFT LATERAL"), "LATERAL"),
}
FINDINGS_14 = tuple(finding_of(NAME, name) for name in OBSERVATIONS)


class MIMICCXR:
    """MIMIC-CXR: 14 observations of the reports of a Boston hospital, as two labellers read them."""

    card = Card(
        name=NAME,
        title="MIMIC-CXR",
        hospital="Beth Israel Deaconess Medical Center, Boston, USA",
        licence="PhysioNet Credentialed Health Data License 1.5.0; do not redistribute",
        citation="Johnson et al. 2019, MIMIC-CXR-JPG, arXiv:1901.07042, doi:10.13026/jsn5-t979",
        url=URL,
        images=377_110,
        patients=65_379,
        labels="14 observations, mined from reports by CheXpert's labeller or by NegBio",
        notes=(
            "A blank cell is an observation that the report does not mention: unknown, not negative. The labels of a "
            "study are those of all its images. Age and sex are only known where the table of patients of MIMIC-IV "
            "lies beside; the age is that of the year of the study."
        ),
    )

    replicas: ClassVar = {"jpg": write_jpg, "dicom": write_dicom}

    @classmethod
    def read(
        cls, root: Path, *, labels_only: bool = False, labeller: str = "chexpert", radiologist: bool = False
    ) -> Manifest:
        """Read the images that the metadata or the list of records name, and the labels of one labeller.

        ``labeller``: 'chexpert', 'negbio' or 'agreement': what both say, -1 where they differ. ``radiologist``: take
        the labels of a radiologist for the studies of the test part that one has read. Raises ``DataError``.
        """
        _require_options(labeller, radiologist)
        home = next((folder for folder in (root, *(root / name for name in VERSIONS)) if has_list(folder)), root)
        table, source = read_list(home)
        prefix = "" if home == root else f"{home.name}/"
        table["path"] = prefix + _paths(home, source, table)
        studies = read_labels(home, labeller, radiologist)
        where = "'files/p10/p10000032/s50414267/*.jpg'"
        present, problems = layout.listed_images(NAME, root, source, table["path"], where, labels_only)
        table = table[present]
        problems += _unlabelled(source, table, studies.index)
        views = _views(root, table, labels_only)
        splits, split_problems = read_splits(home, table)
        ages, sexes, age_problems = read_patients(home, source, table)
        images = layout.image_table(
            {
                "image_id": table["dicom_id"],
                "path": table["path"],
                "patientid": table["subject_id"],
                "studyid": table["study_id"],
                "view": views,
                "age_years": ages,
                "sex_male": sexes,
                "official_split": splits,
                "origin": NAME + "/" + table["dicom_id"],
                "origin_patientid": NAME + "/" + table["subject_id"],
            }
        )
        extra = table.drop(columns=[*KEYS, "path"]).reset_index(drop=True)
        problems += split_problems + age_problems
        labels = studies[list(FINDINGS_14)].reindex(table["study_id"]).reset_index(drop=True)
        rows = layout.rows_in(source, table)
        return Manifest(NAME, root, images, labels, problems=tuple(problems), rows=rows, extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with 35 images, the tables of both labellers, of the split and of the radiologist."""
        write_jpg(root)


def _require_options(labeller: str, radiologist: bool) -> None:
    if labeller not in LABELLERS:
        raise DataError(
            f"{NAME}: expected the option 'labeller' as one of {', '.join(LABELLERS)}; found {labeller!r}. "
            "Correct the study file."
        )
    if not isinstance(radiologist, bool):
        raise DataError(
            f"{NAME}: expected the option 'radiologist' as true or false; found {radiologist!r}. "
            "Correct the study file."
        )


def _paths(home: Path, source: str, table: pd.DataFrame) -> pd.Series:
    """Return 'files/p10/p10000032/s50414267/<dicom_id>.jpg', or .dcm in MIMIC-CXR: where the records are listed."""
    subjects = table["subject_id"]
    folders = "files/p" + subjects.str[:2] + "/p" + subjects + "/s" + table["study_id"]
    stems = layout.relative_paths(NAME, source, folders + "/" + table["dicom_id"])
    if not layout.find_file(home, RECORDS):
        return stems + ".jpg"
    both = layout.find_file(home, METADATA) is not None
    return stems + (".jpg" if both and layout.on_disk(home, list(stems + ".jpg")).any() else ".dcm")


def _unlabelled(source: str, table: pd.DataFrame, studies: pd.Index) -> list[Problem]:
    """Return the problems of images whose study is in no row of the labels: eight studies have no report to read."""
    blank = ~table["study_id"].isin(studies)
    reasons = (f"the study '{study}' is not labelled; all its labels are unknown" for study in table["study_id"][blank])
    summary = "images are of studies that are not labelled; all their labels are unknown"
    return layout.listed(source, table.index[blank], reasons, summary, "image without labels")


def _views(root: Path, table: pd.DataFrame, labels_only: bool) -> pd.Series:
    """Return the view of the metadata, or else of the DICOM headers; NaN where it is oblique or not stated."""
    if "ViewPosition" in table:
        views = table["ViewPosition"].str.strip().str.upper().map(VIEWS).astype(object)
        if "ViewCodeSequence_CodeMeaning" in table:
            blank = table["ViewPosition"].isna()
            meanings = table["ViewCodeSequence_CodeMeaning"][blank].astype(str)
            views[blank] = meanings.str.strip().str.upper().map(VIEWS)
        return views
    found = np.nan if labels_only else view_positions([root / path for path in table["path"]])
    return pd.Series(found, table.index, dtype=object)
