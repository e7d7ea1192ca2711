"""VinDr-CXR of two hospitals in Hanoi, as PhysioNet gives it and as the VinBigData challenge on Kaggle gave it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import BOX_COLUMNS, Card, Manifest, Problem
from hilum.databases.vindr_frames import SIZES, find_images, read_frames
from hilum.databases.vindr_replica import write_kaggle, write_physionet
from hilum.databases.vindr_tables import NAME, PHYSIONET, Readings, read_readings
from hilum.errors import DataError
from hilum.findings.vocabulary import NO_FINDING

READERS = ("any", "majority", "unanimous")


class VinDr:
    """VinDr-CXR: 18,000 radiographs of two hospitals in Hanoi, each train image boxed by three radiologists."""

    card = Card(
        name=NAME,
        title="VinDr-CXR",
        hospital="Hospital 108 and Hanoi Medical University Hospital, Hanoi, Vietnam",
        licence="PhysioNet Credentialed Health Data License 1.5.0; on Kaggle, the rules of the challenge",
        citation="Nguyen et al. 2022, Sci. Data 9:429, arXiv:2012.15029",
        url=PHYSIONET,
        images=18_000,
        patients=None,
        labels=(
            "22 findings with boxes and 6 diagnoses, read by three of 17 radiologists (train) or the consensus of five "
            "(test); on Kaggle 14 findings of the 15,000 train images"
        ),
        notes=(
            "No patient id is published: every image counts as a patient, and that no patient is in both parts of the "
            "official split cannot be checked. Which of the two hospitals an image is from is not published either. "
            "All images are PA. An age of 0 years is taken as not stated."
        ),
    )

    replicas: ClassVar = {"physionet": write_physionet, "kaggle": write_kaggle}

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, readers: str = "any") -> Manifest:
        """Read the tables of PhysioNet (``annotations/``) or of Kaggle (``train.csv``) under ``root``.

        ``readers``: who must see a finding, 'any', 'majority' or 'unanimous'; all must see No Finding. Images are
        DICOM, PNG or JPEG. The sizes in which the boxes are given are the DICOM files' or ``train_meta.csv``'s; with
        ``labels_only`` the boxes of images without a known size are kept with corners NaN. Raises ``DataError``.
        """
        if readers not in READERS:
            raise DataError(
                f"{NAME}: expected the option 'readers' as one of {', '.join(READERS)}; found {readers!r}. "
                "Correct the study file."
            )
        root, readings = read_readings(root)
        listed = readings.images
        paths = find_images(root, listed["image_id"], listed["part"])
        places = paths.set_axis(listed["row"].astype(str) + " of '" + listed["file"] + "'")
        where = "'train/*.dicom', 'train/*.png' or 'train/*.jpg'"
        present, problems = layout.listed_images(NAME, root, "tables", places, where, labels_only)
        listed, paths = listed[present], paths[present]
        frames = read_frames(NAME, root, listed["image_id"], paths, labels_only)
        ages, age_problems = layout.ages_in_years("headers", frames["age"])
        images = layout.image_table(
            {
                "image_id": listed["image_id"],
                "path": paths,
                "patientid": listed["image_id"],
                "view": "PA",
                "age_years": ages.mask(ages == 0),
                "sex_male": frames["sex"].map({"M": 1.0, "F": 0.0}),
                "official_split": listed["part"] if readings.official_split else np.nan,
            }
        )
        labels = _labels(readings, readers)[present].reset_index(drop=True)
        boxes, box_problems = _boxes(readings.boxes, labels, images["image_id"], frames, labels_only)
        problems = [*readings.problems, *problems, *age_problems, *box_problems]
        extra = readings.votes[present].add_prefix("votes: ").assign(readers=listed["readers"]).reset_index(drop=True)
        rows = tuple(listed["file"] + " row " + listed["row"].astype(str))
        return Manifest(NAME, root, images, labels, boxes, problems=tuple(problems), rows=rows, extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write PhysioNet's layout: 12 train images of three readers each and 4 test images of one consensus."""
        write_physionet(root)


def _labels(readings: Readings, readers: str) -> pd.DataFrame:
    """Return 1 or 0 for every finding on which the readers are asked, No Finding last."""
    columns = [*sorted(str(name) for name in readings.votes if name != NO_FINDING), NO_FINDING]
    votes = readings.votes[columns].astype(np.float64)
    asked = readings.images["readers"].to_numpy(np.float64)[:, None]
    least = {"any": np.ones_like(asked), "majority": np.floor(asked / 2) + 1, "unanimous": asked}[readers]
    needed = np.where([name == NO_FINDING for name in columns], asked, least)
    return (votes >= needed).astype(np.float64).where(votes.notna())


def _boxes(
    boxes: pd.DataFrame, labels: pd.DataFrame, names: pd.Series, frames: pd.DataFrame, labels_only: bool
) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the boxes of positive findings as fractions of the original image."""
    positive = labels.set_axis(names).stack()
    keys = pd.MultiIndex.from_frame(boxes[["image_id", "finding"]])
    pixels = boxes[keys.isin(positive.index[(positive == 1).to_numpy()])].set_index("row", drop=False)
    pixels = pixels.join(frames.set_axis(names)[["width", "height", "stated"]], on="image_id")
    sized = _sized(pixels)
    found, problems = layout.relative_boxes("boxes", pixels[sized])
    unsized = pixels.loc[~sized, ["image_id", "finding", "reader", "row"]]
    if labels_only:
        found = pd.concat([found, unsized.assign(**dict.fromkeys(layout.CORNERS, np.nan))], ignore_index=True)
    elif len(unsized):
        reason = (
            f"{len(unsized)} boxes are left out: they are in px of the original images, whose size is not known. Add "
            f"'{SIZES}' with the columns image_id, dim0 (height) and dim1 (width)"
        )
        problems.append(Problem("boxes", reason, "box on an image of unknown size", len(unsized)))
    return found[[*BOX_COLUMNS, "reader", "row"]], problems


def _sized(pixels: pd.DataFrame) -> pd.Series:
    """Tell which boxes lie on an image whose original size is known.

    The size of a PNG or JPEG is that of the original unless some box leaves such an image: then all were resized.
    """
    stated = pixels["stated"].astype(bool)
    leaves = (pixels["x1"] > pixels["width"] + 1) | (pixels["y1"] > pixels["height"] + 1)
    resized = bool((leaves & ~stated).any())
    return pixels["width"].notna() & pixels["height"].notna() & (stated | (not resized))
