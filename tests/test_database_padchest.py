"""PadChest: label strings, projections, ages, methods, folders and faulty tables."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hilum.databases.padchest import TABLE, PadChest
from hilum.databases.padchest_strings import COLUMNS, FINDINGS_OF, LEFT_OPEN, STRINGS, listed_by, strings_of
from hilum.databases.positive_lists import labels_of
from hilum.errors import DataError


@pytest.fixture
def root(tmp_path):
    PadChest.write_replica(tmp_path)
    return tmp_path


def labels(*strings):
    return labels_of([listed_by(strings)], COLUMNS).iloc[0]


def edit(root, row, **cells):
    table = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False)
    for column, cell in cells.items():
        table.loc[row, column] = cell
    table.rename(columns={"Unnamed: 0": ""}).to_csv(root / TABLE, index=False)


def test_every_string_is_one_of_193():
    assert len(STRINGS) == 193
    assert set(FINDINGS_OF) | set(LEFT_OPEN) <= STRINGS


@pytest.mark.parametrize(
    ("string", "findings"),
    [
        ("laminar atelectasis", {"Atelectasis"}),
        ("atypical pneumonia", {"Pneumonia"}),
        ("hydropneumothorax", {"Pneumothorax"}),
        ("alveolar pattern", {"Infiltration"}),
        ("consolidation", {"Consolidation", "Infiltration"}),
        ("multiple nodules", {"Nodule", "Nodule/Mass"}),
        ("hiatal hernia", {"Hernia", "Hiatal Hernia"}),
        ("pacemaker", {"Pacemaker", "Support Devices"}),
        ("normal", {"No Finding"}),
        ("sternotomy", set()),
    ],
)
def test_a_string_stands_for_its_findings_and_the_others_are_absent(string, findings):
    found = labels(string)
    assert set(found.index[found == 1]) == findings
    assert found["Scoliosis"] == 0
    assert found["No Finding"] == float(string == "normal")


@pytest.mark.parametrize(
    ("string", "present", "unknown"),
    [
        ("tuberculosis sequelae", "Obsolete Tuberculosis", "Tuberculosis"),
        ("callus rib fracture", "Fracture", "Rib Fracture"),
        ("dual chamber device", "Support Devices", "Pacemaker"),
        ("air bronchogram", "Infiltration", "Consolidation"),
    ],
)
def test_a_finding_that_is_near_but_not_named_is_unknown(string, present, unknown):
    found = labels(string)
    assert found[present] == 1
    assert np.isnan(found[unknown])


def test_a_finding_that_is_named_beside_its_neighbour_is_present():
    assert labels("dual chamber device", "pacemaker")["Pacemaker"] == 1


@pytest.mark.parametrize("string", ["unchanged", "suboptimal study", "exclude"])
def test_a_list_that_is_not_whole_leaves_the_rest_unknown(string):
    assert labels(string).isna().all()
    found = labels(string, "pneumonia")
    assert (found["Pneumonia"], found["No Finding"]) == (1, 0)
    assert found.drop(["Pneumonia", "No Finding"]).isna().all()
    assert labels(string, "normal")["No Finding"] == 1


def test_a_normal_image_with_a_finding_keeps_both_as_written():
    found = labels("normal", "infiltrates")
    assert (found["No Finding"], found["Infiltration"]) == (1, 1)


def test_cells_are_lists_of_strings():
    assert strings_of("['pneumonia', ' unchanged', '', 'pneumonia']") == ["pneumonia", "unchanged"]
    assert strings_of('["pneumonia"]') == ["pneumonia"]
    assert strings_of("['']") == []
    assert strings_of("pneumonia") is None


def test_blank_cells_and_lists_of_nothing_are_unknown(root):
    edit(root, 0, Labels="['']")
    manifest = PadChest.read(root)
    assert manifest.labels.iloc[0].isna().all()
    blank = manifest.extra["labels"].isna()
    assert blank.any()
    assert manifest.labels[blank].isna().all(axis=None)
    assert manifest.problems == ()


def test_views_and_projections(root):
    edit(root, 1, Projection="UNK")
    manifest = PadChest.read(root)
    views = manifest.images["view"].fillna("unknown").groupby(manifest.extra["projection"]).unique().map(list)
    expected = {"AP": "AP", "AP_horizontal": "AP", "PA": "PA", "L": "LATERAL", "COSTAL": "unknown", "UNK": "unknown"}
    assert views.to_dict() == {projection: [view] for projection, view in expected.items()}


def test_patients_studies_ages_and_sex(root):
    edit(root, 0, PatientSex_DICOM="O", PatientBirth="1850.0")
    edit(root, 1, PatientBirth="")
    manifest = PadChest.read(root)
    images = manifest.images
    assert images["patientid"].nunique() == 14
    assert images["studyid"].nunique() == 16
    assert images["age_years"][2] == 2011 - 1935
    assert images["age_years"][:2].isna().all()
    assert np.isnan(images["sex_male"][0])
    assert [(p.where, p.kind) for p in manifest.problems] == [(f"{TABLE} row 2", "age not plausible")]


def test_labels_of_physicians_alone(root):
    every, physicians = PadChest.read(root), PadChest.read(root, method="physician")
    by_hand = every.extra["method"] == "Physician"
    assert 0 < by_hand.sum() < len(every)
    assert physicians.images.equals(every.images)
    assert physicians.labels[by_hand].equals(every.labels[by_hand])
    assert physicians.labels[~by_hand].isna().all(axis=None)
    with pytest.raises(DataError, match="option 'method' as one of all, physician; found 'nurse'"):
        PadChest.read(root, method="nurse")


def test_extra_holds_the_strings_and_no_report(root):
    manifest = PadChest.read(root)
    assert manifest.extra["labels"][0] == "['normal']"
    assert manifest.extra["localizations"][0] == "['loc basal']"
    cells = pd.concat([manifest.images, manifest.labels, manifest.extra], axis=1).astype(str)
    assert "informe de prueba" in (root / TABLE).read_text()
    assert not cells.apply(lambda column: column.str.contains("informe")).any(axis=None)


def test_images_are_16_bit_and_may_lie_in_the_root(root):
    expected = PadChest.read(root)
    assert all(path.count("/") == 1 for path in expected.images["path"])
    with Image.open(expected.paths()[0]) as image:
        assert image.mode == "I;16"
        assert np.asarray(image).max() > 255
    for path in expected.paths()[:9]:
        path.rename(root / path.name)
    manifest = PadChest.read(root)
    assert all(path.is_file() for path in manifest.paths())
    assert manifest.images.drop(columns="path").equals(expected.images.drop(columns="path"))


def test_a_partial_download_leaves_rows_out(root):
    before = PadChest.read(root)
    for path in before.paths()[:2]:
        path.unlink()
    manifest = PadChest.read(root)
    assert len(manifest) == len(manifest.extra) == len(before) - 2
    assert manifest.problem_counts() == {"image not on disk": 2}
    assert manifest.rows[0] == f"{TABLE} row 4"


def test_odd_strings_and_cells_are_problems(root):
    edit(root, 0, Labels="['pneumonia', 'pneumonai']")
    edit(root, 1, Labels="pneumonia")
    manifest = PadChest.read(root)
    assert manifest.problem_counts() == {"label string not known": 1, "labels not a list of strings": 1}
    assert manifest.labels["Pneumonia"][0] == 1
    assert manifest.labels.iloc[1].isna().all()
    assert f"{TABLE} row 2: 'pneumonai' is not among the 193" in "\n".join(map(str, manifest.problems))


def test_a_faulty_table_is_an_error(root):
    text = (root / TABLE).read_text()
    (root / TABLE).write_text(text.replace("ImageDir", "Image_Dir"))
    with pytest.raises(DataError, match='column "ImageDir"'):
        PadChest.read(root)
    (root / TABLE).write_text(text)
    edit(root, 3, ImageID="../outside.png")
    with pytest.raises(DataError, match="lead out of it in the rows 5"):
        PadChest.read(root)
    (root / TABLE).unlink()
    with pytest.raises(DataError, match=r"expected the file 'PADCHEST.* It is given at https://bimcv"):
        PadChest.read(root)
    (root / f"{TABLE}.gz").write_bytes(b"\x1f\x8b\x08\x00damaged")
    with pytest.raises(DataError, match="damaged or not readable"):
        PadChest.read(root)
