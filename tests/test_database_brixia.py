"""BrixIA: scores, groups of ages, views of headers, the consensus set, and the annotations of the Cohen set."""

import gzip

import numpy as np
import pandas as pd
import pytest

from hilum.databases.brixia import Brixia
from hilum.databases.replica import save_radiograph
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError

TABLE = "metadata_global_v2.csv"
SCORES = [*(f"score_{region}" for region in "ABCDEF"), "score_global"]
JUNIOR = [name.replace("score", "junior") for name in SCORES]


@pytest.fixture
def root(tmp_path):
    Brixia.write_replica(tmp_path)
    return tmp_path


@pytest.fixture
def cohen(tmp_path):
    """Five made-up annotations: four images in two folders, three of which the metadata list."""
    head = ["filename", *(f"{who}-{k}" for who in "SJ" for k in (*"ABCDEF", "Global"))]
    names = ["one-day1.jpg", "one-day2.jpg", "two.jpeg", "own image.png", "gone.png"]
    rows = [(name, *[k % 4] * 6, 6 * (k % 4), *[0] * 6, 0) for k, name in enumerate(names)]
    pd.DataFrame(rows, columns=head).to_csv(tmp_path / "public-annotations.csv", index=False)
    for name in names[:3]:
        save_radiograph(tmp_path / "images" / name)
    save_radiograph(tmp_path / "public-cohen-subset" / names[3])
    told = [
        ("24", "M", "61", "Pneumonia/Viral/COVID-19", "AP Supine", names[0]),
        ("24", "M", "61", "COVID-19, ARDS", "PA", names[1]),
        ("7", "F", "", "Pneumonia/Viral/SARS", "PA", names[2]),
    ]
    columns = ["patientid", "sex", "age", "finding", "view", "filename"]
    pd.DataFrame(told, columns=columns).to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_six_regions_and_their_sum(root):
    manifest = Brixia.read(root)
    assert (manifest.labels["COVID-19"] == 1).all()
    scores = manifest.extra[SCORES]
    assert scores.iloc[1].tolist() == [1, 2, 3, 0, 1, 2, 9]
    assert (scores[SCORES[:6]].sum(axis=1) == scores["score_global"]).all()
    assert manifest.images["official_split"].isna().all()


def test_a_score_that_lost_its_leading_zeros(root):
    edit(root / TABLE, ";012301;", ";12301;")
    edit(root / TABLE, ";123012;", ";0;")
    scores = Brixia.read(root).extra[SCORES]
    assert scores.iloc[0].tolist() == [0, 1, 2, 3, 0, 1, 7]
    assert scores.iloc[1].tolist() == [0, 0, 0, 0, 0, 0, 9]


def test_a_score_that_cannot_be_is_unknown(root):
    edit(root / TABLE, ";012301;7;", ";412301;19;")
    manifest = Brixia.read(root)
    assert manifest.extra.loc[0, SCORES].isna().all()
    assert [str(problem) for problem in manifest.problems] == [
        f"{TABLE} row 2: expected a Brixia score of six digits from 0 to 3; found '412301'; it is unknown"
    ]


def test_an_age_is_the_middle_of_its_group_of_five_years(root):
    edit(root / TABLE, ";M;9\n", ";M;0\n")
    edit(root / TABLE, ";F;10\n", ";F;88\n")
    manifest = Brixia.read(root)
    assert manifest.images["age_years"].tolist()[0] == 2
    assert np.isnan(manifest.images["age_years"][1])
    assert manifest.images["age_years"][3] == 5 * 11 + 2
    assert manifest.problem_counts() == {"age not plausible": 1}
    assert manifest.images["sex_male"][:2].tolist() == [1, 0]


def test_the_view_is_that_of_the_header_or_frontal(root):
    save_dicom_radiograph(root / "dicom_clean" / "1000.dcm", view="")
    (root / "dicom_clean" / "1020.dcm").write_bytes(b"no DICOM")
    views = Brixia.read(root).images.set_index("image_id")["view"]
    assert views[["1000.dcm", "1020.dcm", "1040.dcm", "1010.dcm"]].tolist() == ["FRONTAL", "FRONTAL", "AP", "PA"]
    assert set(Brixia.read(root, labels_only=True).images["view"]) == {"FRONTAL"}


def test_the_consensus_is_told_where_it_is(root):
    extra = Brixia.read(root).extra
    assert extra["MeanA"].notna().sum() == extra["ModeGlobal"].notna().sum() == 3
    tested = extra["ConsensusTestset"] == "1"
    assert (extra.loc[tested, "ModeA"] == extra.loc[tested, "score_A"]).all()
    (root / "metadata_consensus_v1.csv").unlink()
    manifest = Brixia.read(root)
    assert "MeanA" not in manifest.extra
    assert [str(p).partition(":")[0] for p in manifest.problems] == ["metadata_consensus_v1.csv"]
    assert "brixia.github.io" in str(manifest.problems[0])


