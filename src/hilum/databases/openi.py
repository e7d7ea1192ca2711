"""The chest X-rays of Indiana University, in the layout of their download from Open-i."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.dicom_headers import view_positions, views_of
from hilum.databases.manifest import Card, Manifest
from hilum.databases.openi_mesh import COLUMNS, listed_by
from hilum.databases.openi_reports import FOLDER, NAME, URL, read_reports
from hilum.databases.positive_lists import labels_of
from hilum.databases.replica import save_radiograph

VIEWS = "nlmcxr_dicom_metadata.csv"
PNG, DICOM = "NLMCXR_png", "NLMCXR_dcm"


class OpenI:
    """Indiana University chest X-rays on Open-i: 7,470 images of 3,955 reports indexed by hand with MeSH terms."""

    card = Card(
        name=NAME,
        title="Indiana University chest X-rays (Open-i)",
        hospital="hospitals of the Indiana Network for Patient Care, USA, that are not named",
        licence="CC BY-NC-ND 4.0",
        citation="Demner-Fushman et al. 2016, J. Am. Med. Inform. Assoc. 23(2):304-310",
        url=URL,
        images=7_470,
        patients=3_955,
        labels="MeSH terms that people gave to every report, grouped into findings",
        notes=(
            "The labels are of the report, so that all its images have the same. One report is one patient, as "
            "published, and 104 have no image. A report that was not indexed, or of a film of poor quality, says "
            "nothing of what it does not name. View, age and sex are not in the reports; the view is in the headers of "
            "the DICOM files, which leave it blank for a third. The text of the reports is not read."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the reports under ``root``, unpacked or in their archive; images are PNG or DICOM.

        The view is read from ``nlmcxr_dicom_metadata.csv``, which torchxrayvision ships, or else from the DICOM
        files. Raises ``DataError``.
        """
        reports, problems = read_reports(root)
        listed = reports.explode("images").dropna(subset=["images"])
        table = listed.set_index("file", drop=False)
        paths = _paths(root, table["images"])
        where = f"'{PNG}/*.png', '*.png' or '{DICOM}/1/*.dcm'"
        present, absent = layout.listed_images(NAME, root, FOLDER, paths, where, labels_only)
        table, paths = table[present], paths[present]
        images = layout.image_table(
            {
                "image_id": table["images"],
                "path": paths,
                "patientid": table["report"],
                "studyid": table["report"],
                "view": _views(root, table["images"], paths, labels_only),
            }
        )
        labels = report_labels(reports).iloc[listed.index[present]].reset_index(drop=True)
        extra = table[["terms", "automatic"]].map("; ".join).reset_index(drop=True)
        extra = extra.rename(columns={"terms": "mesh", "automatic": "mesh automatic"})
        rows = tuple(f"{FOLDER}/{file}" for file in table["file"])
        told = tuple(problems + absent)
        return Manifest(NAME, root, images, labels, problems=told, rows=rows, extra=extra, facts=_facts(reports))

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 reports, one of them without an image, with 26 images, and the table of views."""
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        views = ["imageid,View Position,filename"]
        for number in range(1, 15):
            names = [] if number == 14 else [f"CXR{number}_IM-{number:04d}-{k}001" for k in (1, 2)]
            for name, view in zip(names, ("PA", "LL" if number % 2 else ""), strict=False):
                save_radiograph(root / PNG / f"{name}.png")
                views.append(f"{name},{view},./{name.removeprefix('CXR')}.dcm")
            terms = _REPLICA_TERMS[number % len(_REPLICA_TERMS)]
            (root / FOLDER / f"{number}.xml").write_text(_replica_report(number, terms, names), encoding="utf-8")
        (root / VIEWS).write_text("\n".join(views) + "\n", encoding="utf-8")


def report_labels(reports: pd.DataFrame) -> pd.DataFrame:
    """Return the raw labels of every report, those without an image too."""
    return labels_of([listed_by(terms) for terms in reports["terms"]], COLUMNS)


def _facts(reports: pd.DataFrame) -> dict[str, Any]:
    """Return what the images cannot tell: reports without an image, and the share of reports with a finding."""
    shares = (report_labels(reports) == 1).mean()
    return {
        "reports": len(reports),
        "reports without an image": int((reports["images"].map(len) == 0).sum()),
        "prevalence per report": {str(finding): float(share) for finding, share in shares.items()},
    }


def _film(images: pd.Series) -> pd.Series:
    """Return what an image is called in every form: '1_IM-0001-3001' of 'CXR1_1_IM-0001-3001'."""
    parts = images.str.extract(r"^(?:CXR)?(\d+)_(?:\d+_)?(IM.*)$")
    return (parts[0] + "_" + parts[1]).fillna(images)


def _paths(root: Path, images: pd.Series) -> pd.Series:
    """Return where every image lies: PNG before DICOM, and the first of these where none is on disk."""
    film = _film(images)
    folder = film.str.partition("_")[0] + "/"
    png, dicom = images + ".png", folder + film + ".dcm"
    choices = [f"{PNG}/" + png, png, f"{DICOM}/" + dicom, dicom]
    found = [layout.on_disk(root, list(paths)) for paths in choices]
    return pd.Series(np.select(found, choices, default=choices[0]), index=images.index, dtype=object)


def _views(root: Path, images: pd.Series, paths: pd.Series, labels_only: bool) -> pd.Series:
    """Return the view that the table of the headers tells, or else the headers of DICOM files."""
    if file := layout.find_file(root, VIEWS):
        table = layout.read_table(NAME, file, ("imageid", "View Position"))
        views = views_of(table["View Position"])
        told = pd.Series(views.to_numpy(), index=_film(table["imageid"]))
        return _film(images).map(told[~told.index.duplicated()])
    if labels_only or not paths.str.endswith(".dcm").any():
        return pd.Series(np.nan, index=images.index, dtype=object)
    return pd.Series(view_positions([root / path for path in paths]), index=images.index, dtype=object)


_REPLICA_TERMS: tuple[tuple[str, ...], ...] = (
    ("normal",),
    ("Cardiomegaly/mild", "Pleural Effusion/bilateral/small"),
    ("Opacity/lung/base/left", "Pulmonary Atelectasis/base/left", "Scoliosis/thoracic vertebrae"),
    ("No Indexing",),
    ("normal",),
    ("Technical Quality of Image Unsatisfactory", "Pneumonia/lower lobe/right"),
    ("Calcified Granuloma/lung/upper lobe/right", "Aorta/tortuous", "Costophrenic Angle/right/blunted"),
)


def _replica_report(number: int, terms: tuple[str, ...], images: list[str]) -> str:
    lines = [f"<major>{term}</major>" for term in terms]
    lines += ["<automatic>cardiomegaly</automatic>"] if "Cardiomegaly/mild" in terms else []
    pictures = [f'<parentImage id="{name}"><caption>PA and lateral</caption></parentImage>' for name in images]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            f'<eCitation>\n<uId id="CXR{number}"/>',
            '<MedlineCitation><Article><Abstract><AbstractText Label="FINDINGS">Made up.</AbstractText></Abstract>',
            "</Article></MedlineCitation>\n<MeSH>",
            *lines,
            "</MeSH>",
            *pictures,
            "</eCitation>\n",
        ]
    )
