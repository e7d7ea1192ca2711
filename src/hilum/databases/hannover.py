"""COVID-19 image repository of Hannover Medical School, in the layout of its repository."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Card, Manifest
from hilum.databases.replica import save_radiograph

NAME = "hannover"
TABLE = "data.csv"
_VIEWS = {"pa": "PA", "ap": "AP"}


class Hannover:
    """Hannover COVID-19 repository: chest X-rays of COVID-19 patients only."""

    card = Card(
        name=NAME,
        title="COVID-19 image repository",
        hospital="Hannover Medical School, Germany",
        licence="CC BY 3.0",
        citation="Winther et al. 2020, COVID-19 Image Repository, doi:10.6084/m9.figshare.12275009",
        url="https://github.com/ml-workgroup/covid-19-image-repository",
        images=243,
        patients=71,
        labels="COVID-19 of the patient, positive for every image",
        notes=(
            "Positives only: what a model learns here may be the site. Whether a film is normal or shows "
            "pneumonia is not stated, so both are unknown. Age is not published."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read ``data.csv`` and ``png/`` under ``root``; raises ``DataError``."""
        columns = ("image_id", "patient_id", "sex", "view")
        table = layout.read_table(NAME, layout.require_file(NAME, root, TABLE, source=cls.card.url), columns)
        layout.require_values(NAME, TABLE, table, columns[:2])
        paths = "png/" + table["image_id"] + ".png"
        present, problems = layout.listed_images(NAME, root, TABLE, paths, "'png/<image_id>.png'", labels_only)
        table = table[present]
        images = layout.image_table(
            {
                "image_id": table["image_id"],
                "path": paths[present],
                "patientid": table["patient_id"],
                "view": table["view"].str.lower().map(_VIEWS),
                "sex_male": table["sex"].str.lower().map({"m": 1.0, "f": 0.0}),
            }
        )
        labels = pd.DataFrame({"COVID-19": [1.0] * len(images)})
        rows = layout.rows_in(TABLE, table)
        return Manifest(NAME, root, images, labels, problems=tuple(problems), rows=rows)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 12 patients with 18 images."""
        rows = []
        for patient in range(12):
            for visit in range(1 + patient % 2):
                image = f"{patient:02x}{visit:02x}c0de"
                save_radiograph(root / "png" / f"{image}.png", lesions=((0.6, 0.5, 0.8, 0.75),))
                who = (f"{patient:02x}face00", "mf"[patient % 2], ("pa", "ap")[patient % 3 % 2], "DX")
                rows.append((image, *who, -3 * visit, "", ""))
        head = ["image_id", "patient_id", "sex", "view", "modality"]
        head += ["admission_offset", "icu_admission_offset", "death_offset"]
        pd.DataFrame(rows, columns=head).to_csv(root / TABLE, index=False)