def test_version_1_is_separated_by_commas_and_may_be_compressed(root):
    expected = Brixia.read(root)
    text = (root / TABLE).read_text().replace(";", ",")
    (root / TABLE).unlink()
    (root / "metadata_global_v1.csv.gz").write_bytes(gzip.compress(text.encode()))
    manifest = Brixia.read(root)
    assert manifest.images.equals(expected.images)
    assert manifest.extra.equals(expected.extra)


def test_tables_and_images_may_lie_in_data(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    Brixia.write_replica(parent / "data")
    manifest = Brixia.read(parent)
    assert manifest.images["path"][0] == "data/dicom_clean/1000.dcm"
    assert manifest.labels.equals(Brixia.read(root).labels)


def test_columns_that_are_absent_are_unknown(root):
    table = pd.read_csv(root / TABLE, sep=";", dtype=str)
    table.drop(columns=["Sex", "AgeAtStudyDateFiveYear", "Manufacturer"]).to_csv(root / TABLE, sep=";", index=False)
    manifest = Brixia.read(root)
    assert manifest.images[["sex_male", "age_years"]].isna().all(axis=None)
    assert manifest.extra["Manufacturer"].isna().all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BrixiaScore;", "Score;", r'^brixia: Expected a column "BrixiaScore" in'),
        ("1000.dcm;", ";", '"Filename" in every row .* rows 2'),
        (";S000;", ";;", '"Subject" in every row .* rows 2'),
        ("1000.dcm;", "1010.dcm;", "unique image ids"),
        ("1000.dcm;", "../1000.dcm;", "paths that lead out of it"),
        ("Filename;", "Filename,", "Expected a column|as many cells"),
    ],
)
def test_a_faulty_table_is_an_error(root, old, new, message):
    edit(root / TABLE, old, new)
    with pytest.raises(DataError, match=message):
        Brixia.read(root)


def test_a_missing_table_says_where_it_is_from(tmp_path):
    with pytest.raises(DataError, match=r"^brixia: expected the file 'metadata_global_v2.csv'.*brixia\.github\.io"):
        Brixia.read(tmp_path)
    with pytest.raises(
        DataError,
        match=r"^brixia: expected the file 'public-annotations.csv'.*its images in the Cohen set at https\S+\.$",
    ):
        Brixia.read(tmp_path, part="cohen")
    with pytest.raises(DataError, match="'part' as 'brescia' or 'cohen'; found 'milan'"):
        Brixia.read(tmp_path, part="milan")


def test_cohen_patients_views_and_origins_come_from_the_metadata(cohen):
    manifest = Brixia.read(cohen, part="cohen")
    images = manifest.images.set_index("image_id")
    assert images["patientid"].tolist() == ["24", "24", "7", "own image.png"]
    assert images["view"].tolist() == ["AP", "PA", "PA", "FRONTAL"]
    assert images["origin"].tolist()[:3] == ["cohen/one-day1.jpg", "cohen/one-day2.jpg", "cohen/two.jpeg"]
    assert images["origin_patientid"].tolist()[:3] == ["cohen/24", "cohen/24", "cohen/7"]
    assert images.loc["own image.png", ["origin", "origin_patientid", "age_years", "sex_male"]].isna().all()
    assert images["age_years"].tolist()[0] == 61
    assert images["path"]["own image.png"] == "public-cohen-subset/own image.png"
    assert [problem.where for problem in manifest.problems] == ["public-annotations.csv row 6"]


def test_cohen_images_of_other_diseases_are_negative_and_unlisted_ones_unknown(cohen):
    covid = Brixia.read(cohen, part="cohen").labels["COVID-19"]
    assert covid.tolist() == pytest.approx([1, 1, 0, np.nan], nan_ok=True)


def test_cohen_scores_are_those_of_the_senior_and_of_the_junior(cohen):
    edit(cohen / "public-annotations.csv", "own image.png,3,", "own image.png,7,")
    extra = Brixia.read(cohen, part="cohen").extra
    assert extra[SCORES].iloc[1].tolist() == [1, 1, 1, 1, 1, 1, 6]
    assert extra[SCORES].iloc[3].tolist() == pytest.approx([np.nan, 3, 3, 3, 3, 3, 18], nan_ok=True)
    assert (extra[JUNIOR] == 0).all(axis=None)
    assert extra["finding"].tolist()[2] == "Pneumonia/Viral/SARS"


def test_without_the_metadata_nothing_is_told_of_cohen_patients(cohen):
    (cohen / "metadata.csv").unlink()
    manifest = Brixia.read(cohen, part="cohen", labels_only=True)
    assert len(manifest) == 5
    assert manifest.images["patientid"].equals(manifest.images["image_id"])
    assert manifest.images["origin"].isna().all()
    assert manifest.known_findings == []
    assert manifest.problem_counts() == {"official file not on disk": 1}


def test_the_repository_of_the_annotations_keeps_them_in_data(cohen):
    for name in ("public-annotations.csv", "public-cohen-subset"):
        (cohen / "data").mkdir(exist_ok=True)
        (cohen / name).rename(cohen / "data" / name)
    manifest = Brixia.read(cohen, part="cohen")
    assert all(path.is_file() for path in manifest.paths())
    assert set(manifest.images["path"].str.partition("/")[0]) == {"images", "data"}
