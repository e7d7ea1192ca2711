"""SIIM-ACR 2019: relative run lengths column by column, several rows an image, nested and flat images."""

import numpy as np
import pytest

from hilum.databases import rle
from hilum.databases.siim import FOLDERS, IMAGES, SIIM
from hilum.errors import DataError

TABLE = "train-rle.csv"


@pytest.fixture
def root(tmp_path):
    SIIM.write_replica(tmp_path)
    return tmp_path


def name(k):
    return f"1.2.276.0.7230010.3.1.4.8323329.{300 + k}.1517875160.{k:06d}"


def replace_row(root, k, runs):
    lines = [line for line in (root / TABLE).read_text().splitlines() if not line.startswith(f"{name(k)},")]
    (root / TABLE).write_text("\n".join([*lines, *(f"{name(k)}, {text}" for text in runs)]) + "\n")


def mask(manifest, k):
    row = manifest.masks.set_index("image_id").loc[name(k)]
    return rle.decode(row["rle"], int(row["width"]), int(row["height"]))


def test_the_header_has_a_leading_space_and_minus_one_is_no_pneumothorax(root):
    assert (root / TABLE).read_text().startswith("ImageId, EncodedPixels\n")
    manifest = SIIM.read(root)
    assert manifest.labels["Pneumothorax"].tolist() == [0.0, 1.0] * 7
    assert len(manifest.masks) == 7


def test_runs_are_relative_and_column_by_column(root):
    replace_row(root, 1, ["2050 3 1020 4"])
    found = mask(SIIM.read(root), 1)
    expected = np.zeros((1024, 1024), bool)
    expected[2:5, 2] = True
    expected[1:5, 3] = True
    np.testing.assert_array_equal(found, expected)


def test_several_rows_of_an_image_are_one_mask(root):
    replace_row(root, 1, ["0 10", "5 10", "1024 2"])
    manifest = SIIM.read(root)
    assert (len(manifest), len(manifest.masks)) == (14, 7)
    found = mask(manifest, 1)
    assert found[:15, 0].all()
    assert found[:2, 1].all()
    assert found.sum() == 17


def test_the_two_rows_of_the_replica_overlap(root):
    one, two = mask(SIIM.read(root), 1), mask(SIIM.read(root), 5)
    assert one.sum() < two.sum() < 2 * one.sum()


def test_view_age_and_sex_are_those_of_the_headers(root):
    images = SIIM.read(root).images.set_index("image_id")
    assert images.loc[name(1), ["view", "age_years", "sex_male"]].tolist() == ["PA", 23.0, 0.0]
    assert images["view"].value_counts().to_dict() == {"PA": 8, "AP": 6}
    assert images["origin"].isna().all()


def test_without_images_nothing_but_labels_and_masks_is_known(root):
    for path in sorted(root.rglob("*.dcm")):
        path.unlink()
    manifest = SIIM.read(root, labels_only=True)
    assert (len(manifest), len(manifest.masks)) == (14, 7)
    assert manifest.images[["view", "age_years", "sex_male"]].isna().all(axis=None)


@pytest.mark.parametrize("folder", [".", IMAGES[0], IMAGES[1], f"{IMAGES[1]}/a/b"])
def test_images_may_lie_flat_or_among_those_of_the_first_test_part(root, folder):
    expected = SIIM.read(root)
    (root / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted(root.rglob("*.dcm")):
        path.rename(root / folder / path.name)
    manifest = SIIM.read(root)
    assert all(path.is_file() for path in manifest.paths())
    assert manifest.images.drop(columns="path").equals(expected.images.drop(columns="path"))


def test_the_table_of_the_second_stage_goes_first(root):
    (root / "stage_2_train.csv").write_text(f"ImageId,EncodedPixels\n{name(1)},-1\n")
    manifest = SIIM.read(root)
    assert manifest.labels["Pneumothorax"].tolist() == [0.0]
    assert manifest.rows == ("stage_2_train.csv row 2",)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_root_may_be_the_parent(root, folder, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    root.rename(parent / folder)
    assert len(SIIM.read(parent)) == 14


def test_a_partial_download_leaves_images_and_masks_out(root):
    next(root.rglob(f"{name(5)}.dcm")).unlink()
    manifest = SIIM.read(root)
    assert (len(manifest), len(manifest.masks)) == (13, 6)
    assert [p.where for p in manifest.problems] == [f"{TABLE} row 7"]


@pytest.mark.parametrize("runs", ["12 x", "1048570 12", "5 -3", "1.5 2"])
def test_runs_that_do_not_fit_are_an_error(root, runs):
    replace_row(root, 1, [runs])
    with pytest.raises(DataError, match=r"^siim: expected pairs of relative run lengths .*'train-rle.csv row 16'"):
        SIIM.read(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("EncodedPixels", "Pixels", 'column "EncodedPixels"'),
        (f"{name(0)}, -1", f"{name(0)},", '"EncodedPixels" in every row .* rows 2'),
        (f"{name(0)}, -1", ", -1", '"ImageId" in every row .* rows 2'),
    ],
)
def test_a_faulty_table_is_an_error(root, old, new, message):
    text = (root / TABLE).read_text()
    assert old in text
    (root / TABLE).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=f"^siim: .*{message}"):
        SIIM.read(root)


def test_a_missing_table_says_where_it_is_given(root):
    (root / TABLE).unlink()
    with pytest.raises(
        DataError, match=r"^siim: expected the file 'stage_2_train.csv' or 'train-rle.csv'.*kaggle\.com"
    ):
        SIIM.read(root)
