"""Hannover: views, sex and images that are not on disk."""

import pytest

from hilum.databases.hannover import Hannover
from hilum.errors import DataError


@pytest.fixture
def root(tmp_path):
    Hannover.write_replica(tmp_path)
    return tmp_path


def test_every_image_is_covid_and_nothing_else_is_known(root):
    manifest = Hannover.read(root)
    assert manifest.known_findings == ["COVID-19"]
    assert (manifest.labels["COVID-19"] == 1).all()
    images = manifest.images
    assert images["view"].value_counts().to_dict() == {"PA": 12, "AP": 6}
    assert images["sex_male"].value_counts().to_dict() == {0.0: 12, 1.0: 6}
    assert images["age_years"].isna().all()


def test_an_unstated_view_and_an_absent_image(root):
    text = (root / "data.csv").read_text().replace("m,pa", ",", 1)
    (root / "data.csv").write_text(text)
    (root / "png" / "0101c0de.png").unlink()
    manifest = Hannover.read(root)
    assert len(manifest) == 17
    assert manifest.images.loc[0, ["view", "sex_male"]].isna().all()
    assert [str(p) for p in manifest.problems] == [
        "data.csv row 4: the image 'png/0101c0de.png' is not on disk; the row is left out"
    ]


def test_a_blank_patient_and_a_renamed_column(root):
    table = (root / "data.csv").read_text()
    (root / "data.csv").write_text(table.replace("00face00", ""))
    with pytest.raises(DataError, match='"patient_id" in every row'):
        Hannover.read(root)
    (root / "data.csv").write_text(table.replace("patient_id", "patient"))
    with pytest.raises(DataError, match='found "patient"; rename it'):
        Hannover.read(root)
