from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hilum.databases import DATABASES
from hilum.databases.manifest import Manifest
from hilum.databases.phantom import Phantom
from hilum.databases.phantoms import sheet
from hilum.databases.phantoms.hospitals import HARBOUR, HOSPITALS, MEADOW, NORTHGATE, OUTSIDE, hospital_named
from hilum.databases.phantoms.patients import DEVICE, labels_of, visits
from hilum.databases.phantoms.render import PHANTOM_FINDINGS
from hilum.databases.phantoms.writing import write_hospital
from hilum.errors import DataError, UnknownName


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def northgate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    root = write_hospital(NORTHGATE, tmp_path_factory.mktemp("northgate"), images=60, size=64, seed=1)
    return root, Phantom.read(root)


def test_label_spaces_differ_overlap_and_together_name_every_finding() -> None:
    trained = [set(h.labelled) for h in HOSPITALS.values() if h is not OUTSIDE]
    assert len(trained) >= 4
    assert len({frozenset(s) for s in trained}) == len(trained)
    assert all(any(a & b for b in trained if b is not a) for a in trained)
    assert set.union(*trained) == set(PHANTOM_FINDINGS) - {DEVICE}
    assert set(OUTSIDE.labelled) == set(PHANTOM_FINDINGS)


def test_scanners_differ() -> None:
    assert len({h.scanner for h in HOSPITALS.values()}) == len(HOSPITALS)


def test_prevalence_has_a_long_tail_and_marginals_are_kept() -> None:
    drawn = list(visits(HARBOUR, 6000, 0))
    share = {f: np.mean([f in v.findings for v in drawn]) for f in PHANTOM_FINDINGS}
    for finding, expected in HARBOUR.prevalence.items():
        assert abs(share[finding] - expected) < 0.025
    assert max(share.values()) > 0.25
    assert sum(v < 0.035 for v in share.values()) >= 3


@pytest.mark.parametrize(("a", "b"), [("Effusion", "Atelectasis"), ("Mass", "Nodule"), ("Mass", "Effusion")])
def test_findings_co_occur_more_than_by_chance(a: str, b: str) -> None:
    drawn = [v.findings for v in visits(HARBOUR, 6000, 0)]
    has_a, has_b = (np.array([f in d for d in drawn]) for f in (a, b))
    assert (has_a & has_b).mean() > 1.25 * has_a.mean() * has_b.mean()


def test_the_spurious_device_follows_its_finding_at_northgate_only() -> None:
    def share(hospital: str, present: bool) -> float:
        drawn = [v.findings for v in visits(HOSPITALS[hospital], 4000, 0)]
        chosen = [DEVICE in f for f in drawn if ("Pneumothorax" in f) == present]
        return float(np.mean(chosen))

    assert 0.80 < share("northgate", True) < 0.92
    assert share("northgate", False) < 0.08
    assert share("outside", True) < 0.2
    assert DEVICE not in NORTHGATE.labelled


def test_meadow_records_positives_of_one_finding() -> None:
    assert labels_of(MEADOW, frozenset()) == dict.fromkeys(MEADOW.labelled, 0)
    ill = labels_of(MEADOW, frozenset({"Tuberculosis", "Effusion"}))
    assert ill == {**dict.fromkeys(MEADOW.labelled), "Tuberculosis": 1}
    other = labels_of(MEADOW, frozenset({"Effusion"}))
    assert other == {**dict.fromkeys(MEADOW.labelled), "Tuberculosis": 0}


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_first_patients_do_not_change_when_more_are_asked_for(hospital: str) -> None:
    few, many = (list(visits(HOSPITALS[hospital], n, 7)) for n in (25, 60))
    assert few == many[:25]


def test_patients_have_one_to_three_images_and_are_not_split_by_other_patients() -> None:
    patients = pd.Series([v.patient for v in visits(NORTHGATE, 500, 0)])
    assert patients.is_monotonic_increasing
    assert set(patients.value_counts()) == {1, 2, 3}


def test_read_back(northgate: tuple[Path, Manifest]) -> None:
    root, manifest = northgate
    assert len(manifest) == 60
    assert manifest.problems == ()
    assert list(manifest.labels) == list(NORTHGATE.labelled)
    assert set(manifest.images["view"]) == {"PA", "AP"}
    assert np.asarray(Image.open(manifest.paths()[0])).shape == (64, 64)
    assert isinstance(DATABASES.load("phantom").read(root), Manifest)


