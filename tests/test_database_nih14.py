"""ChestX-ray14: labels, ages, boxes, splits and partial downloads."""

import numpy as np
import pytest

from hilum.databases.nih14 import FINDINGS_14, NIH14
from hilum.errors import DataError

TABLE = "Data_Entry_2017_v2020.csv"


@pytest.fixture
def root(tmp_path):
    NIH14.write_replica(tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def without_lists(root):
    (root / "train_val_list.txt").unlink()
    (root / "test_list.txt").unlink()


def test_labels_are_known_for_all_fourteen_findings(root):
    manifest = NIH14.read(root)
    assert list(manifest.labels) == [*FINDINGS_14, "No Finding"]
    assert manifest.labels.notna().all(axis=None)
    first = manifest.labels.iloc[0]
    assert set(first.index[first == 1]) == {"Effusion", "Infiltration"}
    healthy = manifest.labels["No Finding"] == 1
    assert (manifest.labels.loc[healthy, list(FINDINGS_14)] == 0).all(axis=None)
    assert manifest.counts()["findings"]["No Finding"] == {
        "positive": 6,
        "negative": 15,
        "uncertain": 0,
        "unknown": 0,
    }


def test_patient_age_sex_and_view(root):
    edit(
        root / TABLE,
        "00000001_000.png,Effusion|Infiltration,0,1,31,F,AP",
        "00000001_000.png,Mass,0,1,058Y,M,PA",
    )
    edit(root / TABLE, "00000001_001.png,Effusion|Infiltration,1,1,31", "00000001_001.png,Mass,1,1,412")
    manifest = NIH14.read(root)
    row = manifest.images.iloc[0]
    assert row[["patientid", "view", "age_years", "sex_male"]].tolist() == ["1", "PA", 58.0, 1.0]
    assert np.isnan(manifest.images["age_years"][1])
    assert [str(p).startswith(f"{TABLE} row 3: expected an age") for p in manifest.problems] == [True]


def test_boxes_are_scaled_from_1024_and_infiltrate_is_infiltration(root):
    boxes = NIH14.read(root).boxes
    assert set(boxes["finding"]) == {"Infiltration", "Cardiomegaly"}
    expected = [[0.25, 0.5, 0.4, 0.7]] * len(boxes)
    np.testing.assert_allclose(boxes[["x0", "y0", "x1", "y1"]].to_numpy(float), expected)


def test_a_box_that_leaves_the_frame_and_one_of_an_unlisted_image(root):
    lines = (root / "BBox_List_2017.csv").read_text().splitlines()
    lines[1] = lines[1].replace("256.0,", "1000.0,")
    lines.append("99999999_000.png,Mass,1,1,2,2,,,")
    (root / "BBox_List_2017.csv").write_text("\n".join(lines))
    manifest = NIH14.read(root)
    assert (len(manifest.boxes), manifest.boxes["x1"][0]) == (len(lines) - 2, 1.0)
    text = "\n".join(str(p) for p in manifest.problems)
    assert "row 2: the box" in text
    assert "'99999999_000.png' is not in the label table" in text
    assert len(manifest.problems) == 2


def test_the_official_lists_are_the_split(root):
    images = NIH14.read(root).images
    assert images["official_split"].value_counts().to_dict() == {"train": 14, "test": 7}


def test_without_lists_patients_with_a_box_are_test(root):
    without_lists(root)
    lines = (root / "BBox_List_2017.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("00000011_001")]
    (root / "BBox_List_2017.csv").write_text("\n".join(kept))
    images = NIH14.read(root).images
    assert set(images["patientid"][images["official_split"] == "test"]) == {"10", "11", "13", "14"}
    assert (images.loc[images["patientid"] == "11", "official_split"] == "test").sum() == 2
    assert images["official_split"].isna().sum() == 15


def test_without_boxes_and_lists_there_is_no_split(root):
    without_lists(root)
    (root / "BBox_List_2017.csv").unlink()
    manifest = NIH14.read(root)
    assert manifest.images["official_split"].isna().all()
    assert (len(manifest.boxes), [p.where for p in manifest.problems]) == (0, ["BBox_List_2017.csv"])


def test_a_table_and_a_box_list_of_nothing(root):
    for file, rows in (("BBox_List_2017.csv", None), (TABLE, "only its header")):
        (root / file).write_text((root / file).read_text().splitlines()[0] + "\n")
        if rows is None:
            assert len(NIH14.read(root).boxes) == 0
        else:
            with pytest.raises(DataError, match=rows):
                NIH14.read(root)


@pytest.mark.parametrize("folder", ["images_001/images", "images_012/images", "images_002", "."])
def test_images_may_lie_in_the_parts_of_the_download(root, folder):
    expected = NIH14.read(root)
    (root / folder).mkdir(parents=True, exist_ok=True)
    for image in sorted((root / "images").iterdir())[:5]:
        image.rename(root / folder / image.name)
    manifest = NIH14.read(root)
    assert all(path.is_file() for path in manifest.paths())
    assert manifest.labels.equals(expected.labels)
    assert manifest.images.drop(columns="path").equals(expected.images.drop(columns="path"))


def test_a_partial_download_leaves_rows_out(root):
    before = NIH14.read(root)
    (root / "images" / "00000013_000.png").unlink()
    manifest = NIH14.read(root)
    assert len(manifest) == len(before) - 1
    assert len(manifest.boxes) == len(before.boxes) - 1
    assert len(manifest.problems) == 1
    (root / "images" / "00000012_000.png").unlink()
    problems = [str(p) for p in NIH14.read(root).problems]
    assert problems[0].startswith(f"{TABLE}: 2 of 21 listed images are not on disk")
    assert len(problems) == 3


def test_the_first_edition_of_the_table_is_read(root):
    expected = NIH14.read(root)
    lines = (root / TABLE).read_text().splitlines()
    (root / TABLE).unlink()
    (root / "Data_Entry_2017.csv").write_text("\n".join(line + "," for line in lines))
    assert NIH14.read(root).images.equals(expected.images)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Cardiomegaly", "Cardiomegally", "found 'Cardiomegally'"),
        ("Cardiomegaly", "Tuberculosis", "one of its 14 findings; found 'Tuberculosis'"),
        ("Patient ID", "PatientID", 'column "Patient ID" .*found "PatientID"; rename it'),
        ("00000002_000.png,", ",", '"Image Index" in every row .* rows 4'),
        ("00000002_000.png,", "00000001_000.png,", "unique image ids"),
    ],
)
def test_a_faulty_table_is_an_error(root, old, new, message):
    edit(root / TABLE, old, new)
    with pytest.raises(DataError, match=message):
        NIH14.read(root)


def test_an_unknown_finding_is_told_with_its_rows(root):
    edit(root / TABLE, "00000001_000.png,Effusion|Infiltration", "00000001_000.png,Effusion|Foo")
    with pytest.raises(DataError, match=r"14 findings; found 'Foo' under 'Finding Labels' in the rows \d"):
        NIH14.read(root)
