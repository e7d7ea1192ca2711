"""VinDr-CXR: both layouts, readers, boxes and their sizes, headers and faulty tables."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hilum.databases.vindr import VinDr
from hilum.errors import DataError

LABELS, BOXES = "annotations/image_labels_train.csv", "annotations/annotations_train.csv"


@pytest.fixture
def physionet(tmp_path):
    root = tmp_path / "physionet"
    VinDr.write_replica(root)
    return root


@pytest.fixture
def kaggle(physionet, tmp_path):
    """The train part as the challenge gave it: one table, the findings that it has, an extra column class_id."""
    root = tmp_path / "kaggle"
    root.mkdir()
    table = pd.read_csv(physionet / BOXES, dtype=str)
    table.assign(class_id="0").to_csv(root / "train.csv", index=False)
    (physionet / "train").rename(root / "train")
    return root


def edit(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def first_with(manifest, finding):
    return manifest.labels.index[manifest.labels[finding] == 1][0]


def to_pictures(root, size, suffix=".png"):
    for path in list((root / "train").iterdir()):
        Image.new("L", size, 90).save(path.with_suffix(suffix))
        path.unlink()


def test_physionet_has_28_labels_in_two_parts(physionet):
    manifest = VinDr.read(physionet)
    assert (len(manifest), manifest.labels.shape[1]) == (16, 28)
    assert list(manifest.labels)[-1] == "No Finding"
    assert manifest.labels.notna().all(axis=None)
    assert manifest.images["official_split"].value_counts().to_dict() == {"train": 12, "test": 4}
    assert manifest.extra["readers"].value_counts().to_dict() == {3: 12, 1: 4}
    assert manifest.rows[0] == "image_labels_train.csv row 2"
    assert manifest.rows[12] == "image_labels_test.csv row 2"


def test_kaggle_has_14_findings_and_no_split(physionet, kaggle):
    manifest = VinDr.read(kaggle)
    assert manifest.labels.shape[1] == 15
    assert (manifest.labels["Pneumothorax"] == 0).all()
    assert "Tuberculosis" not in manifest.labels
    assert manifest.images["official_split"].isna().all()
    expected = VinDr.read(physionet, labels_only=True)
    assert manifest.labels.equals(expected.labels.iloc[:12][list(manifest.labels)])
    assert (manifest.images["view"] == "PA").all()


def test_the_replica_of_kaggle_is_the_train_part_in_its_layout(physionet, tmp_path):
    VinDr.replicas["kaggle"](tmp_path / "challenge")
    table = pd.read_csv(tmp_path / "challenge/train.csv", dtype=str)
    assert list(table) == ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    assert set(table["class_id"][table["class_name"] == "No finding"]) == {"14"}
    found, expected = VinDr.read(tmp_path / "challenge"), VinDr.read(physionet)
    assert list(found.images["image_id"]) == list(expected.images["image_id"][:12])
    assert found.labels["Cardiomegaly"].equals(expected.labels["Cardiomegaly"][:12])


def test_readers_vote(physionet):
    seen_by_two = first_with(VinDr.read(physionet), "Effusion")
    values = {readers: VinDr.read(physionet, readers=readers).labels for readers in ("any", "majority", "unanimous")}
    assert [values[readers]["Effusion"][seen_by_two] for readers in values] == [1, 1, 0]
    assert [values[readers]["No Finding"][seen_by_two] for readers in values] == [0, 0, 0]
    assert all((found["Cardiomegaly"] == values["any"]["Cardiomegaly"]).all() for found in values.values())
    votes = VinDr.read(physionet).extra.iloc[seen_by_two]
    assert votes[["votes: Effusion", "votes: No Finding", "readers"]].tolist() == [2, 1, 3]


def test_one_of_three_readers_is_any_but_no_majority(physionet):
    table = pd.read_csv(physionet / LABELS, dtype=str)
    table.loc[0, ["Pneumonia", "No finding"]] = ["1", "0"]
    table.to_csv(physionet / LABELS, index=False)
    labels = [VinDr.read(physionet, readers=readers).labels.iloc[0] for readers in ("any", "majority")]
    assert [found["Pneumonia"] for found in labels] == [1, 0]
    assert [found["No Finding"] for found in labels] == [0, 0]


def test_an_unknown_option_is_an_error(physionet):
    with pytest.raises(DataError, match="option 'readers' as one of any, majority, unanimous; found 'most'"):
        VinDr.read(physionet, readers="most")


def test_boxes_have_reader_and_row_and_are_of_positive_findings(physionet):
    manifest = VinDr.read(physionet)
    boxes = manifest.boxes
    np.testing.assert_allclose(boxes[["x0", "y0", "x1", "y1"]].to_numpy(float), [[0.25, 0.4, 0.75, 0.7]] * len(boxes))
    assert set(boxes["reader"]) == {"R8", "R9", "R10", "consensus"}
    table = pd.read_csv(physionet / BOXES)
    assert list(boxes["row"][:3]) == list(np.flatnonzero(table["class_name"] != "No finding")[:3] + 2)
    assert manifest.counts()["boxes"] == len(boxes) == 9 + 12 + 9 + 4
    unanimous = VinDr.read(physionet, readers="unanimous")
    assert set(unanimous.boxes["finding"]) == {"Cardiomegaly", "Lung Opacity", "Aortic Enlargement", "Effusion"}
    assert len(unanimous.boxes) == len(boxes) - 12
    assert set(unanimous.boxes.loc[unanimous.boxes["finding"] == "Effusion", "reader"]) == {"consensus"}


def test_age_and_sex_of_the_headers(physionet):
    images = VinDr.read(physionet).images
    assert images["age_years"][:3].tolist() == [30, 31, 32]
    assert np.isnan(images["age_years"][3])
    assert images["sex_male"][:2].tolist() == [1, 0]


@pytest.mark.parametrize("folder", ["vindr-cxr/1.0.0", "physionet.org/files/vindr-cxr/1.0.0", "1.0.0"])
def test_the_folder_of_physionet_may_lie_below_the_root(physionet, tmp_path, folder):
    target = tmp_path / "above" / folder
    target.parent.mkdir(parents=True)
    physionet.rename(target)
    manifest = VinDr.read(tmp_path / "above")
    assert manifest.root == target
    assert all(path.is_file() for path in manifest.paths())


def test_one_part_alone_is_read(physionet):
    (physionet / LABELS).unlink()
    manifest = VinDr.read(physionet)
    assert set(manifest.images["official_split"]) == {"test"}
    (problem,) = manifest.problems
    assert problem.where == "image_labels_train.csv"
    assert "physionet.org" in problem.reason


def test_without_a_file_of_boxes_labels_are_read(physionet):
    for part in ("train", "test"):
        (physionet / f"annotations/annotations_{part}.csv").unlink()
    manifest = VinDr.read(physionet)
    assert (len(manifest), len(manifest.boxes)) == (16, 0)
    assert [p.where for p in manifest.problems] == ["annotations_train.csv", "annotations_test.csv"]


def test_labels_only_keeps_boxes_without_a_size(kaggle):
    expected = VinDr.read(kaggle)
    for path in expected.paths():
        path.unlink()
    manifest = VinDr.read(kaggle, labels_only=True)
    assert manifest.counts()["boxes"] == expected.counts()["boxes"]
    assert manifest.boxes[["x0", "y0", "x1", "y1"]].isna().all(axis=None)
    (kaggle / "train_meta.csv").write_text(
        "image_id,dim0,dim1\n" + "".join(f"{name},120,96\n" for name in expected.images["image_id"])
    )
    sized = VinDr.read(kaggle, labels_only=True)
    assert sized.boxes.equals(expected.boxes)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_resized_pictures_need_the_sizes_of_the_originals(kaggle, suffix):
    expected = VinDr.read(kaggle)
    to_pictures(kaggle, (48, 60), suffix)
    manifest = VinDr.read(kaggle)
    assert len(manifest) == 12
    assert len(manifest.boxes) == 0
    assert manifest.problem_counts() == {"box on an image of unknown size": len(expected.boxes)}
    assert "Add 'train_meta.csv'" in str(manifest.problems[0])
    (kaggle / "train_meta.csv").write_text(
        "image_id,dim0,dim1\n" + "".join(f"{name},120,96\n" for name in expected.images["image_id"])
    )
    sized = VinDr.read(kaggle)
    assert sized.boxes.equals(expected.boxes)
    assert sized.problems == ()


def test_pictures_of_the_original_size_need_no_table(kaggle):
    expected = VinDr.read(kaggle)
    to_pictures(kaggle, (96, 120))
    manifest = VinDr.read(kaggle)
    assert manifest.boxes.equals(expected.boxes)
    assert manifest.images["age_years"].isna().all()


def test_a_damaged_image_has_no_size(physionet):
    manifest = VinDr.read(physionet)
    row = first_with(manifest, "Cardiomegaly")
    manifest.paths()[row].write_bytes(b"no DICOM")
    again = VinDr.read(physionet)
    assert len(again) == len(manifest)
    assert again.problem_counts() == {"box on an image of unknown size": 3}
    assert manifest.images["image_id"][row] not in set(again.boxes["image_id"])


def test_a_partial_download_leaves_rows_out(physionet):
    before = VinDr.read(physionet)
    before.paths()[1].unlink()
    manifest = VinDr.read(physionet)
    assert (len(manifest), len(manifest.extra)) == (15, 15)
    assert str(manifest.problems[0]).startswith("tables row 5 of 'image_labels_train.csv': the image")
    assert len(manifest.boxes) == len(before.boxes) - 3


def test_images_may_lie_in_the_root(kaggle):
    expected = VinDr.read(kaggle)
    for path in expected.paths():
        path.rename(kaggle / path.name)
    manifest = VinDr.read(kaggle)
    assert manifest.boxes.equals(expected.boxes)
    assert "/" not in "".join(manifest.images["path"])


def test_a_faulty_table_is_an_error(physionet, kaggle):
    edit(kaggle / "train.csv", "Cardiomegaly", "Cardiomegally", 1)
    with pytest.raises(DataError, match=r"28 labels of VinDr-CXR .* found 'Cardiomegally' in the rows 5\."):
        VinDr.read(kaggle)
    edit(kaggle / "train.csv", "Cardiomegally", "Cardiomegaly")
    edit(kaggle / "train.csv", "rad_id", "reader")
    with pytest.raises(DataError, match='column "rad_id"'):
        VinDr.read(kaggle)
    (kaggle / "train.csv").unlink()
    with pytest.raises(DataError, match=r"'train\.csv' or .* given at https://www\.kaggle.* and https://physionet"):
        VinDr.read(kaggle)
    edit(physionet / LABELS, ",0,", ",maybe,", 1)
    with pytest.raises(DataError, match=r"0 or 1 for every finding in 'image_labels_train\.csv'.* rows 2"):
        VinDr.read(physionet, labels_only=True)
    edit(physionet / LABELS, "No finding", "Nothing", 1)
    with pytest.raises(DataError, match='column "No finding"'):
        VinDr.read(physionet, labels_only=True)
