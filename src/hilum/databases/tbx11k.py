"""TBX11K of Nankai University, in the layout of its official download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases import layout
from hilum.databases.manifest import ABSENT, Card, Manifest, Problem
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.aliases import finding_of
from hilum.findings.vocabulary import NO_FINDING

NAME = "tbx11k"
ANNOTATIONS = "annotations/json"
FILES = ("TBX11K_train.json", "TBX11K_val.json", "TBX11K_trainval.json")
GROUPS = ("health", "sick", "tb")
TB, ACTIVE, OBSOLETE = "Tuberculosis", "Active Tuberculosis", "Obsolete Tuberculosis"
_KEY = ["file_name", "category", "x", "y", "w", "h"]


class TBX11K:
    """TBX11K: healthy, sick without tuberculosis, and tuberculosis with boxes of its lesions."""

    card = Card(
        name=NAME,
        title="TBX11K",
        hospital="hospitals in China that are not named, collected by Nankai University",
        licence="research only; do not redistribute",
        citation="Liu et al. 2020, Rethinking computer-aided tuberculosis diagnosis, CVPR",
        url="https://mmcheng.net/tb/",
        images=11_200,
        patients=None,
        labels="tuberculosis, active and obsolete tuberculosis, No Finding, read by radiologists",
        notes=(
            "No patient id is published: every image counts as a patient. 'Sick' is neither healthy nor "
            "tuberculosis. The test part has no public labels and extra/ holds other databases; neither is "
            "read. A lesion box is given twice: for its type and for tuberculosis."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the annotation files and lists under ``root``.

        Raises ``DataError`` where no annotation file is there or one is not COCO.
        """
        layout.require_file(NAME, root, *(f"{ANNOTATIONS}/{file}" for file in FILES), source=cls.card.url)
        absent_files = _absent_files(root)
        listed, lesions = _read_annotations(root)
        listed["group"] = listed["file_name"].str.partition("/")[0]
        listed = listed[listed["group"].isin(GROUPS)].reset_index(drop=True)
        paths = "imgs/" + listed["file_name"]
        present = layout.on_disk(root, list(paths)) | labels_only
        layout.require_images(NAME, present, root, "'imgs/tb/*.png'")
        absent = (f"the image '{name}' is not on disk; it is left out" for name in listed["file_name"][~present])
        summary = f"of {len(listed)} annotated images are not on disk; they are left out"
        problems = layout.listed(ANNOTATIONS, listed["file_name"][~present], absent, summary, ABSENT)
        splits = _splits(root, listed)
        listed = listed[present]
        lesions = lesions[lesions["file_name"].isin(listed["file_name"])]
        images = layout.image_table(
            {
                "image_id": listed["file_name"],
                "path": paths[present],
                "patientid": listed["file_name"].str.removesuffix(".png"),
                "official_split": splits[present],
            }
        )
        boxes, box_problems = _boxes(listed, lesions)
        labels = _labels(listed, lesions).reset_index(drop=True)
        return Manifest(NAME, root, images, labels, boxes, problems=tuple(absent_files + problems + box_problems))

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 18 images of three groups, 96 px wide with boxes in a frame of 512, in both parts."""
        names = [f"{group}/{group[0] if group != 'tb' else 'tb'}{n:04d}.png" for n in range(6) for group in GROUPS]
        for name in names:
            save_radiograph(root / "imgs" / name, lesions=((0.25, 0.25, 0.5, 0.5),) if name[0] == "t" else ())
        parts = {"train": names[:12], "val": names[12:], "trainval": names}
        (root / ANNOTATIONS).mkdir(parents=True, exist_ok=True)
        (root / "lists").mkdir(exist_ok=True)
        for part, members in parts.items():
            (root / ANNOTATIONS / f"TBX11K_{part}.json").write_text(json.dumps(_replica_coco(members)))
            (root / "lists" / f"TBX11K_{part}.txt").write_text("\n".join(members) + "\n")


def _replica_coco(names: list[str]) -> dict[str, Any]:
    categories = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    images = [{"id": n + 1, "file_name": name, "width": 512, "height": 512} for n, name in enumerate(names)]
    ill = [image for image in images if str(image["file_name"]).startswith("tb/")]
    return {
        "categories": [
            {"id": n + 1, "name": name, "supercategory": "Tuberculosis"} for n, name in enumerate(categories)
        ],
        "images": images,
        "annotations": [
            {
                "id": n + 1,
                "image_id": image["id"],
                "category_id": int(str(image["file_name"])[-5]) % 3 + 1,
                "iscrowd": 0,
                "area": 16384.0,
                "bbox": [128.0, 128.0, 128.0, 128.0],
            }
            for n, image in enumerate(ill)
        ],
    }


def _absent_files(root: Path) -> list[Problem]:
    """Return the problems of lists that are absent, and of annotations of a part that no other file has."""
    train, val, both = (f"{ANNOTATIONS}/{file}" for file in FILES)
    parts = () if (root / both).is_file() else (train, val)
    wanted = dict.fromkeys(parts, "its part is not read")
    wanted |= {_list_of(part): "no official split is known" for part in ("train", "val")}
    absent = [file for file in wanted if not (root / file).is_file()]
    return [layout.absent_file(file, wanted[file], TBX11K.card.url) for file in absent]


def _list_of(part: str) -> str:
    return f"lists/TBX11K_{part}.txt"


def _read_annotations(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the images (file_name, width, height) and lesions of all annotation files, each once."""
    images, lesions = [], []
    for file in FILES:
        if not (root / ANNOTATIONS / file).is_file():
            continue
        coco = _read_coco(root / ANNOTATIONS / file)
        try:
            names = {image["id"]: image["file_name"] for image in coco["images"]}
            categories = {item["id"]: finding_of(NAME, item["name"]) for item in coco["categories"]}
            images += [(image["file_name"], image["width"], image["height"]) for image in coco["images"]]
            lesions += [_lesion(item, names, categories) for item in coco["annotations"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{NAME}: expected COCO annotations in '{file}', every id defined; found a fault at {error}. "
                "Download the file again."
            ) from None
    table = pd.DataFrame(images, columns=["file_name", "width", "height"]).drop_duplicates("file_name")
    found = pd.DataFrame(lesions, columns=_KEY).drop_duplicates(_KEY)
    return table.sort_values("file_name", ignore_index=True), found.reset_index(drop=True)


def _lesion(item: dict[str, Any], names: dict[int, str], categories: dict[int, str]) -> tuple[Any, ...]:
    x, y, w, h = item["bbox"]
    return names[item["image_id"]], categories[item["category_id"]], x, y, w, h


def _read_coco(path: Path) -> dict[str, Any]:
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise DataError(
            f"{NAME}: expected JSON in '{path.name}'; found a file that is not. Download it again."
        ) from None
    missing = [key for key in ("images", "annotations", "categories") if key not in coco]
    if missing:
        raise DataError(f"{NAME}: expected COCO annotations in '{path.name}'; missing: {missing}.")
    return dict(coco)


def _labels(listed: pd.DataFrame, lesions: pd.DataFrame) -> pd.DataFrame:
    """Return raw labels: tuberculosis whose lesions are of no stated type is uncertain in both types."""
    ill = (listed["group"] == "tb").to_numpy()
    has = {
        finding: listed["file_name"].isin(lesions["file_name"][lesions["category"] == finding]).to_numpy()
        for finding in (ACTIVE, OBSOLETE, TB)
    }
    untyped = ill & (has[TB] | ~(has[ACTIVE] | has[OBSOLETE]))
    types = {f: np.where(ill & has[f], 1.0, np.where(untyped, -1.0, 0.0)) for f in (ACTIVE, OBSOLETE)}
    healthy = (listed["group"] == "health").to_numpy(np.float64)
    return pd.DataFrame({TB: ill.astype(np.float64), **types, NO_FINDING: healthy})


def _boxes(listed: pd.DataFrame, lesions: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return every lesion as a box of its own type and one of tuberculosis."""
    frames = listed.set_index("file_name")[["width", "height"]]
    pixels = lesions.join(frames, on="file_name").rename(columns={"file_name": "image_id", "category": "finding"})
    pixels = pixels.rename(columns={"x": "x0", "y": "y0"})
    sides = ["x0", "y0", "w", "h", "width", "height"]
    pixels[sides] = pixels[sides].apply(pd.to_numeric, errors="coerce")
    pixels["x1"], pixels["y1"] = pixels["x0"] + pixels["w"], pixels["y0"] + pixels["h"]
    typed, problems = layout.relative_boxes(ANNOTATIONS, pixels)
    both = pd.concat([typed[typed["finding"] != TB], typed.assign(finding=TB)], ignore_index=True)
    return both, problems


def _splits(root: Path, listed: pd.DataFrame) -> NDArray[np.object_]:
    """Return 'train' and 'val' from the lists, or NaN throughout where only one of them is present."""
    splits = np.full(len(listed), np.nan, dtype=object)
    for part in ("train", "val"):
        file = root / _list_of(part)
        if file.is_file():
            splits[listed["file_name"].isin(layout.read_names(NAME, file))] = part
    return splits if {"train", "val"} <= set(splits) else np.full(len(listed), np.nan, dtype=object)
