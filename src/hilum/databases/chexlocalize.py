"""CheXlocalize: masks of ten findings on the val and test images of CheXpert, in the layout of its download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hilum.databases import layout, rle
from hilum.databases.chexpert_tables import OBSERVATIONS, image_table, listed_images, read_images, rows_in
from hilum.databases.manifest import MASK_COLUMNS, RUN_COLUMNS, Card, Manifest, Problem
from hilum.databases.replica import draw_radiograph
from hilum.errors import DataError
from hilum.findings.aliases import finding_of

NAME = "chexlocalize"
URL = "https://aimi.stanford.edu/datasets/chexlocalize"
FOLDER = "chexlocalize"
PARTS = ("val", "test")
IMAGES, MASKS = "CheXpert", "CheXlocalize"
LOCALIZED_10 = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Airspace Opacity", "Edema", "Consolidation"),
    *("Atelectasis", "Pneumothorax", "Pleural Effusion", "Support Devices"),
)
FINDINGS_14 = tuple(finding_of(NAME, name) for name in OBSERVATIONS)


class CheXlocalize:
    """CheXlocalize: CheXpert's val and test images, read by radiologists, with masks of ten findings."""

    card = Card(
        name=NAME,
        title="CheXlocalize",
        hospital="Stanford Health Care, Stanford, USA",
        licence="research only, on the terms of Stanford University; do not redistribute",
        citation="Saporta et al. 2022, Nat. Mach. Intell. 4:867-878, doi:10.1038/s42256-022-00536-x",
        url=URL,
        images=902,
        patients=700,
        labels="14 observations read by radiologists, all known; masks of ten of them drawn by two radiologists",
        notes=(
            "All images are CheXpert's val and test parts: never train on both without removing what they share. "
            "Its Airspace Opacity is Lung Opacity. A positive image may be without a mask. The second group of "
            "radiologists (hb_annotations_test.json, hb_salient_pt_test.json) is not read."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the label tables and the masks of the parts that are there; raises ``DataError``.

        ``root`` holds the folders ``CheXpert`` and ``CheXlocalize``, or the folder ``chexlocalize`` with both.
        """
        home = next((folder for folder in (root, root / FOLDER) if (folder / IMAGES).is_dir()), root)
        base = "" if home == root else f"{FOLDER}/"
        table, problems = _read_labels(home)
        table["path"] = base + _folders(home, table["split"]) + "/" + table["studyid"] + "/" + table["name"]
        where = f"'{IMAGES}/val/patient64541/study1/*.jpg'"
        present, absent = listed_images(NAME, root, table, where, labels_only)
        masks, mask_problems = _read_masks(home, table["key"], table["key"][present])
        table = table[present]
        labels = table[list(FINDINGS_14)].reset_index(drop=True)
        images, rows = image_table(table), rows_in(table)
        problems += absent + mask_problems
        return Manifest(NAME, root, images, labels, masks=masks, problems=tuple(problems), rows=rows)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 6 patients of val and 8 of test with laterals, and masks of what their frontal images show."""
        for part, first, count in (("val", 64_541, 6), ("test", 64_741, 8)):
            lines, masks = [",".join(("Path", *OBSERVATIONS))], {}
            for k in range(count):
                seen = [(k + j) % 3 == 0 for j in range(len(OBSERVATIONS))]
                for view, side in enumerate(("frontal", "lateral")[: 1 + k % 2], 1):
                    study = f"patient{first + k}/study1/view{view}_{side}"
                    _draw(root / IMAGES / part / f"{study}.jpg", study)
                    folder = "CheXpert-v1.0/valid" if part == "val" else part
                    lines.append(",".join((f"{folder}/{study}.jpg", *(f"{float(cell)}" for cell in seen))))
                    shown = {finding_of(NAME, name) for name, cell in zip(OBSERVATIONS, seen, strict=True) if cell}
                    masks[study.replace("/", "_")] = _replica_masks(shown if side == "frontal" else set())
            (root / IMAGES / f"{part}_labels.csv").write_text("\n".join(lines) + "\n")
            (root / MASKS).mkdir(exist_ok=True)
            (root / MASKS / f"gt_segmentations_{part}.json").write_text(json.dumps(masks))


def _draw(path: Path, seed: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_radiograph(seed, lesions=((0.25, 0.5, 0.5, 0.75),)).save(path)


def _replica_masks(shown: set[str]) -> dict[str, Any]:
    """Return all ten masks of an image: 24 × 24 px of the findings shown, none of the others."""
    # COCO's form of runs: 96 × 96 px without a mask, and with 24 columns of 24 px from (24, 48).
    none, some = _coco([96 * 96]), _coco([24 * 96 + 48, *[24, 72] * 23, 24, 4536])
    return {
        name: {"size": [96, 96], "counts": some if finding_of(NAME, name) in shown else none} for name in LOCALIZED_10
    }


def _coco(runs: list[int]) -> str:
    """Return runs in COCO's compressed form; see ``rle.from_coco``."""
    text = ""
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            code, value = value & 0x1F, value >> 5
            more = value != (-1 if code & 0x10 else 0)
            text += chr(code + 48 + 0x20 * more)
    return text


def _read_labels(home: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the images of the parts whose table is there; raises ``DataError`` without labels or masks."""
    names = [f"{IMAGES}/{part}_labels.csv" for part in PARTS]
    layout.require_file(NAME, home, *names, source=URL)
    layout.require_file(NAME, home, *(f"{MASKS}/gt_segmentations_{part}.json" for part in PARTS), source=URL)
    tables, problems = [], []
    for name in names:
        if (file := layout.find_file(home, name)) is None:
            problems.append(layout.absent_file(name, "its part is not read", URL))
            continue
        table, found = read_images(NAME, file)
        tables.append(table)
        problems += found
    return pd.concat(tables), problems


def _folders(home: Path, splits: pd.Series) -> pd.Series:
    valid = "valid" if (home / IMAGES / "valid").is_dir() and not (home / IMAGES / "val").is_dir() else "val"
    return splits.map({"val": f"{IMAGES}/{valid}", "test": f"{IMAGES}/test"})


def _read_masks(home: Path, listed: pd.Series, kept: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the masks of ``kept``; an empty mask is none. A mask of an image that is not ``listed`` is a problem."""
    keys = {key.partition("/")[2].rpartition(".")[0].replace("/", "_"): key for key in listed}
    read = set(kept)
    rows: list[tuple[Any, ...]] = []
    problems: list[Problem] = []
    for part in PARTS:
        name = f"{MASKS}/gt_segmentations_{part}.json"
        if not (home / name).is_file():
            problems.append(layout.absent_file(name, "no mask of its part is read", URL))
            continue
        masks = _load(home / name)
        stray = [image for image in masks if image not in keys]
        reasons = (f"the image '{image}' is not in the label tables" for image in stray)
        summary, kind = "images with masks are not in the label tables", "mask of an image not in the label table"
        problems += layout.listed(name, stray, reasons, summary, kind)
        for image, findings in masks.items():
            if keys.get(image) in read:
                rows += [(keys[image], *_mask(name, image, *item)) for item in findings.items()]
    filled = [row for row in rows if " " in row[3]]
    return pd.DataFrame(filled, columns=[*MASK_COLUMNS, *RUN_COLUMNS]), problems


def _load(file: Path) -> dict[str, dict[str, Any]]:
    try:
        masks = json.loads(file.read_bytes())
        if isinstance(masks, dict) and all(isinstance(findings, dict) for findings in masks.values()):
            return masks
    except ValueError:
        pass
    raise DataError(
        f"{NAME}: expected an object of images and their findings in '{file.name}'; found other content. "
        "Download it again."
    )


def _mask(file: str, image: str, finding: str, coco: dict[str, Any]) -> tuple[str, float, str, int, int]:
    """Return the finding, no path, the runs, width and height of one mask; runs without a space are an empty mask."""
    try:
        height, width = (int(side) for side in coco["size"])
        return finding_of(NAME, finding), np.nan, rle.from_coco(str(coco["counts"]), width, height), width, height
    except (TypeError, KeyError, ValueError, IndexError, DataError) as error:
        raise DataError(
            f"{NAME}: expected 'size' [height, width] and the runs of COCO in 'counts' for '{finding}' of '{image}' "
            f"in '{file}'; found other content ({error}). Download it again."
        ) from None
