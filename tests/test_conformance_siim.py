"""SIIM-ACR 2019: the published counts, and the masks against a union of runs that is computed otherwise."""

import csv
import gzip
from collections import defaultdict

import numpy as np
import pytest

from conformance import official, tables
from hilum.databases import rle
from hilum.databases.siim import SIIM

TABLE = "siim-pneumothorax-train-rle.csv.gz"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return SIIM.read(official(tmp_path_factory.mktemp("siim"), {"train-rle.csv": TABLE}), labels_only=True)


@pytest.fixture(scope="module")
def rows():
    with gzip.open(tables() / TABLE, "rt", newline="") as file:
        return [(name, pairs.strip()) for name, pairs in list(csv.reader(file))[1:]]


def test_images_and_positives(manifest, rows):
    counts = manifest.counts()
    assert len(rows) == 12_954
    assert (counts["images"], counts["patients"]) == (12_047, 12_047) == (SIIM.card.images, SIIM.card.patients)
    assert counts["findings"]["Pneumothorax"] == {"positive": 2_669, "negative": 9_378, "uncertain": 0, "unknown": 0}
    assert manifest.problems == ()


def test_one_mask_a_positive(manifest, rows):
    assert (len(manifest.masks), manifest.masks["image_id"].nunique()) == (2_669, 2_669)
    assert sum(pairs != "-1" for _, pairs in rows) == 3_576
    positive = manifest.images["image_id"][manifest.labels["Pneumothorax"] == 1]
    assert set(manifest.masks["image_id"]) == set(positive)


def test_masks_have_the_area_of_the_union_of_their_rows(manifest, rows):
    spans = defaultdict(list)
    for name, pairs in rows:
        ends = np.cumsum([int(number) for number in pairs.split()])
        spans[name] += list(zip(ends[::2], ends[1::2], strict=False))
    several = [name for name, count in _counts(rows).items() if count > 1]
    assert len(several) == 624
    masks = manifest.masks.set_index("image_id")["rle"]
    for name in [*several[::20], *masks.index[::100]]:
        area, covered = 0, 0
        for start, end in sorted(spans[name]):
            area += max(0, end - max(start, covered))
            covered = max(covered, end)
        mask = rle.decode(masks[name], 1024, 1024)
        assert mask.sum() == area
        assert 0 < mask.mean() < 0.5


def _counts(rows):
    counts = defaultdict(int)
    for name, pairs in rows:
        counts[name] += pairs != "-1"
    return counts