def test_truth_holds_what_labels_leave_unknown(northgate: tuple[Path, Manifest]) -> None:
    root, manifest = northgate
    truth = pd.read_csv(root / "truth.csv")
    assert list(truth.columns[1:]) == list(PHANTOM_FINDINGS)
    np.testing.assert_array_equal(truth[list(NORTHGATE.labelled)], manifest.labels)
    unlabelled = set(PHANTOM_FINDINGS) - set(NORTHGATE.labelled)
    assert truth[list(unlabelled)].to_numpy().sum() > 0
    assert unlabelled & set(pd.read_csv(root / "truth_boxes.csv")["finding"])
    assert not unlabelled & set(manifest.boxes["finding"])


def test_boxes_on_disk_are_the_extents_of_the_masks_on_disk(northgate: tuple[Path, Manifest]) -> None:
    root, manifest = northgate
    positives = manifest.labels.to_numpy() == 1
    assert len(manifest.masks) == positives.sum() > 10
    for image, finding, path in manifest.masks.itertuples(index=False):
        file = Image.open(root / path)
        assert file.mode == "1"
        rows, columns = np.nonzero(np.asarray(file))
        extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 64
        of_image = manifest.boxes["image_id"] == image
        boxes = manifest.boxes[of_image & (manifest.boxes["finding"] == finding)]
        union = [*boxes[["x0", "y0"]].min(), *boxes[["x1", "y1"]].max()]
        np.testing.assert_allclose(union, extent)


def test_more_images_and_more_workers_keep_the_first_files(tmp_path: Path) -> None:
    few = _files(write_hospital(OUTSIDE, tmp_path / "few", images=6, size=32, seed=3))
    many = _files(write_hospital(OUTSIDE, tmp_path / "many", images=12, size=32, seed=3, workers=2))
    drawn = {name: data for name, data in few.items() if name.endswith(".png")}
    assert len(drawn) >= 6
    assert all(many[name] == data for name, data in drawn.items())
    assert many["labels.csv"].startswith(few["labels.csv"])


def test_a_second_call_does_nothing_and_another_hospital_is_refused(tmp_path: Path) -> None:
    root = write_hospital(HARBOUR, tmp_path / "h", images=4, size=32)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    write_hospital(HARBOUR, root, images=4, size=32)
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    with pytest.raises(DataError, match=r"another contrast.*Choose another folder"):
        write_hospital(HARBOUR, root, images=4, size=32, contrast=0.5)
    with pytest.raises(DataError, match="another hospital"):
        write_hospital(replace(HARBOUR, pa=0.5), root, images=4, size=32)


def test_an_interrupted_hospital_is_finished(tmp_path: Path) -> None:
    root = write_hospital(HARBOUR, tmp_path / "h", images=4, size=32)
    whole = _files(root)
    parameters = json.loads((root / "phantom.json").read_text())
    (root / "phantom.json").write_text(json.dumps({**parameters, "complete": False}))
    (root / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"labels\.csv"):
        Phantom.read(root)
    write_hospital(HARBOUR, root, images=4, size=32)
    assert _files(root) == whole


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,patient\n")
    with pytest.raises(DataError, match="holds other files"):
        write_hospital(HARBOUR, tmp_path, images=2, size=32)
    with pytest.raises(DataError, match=r"phantom\.json"):
        Phantom.read(tmp_path)


def test_replica_is_read_without_problems(tmp_path: Path) -> None:
    Phantom.write_replica(tmp_path)
    manifest = Phantom.read(tmp_path)
    assert manifest.problems == ()
    assert set(manifest.known_findings) == set(PHANTOM_FINDINGS)
    assert Phantom.card.synthetic


def test_unknown_hospital_names_the_nearest() -> None:
    assert hospital_named("summit").name == "summit"
    with pytest.raises(UnknownName, match="Did you mean 'harbour'"):
        hospital_named("harbor")
    with pytest.raises(DataError, match="at least one image"):
        write_hospital(HARBOUR, Path("never"), images=0)


def test_the_contact_sheet_shows_the_shortcut():
    shown = sheet._pneumothoraces()
    assert len({visit.patient for visit in shown}) == 6
    assert all("Pneumothorax" in visit.findings for visit in shown)
    assert sum(DEVICE in visit.findings for visit in shown) > 3
