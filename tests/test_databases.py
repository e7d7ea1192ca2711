"""Contract: what every database of the registry keeps to, on its own replica."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.databases import DATABASES, rle
from hilum.databases.manifest import IMAGE_COLUMNS, VIEWS, Card, Manifest
from hilum.errors import DataError

ONE_IMAGE_A_PATIENT = {"shenzhen", "montgomery", "tbx11k", "rsna", "siim", "vindr", "aiforcovid"}
POSITIVES_ONLY = {"hannover", "brixia"}
SIZES_FROM_IMAGES = {"folder", "phantom"}
FROM_FILE_NAMES = {"shenzhen", "kermany", "montgomery", "dicom"}
WITH_BOXES = {"nih14", "tbx11k", "folder", "phantom", "rsna", "vindr"}
WITH_MASKS = {"folder", "phantom", "siim", "chexlocalize", "montgomery"}


def writers(name):
    """Return layout → what writes a replica in it."""
    database = DATABASES.load(name)
    return getattr(database, "replicas", {"": database.write_replica})


@pytest.fixture(scope="module", params=[(name, form) for name in DATABASES for form in writers(name)], ids="-".join)
def written(request, tmp_path_factory):
    name, form = request.param
    root = tmp_path_factory.mktemp(name)
    write = writers(name)[form]
    write(root)
    return write, root, DATABASES.load(name)


@pytest.fixture
def write(written):
    return written[0]


@pytest.fixture(scope="module")
def replica(written):
    _, root, database = written
    return database.card.name, database, root, database.read(root)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_card_is_complete(replica):
    name, database, _, _ = replica
    card = database.card
    assert isinstance(card, Card)
    assert card.name == name
    for value in (card.title, card.hospital, card.licence, card.citation, card.labels):
        assert value.strip()
    assert DATABASES.summary(name).endswith(".")


def test_replica_has_patients_images_and_no_problem(replica):
    name, _, root, manifest = replica
    assert isinstance(manifest, Manifest)
    assert (manifest.database, manifest.root) == (name, root)
    images_a_patient = manifest.images["patientid"].value_counts()
    assert len(images_a_patient) >= 12
    assert (images_a_patient.max() > 1) == (name not in ONE_IMAGE_A_PATIENT)
    assert manifest.problems == ()


def test_columns_and_values(replica):
    _, _, _, manifest = replica
    images = manifest.images
    assert tuple(images.columns) == IMAGE_COLUMNS
    for column in ("image_id", "path", "patientid"):
        assert all(isinstance(value, str) and value for value in images[column])
    assert set(images["view"].dropna()) <= set(VIEWS)
    assert set(images["official_split"].dropna()) <= {"train", "val", "test"}
    assert set(images["sex_male"].dropna()) <= {0.0, 1.0}
    assert images["age_years"].dropna().between(0, 120).all()
    assert images["age_years"].dtype == images["sex_male"].dtype == np.float64
    assert list(images.index) == list(manifest.labels.index) == list(range(len(images)))


def test_every_image_opens_under_the_root(replica):
    _, _, _, manifest = replica
    for path, relative in zip(manifest.paths(), manifest.images["path"], strict=True):
        assert not Path(relative).is_absolute()
        if path.suffix.lower() not in (".dcm", ".dicom"):
            with Image.open(path) as image:
                image.load()


def test_both_classes_of_a_finding(replica):
    name, _, _, manifest = replica
    both = [f for f, column in manifest.labels.items() if (column == 1).any() and (column == 0).any()]
    assert bool(both) == (name not in POSITIVES_ONLY)


def test_boxes_lie_on_positive_images(replica):
    name, _, _, manifest = replica
    boxes = manifest.boxes
    if name in WITH_BOXES:
        assert len(boxes) >= 4
    assert set(boxes["image_id"]) <= set(manifest.images["image_id"])
    corners = boxes[["x0", "y0", "x1", "y1"]].to_numpy(float)
    assert ((corners >= 0) & (corners <= 1)).all()
    assert (corners[:, :2] < corners[:, 2:]).all()
    labels = manifest.labels.set_index(manifest.images["image_id"])
    for box in boxes.itertuples():
        if box.finding in labels:
            assert labels.loc[box.image_id, box.finding] in (1, -1)


def test_masks_are_files_or_runs_that_fill_their_frame(replica):
    name, _, root, manifest = replica
    masks = manifest.masks
    assert bool(len(masks)) == (name in WITH_MASKS)
    assert set(masks["image_id"]) <= set(manifest.images["image_id"])
    for mask in masks.itertuples():
        if isinstance(mask.path, str):
            assert (root / mask.path).is_file()
        else:
            assert rle.decode(mask.rle, int(mask.width), int(mask.height)).any()


def test_extra_has_a_row_an_image(replica):
    _, _, _, manifest = replica
    if len(manifest.extra.columns):
        assert list(manifest.extra.index) == list(range(len(manifest)))


def test_labels_only_reads_the_same_without_images(replica, write, tmp_path):
    name, database, _, manifest = replica
    if name in FROM_FILE_NAMES:
        pytest.skip("its labels are names of image files")
    write(tmp_path)
    for path in manifest.paths():
        (tmp_path / path.relative_to(manifest.root)).unlink()
    again = database.read(tmp_path, labels_only=True)
    assert list(again.images["image_id"]) == list(manifest.images["image_id"])
    assert again.labels.equals(manifest.labels)
    if name not in SIZES_FROM_IMAGES:
        assert len(again.boxes) == len(manifest.boxes)


def test_official_split_keeps_patients_together(replica):
    _, _, _, manifest = replica
    known = manifest.images.dropna(subset=["official_split"])
    assert (known.groupby("patientid")["official_split"].nunique() <= 1).all()


def test_replica_and_reading_are_deterministic(replica, write, tmp_path):
    _, database, root, manifest = replica
    write(tmp_path)
    assert digests(tmp_path) == digests(root)
    again = database.read(tmp_path)
    assert again.images.equals(manifest.images)
    assert again.labels.equals(manifest.labels)
    assert again.boxes.equals(manifest.boxes)


def test_absent_and_empty_roots_are_errors(replica, tmp_path):
    name, database, _, _ = replica
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match=f"^{name}: expected"):
            database.read(root)


def test_no_image_on_disk_is_an_error(replica, write, tmp_path):
    name, database, _, _ = replica
    write(tmp_path)
    for path in database.read(tmp_path).paths():
        path.unlink()
    with pytest.raises(DataError, match=f"^{name}: expected"):
        database.read(tmp_path)


def test_the_reference_page_has_the_row_of_the_card(replica):
    name, database, _, _ = replica
    page = Path(__file__).parents[1] / "docs" / "reference" / "databases.md"
    card = database.card
    counts = [f"{count:,}" if count else "–" for count in (card.images, card.patients)]
    row = f"| `{name}` | {card.title} | {' | '.join(counts)} | {card.licence} |"
    assert row in page.read_text(encoding="utf-8").splitlines()
