"""hilum predict: one row an image, one map a finding, and both where they belong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import hospitals
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.federation import aggregation
from hilum.models.taxonomy import Taxonomy
from hilum.study import inference, voices
from hilum.study.arms import load_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.run import load_run_study
from hilum.training.inference import Inferred
from hilum.training.state import load_state, save_state

FINDINGS = list(hospitals.FINDINGS)
SHAPES = {"wide": (300, 90), "tall": (70, 400), "square": (64, 64), "huge": (1200, 800)}


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with films of several shapes, one of them in a folder of its own."""
    folder = tmp_path / "films"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (width, height) in SHAPES.items():
        where = folder / "more" if name == "tall" else folder
        Image.fromarray(hospitals.disc(width, height, 0, 0, 0, rng)).save(where / f"{name}.png")
    (folder / "notes.txt").write_text("no film")
    return folder


def predicted(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "predictions.csv", dtype={"image": str})


def test_writes_a_row_and_maps_for_each_image(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", out)
    assert outcome.status == 0, outcome.err
    first, second = outcome.out.splitlines()
    assert first == f"4 images: {out / 'predictions.csv'}"
    assert second == f"{len(pd.read_csv(out / 'boxes.csv'))} boxes: {out / 'boxes.csv'}"
    table = predicted(out)
    assert list(table.columns) == ["image", *FINDINGS]
    assert set(table["image"]) == {str(films / n) for n in ("huge.png", "more/tall.png", "square.png", "wide.png")}
    assert table[FINDINGS].to_numpy().min() > 0
    assert table[FINDINGS].to_numpy().max() < 1
    for name, (width, height) in SHAPES.items():
        with np.load(out / "maps" / f"{name}.npz") as maps:
            assert sorted(maps) == sorted(FINDINGS)
            h, w = maps[FINDINGS[0]].shape
            assert max(h, w) == min(256, max(width, height))
            assert w / h == pytest.approx(width / height, rel=0.02)
            assert all(0 <= maps[f].min() <= maps[f].max() <= 1 for f in maps)


def test_predictions_are_those_of_the_study(tiny_run: Path, tmp_path: Path) -> None:
    """The same images through hilum predict and through the study give the same numbers."""
    hospital = tiny_run.parent / "north"
    expected = [
        pd.read_csv(tiny_run / f"predictions/seed_{seed}/federated/federated/north.csv").set_index("image_id")
        for seed in (0, 1)
    ]
    images = [hospital / name for name in expected[0].index]
    hospitals.hilum("predict", tiny_run, *images, "--out", tmp_path, "--site", "north")
    both = np.mean([table[FINDINGS].to_numpy() for table in expected], 0)
    np.testing.assert_allclose(predicted(tmp_path)[FINDINGS], both, atol=2e-5)
    hospitals.hilum("predict", tiny_run, *images, "--out", tmp_path, "--site", "north", "--seed", "1")
    np.testing.assert_allclose(predicted(tmp_path)[FINDINGS], expected[1][FINDINGS], atol=2e-5)


def test_a_site_has_its_own_statistics(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    tables = []
    for site in ([], ["--site", "north"], ["--site", "south"]):
        assert hospitals.hilum("predict", tiny_run, films, "--out", tmp_path, *site).status == 0
        tables.append(predicted(tmp_path)[FINDINGS].to_numpy())
    assert not np.allclose(tables[0], tables[1])
    assert not np.allclose(tables[1], tables[2])


def test_a_finding_never_taught_is_blank_and_has_no_map(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    """South labels no effusion."""
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", tmp_path, "--arm", "local", "--site", "south")
    assert outcome.status == 0, outcome.err
    table = predicted(tmp_path)
    assert table["Effusion"].isna().all()
    assert table["Nodule"].notna().all()
    with np.load(tmp_path / "maps/wide.npz") as maps:
        assert list(maps) == ["Nodule"]


def test_paths_stay_as_they_were_given(
    tiny_run: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films.parent)
    given = ("./films/wide.png", "films/../films/more")
    assert hospitals.hilum("predict", tiny_run, *given, "--out", "out").status == 0
    assert list(predicted(tmp_path / "out")["image"]) == ["./films/wide.png", "films/../films/more/tall.png"]


def test_a_name_that_is_not_utf8_is_written_byte_for_byte(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    (films / "wide.png").rename(films / os.fsdecode(b"M\xfcller.png"))
    assert hospitals.hilum("predict", tiny_run, films, "--out", tmp_path / "out").status == 0
    for table in ("predictions.csv", "maps/index.csv"):
        assert b"M\xfcller.png" in (tmp_path / "out" / table).read_bytes()


def test_images_of_one_stem_keep_their_maps(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    shutil.copy(films / "wide.png", films / "more/square.png")
    hospitals.hilum("predict", tiny_run, films / "square.png", films / "more/square.png", "--out", tmp_path / "out")
    shapes = []
    for name in ("square", "square-2"):
        with np.load(tmp_path / f"out/maps/{name}.npz") as maps:
            shapes.append(maps["Nodule"].shape)
    assert shapes == [(64, 64), (77, 256)]


def test_the_index_says_which_map_is_whose(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    """Also where a stem looks like a name that was given: it stays with its own image."""
    (films / "sub").mkdir()
    for source, copy in (("tall", "sub/wide"), ("square", "wide-2"), ("wide", "more/wide"), ("huge", "wide-4")):
        path = films / ("more/tall.png" if source == "tall" else f"{source}.png")
        shutil.copy(path, films / f"{copy}.png")
    given = [films / f"{name}.png" for name in ("sub/wide", "wide-2", "wide", "more/wide", "wide-4", "square")]
    assert hospitals.hilum("predict", tiny_run, *given, "--out", tmp_path / "out").status == 0
    index = pd.read_csv(tmp_path / "out/maps/index.csv", dtype=str)
    assert list(index.columns) == ["image", "map"]
    assert list(index["image"]) == list(predicted(tmp_path / "out")["image"]) == [str(path) for path in given]
    names = ["wide.npz", "wide-2.npz", "wide-3.npz", "wide-5.npz", "wide-4.npz", "square.npz"]
    assert list(index["map"]) == names
    for image, name in index.itertuples(index=False):
        with Image.open(image) as film, np.load(tmp_path / "out/maps" / name) as maps:
            assert maps["Nodule"].shape[0] / maps["Nodule"].shape[1] == pytest.approx(
                film.height / film.width, rel=0.02
            )


def brightness(model: Any, batches: Any, precision: str, flip: bool, localize: Any = None) -> Inferred:
    """Stand in for inference: the map of every finding is the brightness of each cell."""
    cells = torch.cat([torch.nn.functional.avg_pool2d(images, 4) for images in batches])
    cells = cells.repeat(1, len(FINDINGS), 1, 1).numpy()
    return Inferred(cells.max((2, 3)), cells)


@pytest.mark.parametrize(("width", "height"), [(120, 60), (60, 120), (90, 90), (500, 200)])
@pytest.mark.parametrize(("x", "y"), [(0.25, 0.3), (0.8, 0.75)])
def test_the_bright_part_of_a_map_lies_on_the_disc(
    width: int, height: int, x: float, y: float, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose map is the brightness of each cell points at the disc, whatever the letterbox padded."""
    monkeypatch.setattr(voices, "infer", brightness)
    side = min(width, height)
    pixels = hospitals.disc(width, height, x * width, y * height, side / 6, np.random.default_rng(1))
    Image.fromarray(pixels).save(tmp_path / "disc.png")
    assert hospitals.hilum("predict", tiny_run, tmp_path / "disc.png", "--out", tmp_path).status == 0
    with np.load(tmp_path / "maps/disc.npz") as maps:
        found = maps["Nodule"].astype(float)
    weight = np.clip(found - (np.median(found) + found.max()) / 2, 0, None)
    rows, columns = np.indices(found.shape) + 0.5
    scale, half_a_cell = max(width, height) / max(found.shape), max(width, height) / 16
    assert (weight * columns).sum() / weight.sum() * scale == pytest.approx(x * width, abs=half_a_cell)
    assert (weight * rows).sum() / weight.sum() * scale == pytest.approx(y * height, abs=half_a_cell)


def broken(films: Path) -> Path:
    path = films / "broken.png"
    path.write_bytes((films / "wide.png").read_bytes()[:200])
    return path


def test_lateral_films_are_left_out_with_the_reason(tiny_run: Path, tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "out"
    save_dicom_radiograph(films / "a.dcm", view="PA")
    save_dicom_radiograph(films / "b.dcm", view="LL")
    save_dicom_radiograph(films / "c.dcm", view="AP")
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", out)
    assert outcome.status == 0
    assert f"left out: {films / 'b.dcm'}: lateral view: expected a frontal radiograph" in outcome.err
    assert list(predicted(out)["image"]) == [str(films / "a.dcm"), str(films / "c.dcm")]
    alone = hospitals.hilum("predict", tiny_run, films / "b.dcm", "--out", out)
    assert alone.status == 1
    assert "b.dcm: lateral view" in alone.err


def test_dicom_is_known_by_its_content(tiny_run: Path, tmp_path: Path) -> None:
    """In a folder without a suffix, and under the suffix of another format; a DICOMDIR holds no image."""
    films, out = tmp_path / "films", tmp_path / "out"
    for name in ("IM0001", "IM0002.1", "film.png"):
        save_dicom_radiograph(films / name)
    shutil.copy(films / "IM0001", films / "DICOMDIR")
    (films / "notes").write_text("no film" * 50)
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", out)
    assert outcome.status == 0, outcome.err
    assert list(predicted(out)["image"]) == [str(films / name) for name in ("IM0001", "IM0002.1", "film.png")]


@pytest.mark.parametrize(("orientation", "store"), hospitals.ORIENTATIONS)
def test_maps_of_turned_films_lie_on_the_film_as_it_is_stored(
    orientation: list[str], store: Any, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models see the standing film however it was stored; each map is stored as its film is."""
    monkeypatch.setattr(voices, "infer", brightness)
    film = np.random.default_rng(0).integers(0, 4096, (60, 100)).astype(np.uint16)
    film[10:30, 10:40] += 20000
    for name, pixels, stated in (("standing", film, ["L", "F"]), ("stored", store(film), orientation)):
        rows, columns = pixels.shape
        tags = {"PixelData": pixels.tobytes(), "Rows": rows, "Columns": columns, "PatientOrientation": stated}
        save_dicom_radiograph(tmp_path / f"{name}.dcm", BitsStored=16, HighBit=15, **tags)
    given = (tmp_path / "standing.dcm", tmp_path / "stored.dcm")
    assert hospitals.hilum("predict", tiny_run, *given, "--out", tmp_path / "out").status == 0
    standing, stored = predicted(tmp_path / "out")[FINDINGS].to_numpy()
    np.testing.assert_allclose(standing, stored, rtol=1e-4)
    with np.load(tmp_path / "out/maps/standing.npz") as a, np.load(tmp_path / "out/maps/stored.npz") as b:
        for finding in FINDINGS:
            assert np.ptp(a[finding].astype(float)) > 0.3
            np.testing.assert_allclose(b[finding], store(a[finding]), atol=1e-3)


def test_an_unreadable_image_is_refused_or_left_out(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    path, out = broken(films), tmp_path / "out"
    refused = hospitals.hilum("predict", tiny_run, films, "--out", out)
    assert refused.status == 1
    assert refused.err == (
        "hilum: Expected 5 readable images; found 1 that are not:\n"
        f"  {path}: truncated or damaged: the PNG has no end\nAdd --on-error leave_out to predict the others.\n"
    )
    assert not out.exists()
    left_out = hospitals.hilum("predict", tiny_run, films, "--out", out, "--on-error", "leave_out")
    assert left_out.status == 0
    assert f"left out: {path}: truncated" in left_out.err
    assert len(predicted(out)) == 4
    alone = hospitals.hilum("predict", tiny_run, path, "--out", out, "--on-error", "leave_out")
    assert alone.status == 1


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--arm", "local"], 1, "name one with --site: north, south"),
        (["--arm", "local", "--site", "east"], 1, "name one with --site: north, south"),
        (["--site", "nowhere"], 1, "Expected --site among north, south, east"),
        (["--seed", "7"], 1, "Expected --seed among [0, 1]; found 7"),
        (["--arm", "central"], 1, "Expected --arm among those of the run: local, pooled, federated; found 'central'"),
        (["--on-error", "ignore"], 2, "'ignore' is not one of"),
    ],
)
def test_a_wrong_choice_is_told(
    arguments: list[str], status: int, told: str, tiny_run: Path, films: Path, tmp_path: Path
) -> None:
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", tmp_path / "out", *arguments)
    assert outcome.status == status
    assert told in outcome.err
    assert "Traceback" not in outcome.err


def test_a_path_without_images_is_told(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, told in (
        ("empty", "Expected PNG, JPEG or DICOM files in the folder"),
        ("absent.png", "there is none"),
    ):
        outcome = hospitals.hilum("predict", tiny_run, tmp_path / path, "--out", tmp_path / "out")
        assert (outcome.status, told in outcome.err) == (1, True)


def test_a_directory_without_a_run_is_told(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    outcome = hospitals.hilum("predict", tmp_path, films, "--out", tmp_path / "out")
    assert (outcome.status, "Expected study.yaml in" in outcome.err) == (1, True)
    unfinished = tmp_path / "run"
    shutil.copytree(tiny_run, unfinished, ignore=shutil.ignore_patterns("models"))
    outcome = hospitals.hilum("predict", unfinished, films, "--out", tmp_path / "out")
    assert outcome.status == 1
    assert "--resume" in outcome.err


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("run.json", "{}", "Expected the key 'precision' in"),
        ("run.json", "[]", "Expected the key 'precision' in"),
        ("sites.json", "{}", "Expected the label counts of every site in"),
        ("sites.json", '[{"name": "north"}]', "Expected the label counts of every site in"),
        ("sites.json", "nothing", "Expected JSON in"),
    ],
)
def test_a_damaged_file_of_the_run_is_named(
    file: str, content: str, told: str, tiny_run: Path, films: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("rounds", "maps"))
    (run / file).write_text(content)
    outcome = hospitals.hilum("predict", run, films, "--out", tmp_path / "out")
    assert outcome.status == 1
    assert told in outcome.err
    assert str(run / file) in outcome.err


def test_nothing_can_be_written(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", tmp_path / "out")
    assert outcome.status == 1
    assert "Not a directory" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_ctrl_c_says_that_it_starts_anew(
    tiny_run: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "_write_map", stop)
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", tmp_path / "out")
    assert outcome.status == 130
    assert outcome.err == "hilum: Stopped before predictions.csv was written. Repeat the command: it starts anew.\n"


@pytest.fixture
def heads_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in which the hospitals have rows of their own."""
    monkeypatch.setattr(aggregation, "OWN_EVIDENCE", 1.0)
    study = hospitals.write_study(tmp_path / "study")
    values = ("--set", "arms=[federated]", "--set", "seeds=[0]", "--set", "federation.head=site")
    assert hospitals.hilum("study", study, "--out", tmp_path / "heads", *values).status == 0
    return tmp_path / "heads"


def test_own_rows_at_home_and_the_others_elsewhere(heads_run: Path, films: Path, tmp_path: Path) -> None:
    """South has no row for an effusion: north's speaks there. Of a nodule each has its own."""
    found = {}
    for site in ("north", "south", "east"):
        out = tmp_path / site
        assert hospitals.hilum("predict", heads_run, films, "--out", out, "--site", site).status == 0
        found[site] = predicted(out)
    assert (found["north"]["Nodule"] != found["south"]["Nodule"]).all()
    folder = heads_run / "models/seed_0/federated/federated"
    packed = load_file(folder / "site_heads.safetensors")
    assert packed["south/own"].tolist() == [True, False]
    assert packed["north/own"].tolist() == [True, True]
    study, run = load_run_study(RunDirectory(heads_run)), RunDirectory(heads_run)
    loaded = [load_model(study, run, ModelKey(0, "federated", "federated"), site) for site in ("south", None)]
    assert [m.site_heads is not None and m.site_heads.settled is not None for m in loaded] == [True, False]
    low = np.minimum(found["north"]["Nodule"], found["south"]["Nodule"]) - 0.1
    high = np.maximum(found["north"]["Nodule"], found["south"]["Nodule"]) + 0.1
    assert ((low < found["east"]["Nodule"]) & (found["east"]["Nodule"] < high)).all()


def test_adjusted_for_the_hospital_is_the_mean_over_every_model_at_home(
    heads_run: Path, tiny_run: Path, films: Path, tmp_path: Path
) -> None:
    """Weighted by labelled training images: of an effusion, which south does not label, north speaks alone."""
    for run in (heads_run, tiny_run):
        counts = {entry["name"]: entry["findings"] for entry in hospitals.json_of(run / "sites.json")}
        said, heat = {}, {}
        for name, options in {
            "north": ["--site", "north"],
            "south": ["--site", "south"],
            "adjusted": ["--adjust", "sites"],
        }.items():
            out = tmp_path / run.name / name
            outcome = hospitals.hilum("predict", run, films, "--out", out, *options)
            assert outcome.status == 0, outcome.err
            said[name] = predicted(out)
            with np.load(out / "maps/wide.npz") as maps:
                heat[name] = {finding: maps[finding].astype(float) for finding in maps}
        for finding in FINDINGS:
            labels = [counts[site][finding]["train"] for site in ("north", "south")]
            north, south = (one["positive"] + one["negative"] for one in labels)
            share = north / (north + south)
            mean = share * said["north"][finding] + (1 - share) * said["south"][finding]
            np.testing.assert_allclose(said["adjusted"][finding], mean, rtol=1e-5)
            cells = share * heat["north"][finding] + (1 - share) * heat["south"][finding]
            np.testing.assert_allclose(heat["adjusted"][finding], cells, atol=2e-3)
        assert share == 1
        assert (said["north"]["Nodule"] != said["adjusted"]["Nodule"]).all()


def test_adjusted_for_the_hospital_no_child_is_above_its_parent(tiny_run: Path) -> None:
    """The child is likely at south, which labels it alone; north, which labels the parent too, sees neither."""
    run = RunDirectory(tiny_run)
    study = load_run_study(run)
    study = study.model_copy(update={"model": study.model.model_copy(update={"taxonomy": True})})
    speaking = voices.voices_of(study, run, [ModelKey(0, "federated", "federated")], adjust="sites")
    for voice, bias in zip(speaking, (-8.0, 8.0), strict=True):
        voice.model.taxonomy = Taxonomy(["Nodule", "Lung Lesion"])
        torch.nn.init.constant_(voice.model.head.bias, bias)
    film = inference.Radiograph(np.zeros((32, 32), np.uint8), (0.0, 0.0, 1.0, 1.0), (32, 32), ())
    found = inference._infer(speaking, [film], "float32", study)
    child, parent = found.probabilities[0]
    assert 0.3 < child <= parent
    assert (found.maps[0, 0] <= found.maps[0, 1]).all()
    counts = [entry["findings"] for entry in hospitals.json_of(tiny_run / "sites.json")[:2]]
    labels = [sum(one["train"][v] for one in site.values() for v in ("positive", "negative")) for site in counts]
    for voice, n in zip(speaking, labels, strict=True):
        np.testing.assert_allclose(voice.weights, n / sum(labels), rtol=1e-6)


def test_adjusted_to_the_images_is_with_their_statistics(
    heads_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Darker films of low contrast change the statistics; a prediction then depends on the films beside it."""
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        noise = rng.normal(60, 4, (48, 48)) + 40 * (np.hypot(*np.mgrid[-24:24, -24:24]) < 4 * k)
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    few = hospitals.hilum("predict", heads_run, folder, "--out", tmp_path / "few", "--adjust", "images")
    assert (few.status, "Expected 50 images or more of one hospital" in few.err) == (1, True)
    monkeypatch.setattr(voices, "LEAST_IMAGES", 4)
    said = {}
    for name, paths in {"all": [folder], "four": sorted(folder.iterdir())[:4]}.items():
        outcome = hospitals.hilum("predict", heads_run, *paths, "--out", tmp_path / name, "--adjust", "images")
        assert outcome.status == 0, outcome.err
        said[name] = predicted(tmp_path / name)["Nodule"].to_numpy()
    plain = hospitals.hilum("predict", heads_run, folder, "--out", tmp_path / "plain")
    assert plain.status == 0
    assert not np.allclose(said["all"], predicted(tmp_path / "plain")["Nodule"], atol=1e-3)
    assert not np.allclose(said["all"][:4], said["four"], atol=1e-4)


def test_statistics_that_training_leaves_alone_are_not_adjusted(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("rounds", "maps"))
    study = run / "study.yaml"
    study.write_text(study.read_text().replace("normalization: site", "normalization: frozen"))
    outcome = hospitals.hilum("predict", run, films, "--out", tmp_path / "out", "--adjust", "images")
    assert (outcome.status, "Expected statistics that training moves" in outcome.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--site", "north"], "Expected --site or --adjust sites; found both"),
        (["--arm", "pooled"], "in 'pooled' all images meet the same weights"),
        (["--arm", "local"], "name one with --site: north, south"),
    ],
)
def test_an_adjustment_that_means_nothing_is_refused(
    arguments: list[str], told: str, tiny_run: Path, films: Path, tmp_path: Path
) -> None:
    outcome = hospitals.hilum("predict", tiny_run, films, "--out", tmp_path / "out", "--adjust", "sites", *arguments)
    assert (outcome.status, told in outcome.err) == (1, True)


def test_an_adjustment_needs_what_every_hospital_keeps(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    """A hospital that had not taken the last weights has sent nothing back."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("rounds", "maps"))
    weights = run / "models/seed_1/federated/federated/model.safetensors"
    save_state(weights, load_state(weights), {"beside": ["site_south.safetensors"]})
    outcome = hospitals.hilum("predict", run, films, "--out", tmp_path / "out", "--adjust", "sites")
    assert outcome.status == 1
    assert f"Expected in {weights.parent} what is every hospital's own" in outcome.err
    assert "absent is that of north." in outcome.err


def test_a_finding_with_soft_labels_alone_was_taught(tiny_run: Path, films: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("rounds", "maps"))
    entries = hospitals.json_of(run / "sites.json")
    for entry in entries:
        entry["findings"]["Effusion"]["train"] |= {"positive": 0, "negative": 0, "soft": 3}
    (run / "sites.json").write_text(json.dumps(entries))
    assert hospitals.hilum("predict", run, films, "--out", tmp_path / "out").status == 0
    assert predicted(tmp_path / "out")["Effusion"].notna().all()


@pytest.mark.parametrize("name", ["site_heads", "site_north"])
def test_a_file_beside_the_weights_that_is_gone_or_of_another_model_is_named(
    name: str, heads_run: Path, films: Path, tmp_path: Path
) -> None:
    path = heads_run / f"models/seed_0/federated/federated/{name}.safetensors"
    save_file({"other": torch.zeros(1)}, path)
    command = ("predict", heads_run, films, "--out", tmp_path / "out", "--site", "north")
    outcome = hospitals.hilum(*command)
    assert outcome.status == 1
    assert "Expected weights of the study's model in" in outcome.err
    path.unlink()
    outcome = hospitals.hilum(*command)
    assert outcome.status == 1
    assert f"{path.name} beside the weights; the file is absent" in outcome.err
    assert not (tmp_path / "out/predictions.csv").exists()
