"""Paediatric pneumonia of the Guangzhou Women and Children's Medical Center (Kermany et al. 2018)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.aliases import finding_of
from hilum.findings.vocabulary import NO_FINDING

NAME = "kermany"
FOLDER = "chest_xray"
PARTS, CLASSES = ("train", "val", "test"), ("NORMAL", "PNEUMONIA")
_NAMES = {
    "PNEUMONIA": re.compile(r"(?P<patient>person\d+)_(?P<kind>bacteria|virus)_\d+\.jpe?g", re.IGNORECASE),
    "NORMAL": re.compile(r"(?P<patient>(?:NORMAL\d*-)?IM-\d+)(?:-\d+)+\.jpe?g", re.IGNORECASE),
}


class Kermany:
    """Paediatric chest X-rays of Guangzhou: pneumonia, bacterial or viral, or normal."""

    card = Card(
        name=NAME,
        title="Chest X-ray images for classification (Kermany)",
        hospital="Guangzhou Women and Children's Medical Center, China",
        licence="CC BY 4.0",
        citation="Kermany et al. 2018, Cell 172(5):1122-1131",
        url="https://data.mendeley.com/datasets/rscbjbr9sj/2",
        images=5_856,
        patients=None,
        labels="pneumonia (bacterial or viral, from the file name) or No Finding",
        notes=(
            "Children of one to five years. The folders train, val and test share patients, so there is no "
            "official split; the patient is read from the file name. AP by the paper; no file says so."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the images under ``root/chest_xray`` or ``root``; raises ``DataError`` if there are none."""
        base = f"{FOLDER}/" if (root / FOLDER).is_dir() else ""
        rows, problems = [], []
        for kind in (f"{part}/{name}" for part in PARTS for name in CLASSES):
            for file in layout.list_names(root / base / kind):
                match = _NAMES[kind.partition("/")[2]].fullmatch(file)
                if match:
                    rows.append((f"{kind}/{file}", file, *_patient_and_cause(match)))
                else:
                    reason = "the patient cannot be read from this file name; it is left out"
                    problems.append(Problem(f"{kind}/{file}", reason, "file name without a patient"))
        if not rows:
            raise DataError(
                f"{NAME}: expected images as '{FOLDER}/train/NORMAL/*.jpeg' in '{root}'; found none. "
                f"Point the site at the folder that holds '{FOLDER}'. It is given at {cls.card.url}."
            )
        table = pd.DataFrame(rows, columns=["path", "file", "patient", "cause"])
        repeated = table["file"].duplicated(keep=False)
        images = layout.image_table(
            {
                "image_id": table["file"].where(~repeated, table["path"]),
                "path": base + table["path"],
                "patientid": table["patient"],
            }
        )
        return Manifest(NAME, root, images, _labels(table["cause"]), problems=tuple(problems))

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with 20 RGB images; one has bacteria and virus, two files share a name."""
        names = [f"train/PNEUMONIA/person{n}_bacteria_{n}.jpeg" for n in range(1, 5)]
        names += [f"train/PNEUMONIA/person{n}_virus_{n + 10}.jpeg" for n in (4, 5, 6)]
        names += ["test/PNEUMONIA/person1_bacteria_2.jpeg", "test/PNEUMONIA/person7_virus_7.jpeg"]
        names += ["val/PNEUMONIA/person7_virus_8.jpeg", "test/PNEUMONIA/person5_virus_15.jpeg"]
        names += [f"train/NORMAL/IM-{n:04d}-0001.jpeg" for n in (115, 116, 117, 118)]
        names += ["test/NORMAL/IM-0115-0001-0002.jpeg", "val/NORMAL/NORMAL2-IM-0116-0001.jpeg"]
        names += ["train/NORMAL/NORMAL2-IM-1427-0001.jpeg", "test/NORMAL/NORMAL2-IM-1427-0001.jpeg"]
        names += ["test/NORMAL/NORMAL2-IM-0300-0001.jpeg"]
        for name in names:
            lesions = ((0.2, 0.4, 0.42, 0.7),) if "person" in name else ()
            save_radiograph(root / FOLDER / name, lesions=lesions, mode="RGB")


def _patient_and_cause(match: re.Match[str]) -> tuple[str, str]:
    cause = match.groupdict().get("kind")
    return match["patient"], cause.lower() if cause else "NORMAL"


def _labels(causes: pd.Series) -> pd.DataFrame:
    healthy = (causes == "NORMAL").to_numpy(np.float64)
    types = {finding_of(NAME, cause): (causes == cause).to_numpy(np.float64) for cause in ("bacteria", "virus")}
    return pd.DataFrame({"Pneumonia": 1 - healthy, NO_FINDING: healthy, **types})
