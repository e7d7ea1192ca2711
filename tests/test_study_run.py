"""A study from file to run directory: its layout, its arms, and figures that agree with its tables."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

import hospitals
from hilum.errors import RunError, StudyError
from hilum.evaluation.bootstrap import FEWEST_OF_CLASS
from hilum.evaluation.maps import iou
from hilum.study import run as study_run
from hilum.study import voices
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.figures import Figures
from hilum.study.hospitals import load_sites
from hilum.study.spec import dump_study, load_study, parse_study
from hilum.training.inference import Inferred
from hilum.training.losses.masked_bce import MaskedBCE

pytestmark = pytest.mark.usefixtures("unmeasured")

REFERENCE = (Path(__file__).parents[1] / "docs/reference/run-directory.md").read_text(encoding="utf-8")
FINDINGS = list(hospitals.FINDINGS)
MODELS = ("local/north", "local/south", "pooled/pooled", "federated/federated")


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text(encoding="utf-8"))


def table(run: Path, kind: str, model: str, site: str, seed: int = 0) -> pd.DataFrame:
    return pd.read_csv(run / kind / f"seed_{seed}" / model / f"{site}.csv")


def records(run: Path, kind: str = "classification", **chosen: Any) -> list[dict[str, Any]]:
    found = read(run, "metrics.json")[kind]
    return [record for record in found if all(record[key] == value for key, value in chosen.items())]


def weights(run: Path, model: str = "federated/federated", seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(run / f"models/seed_{seed}" / model / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run_with(study: Path, out: Path, *values: str) -> Path:
    outcome = hospitals.hilum("study", study, "--out", out, *(part for value in values for part in ("--set", value)))
    assert outcome.status == 0, outcome.err
    return out


def trained(study: Path, out: Path, *values: str) -> Path:
    return study_run.run_study(load_study(study, list(values)), out).root


# The layout


def documented() -> dict[str, re.Pattern[str]]:
    """Return the paths of the reference, as patterns."""
    lines = REFERENCE.split("```")[1].strip().splitlines()
    paths = [line.split()[0] for line in lines]
    return {path: re.compile(re.sub(r"<\w+>", r"[\\w-]+", re.escape(path).replace(r"\<", "<"))) for path in paths}


def test_every_file_is_documented_and_every_documented_file_is_there(tiny_run: Path) -> None:
    patterns = documented()
    files = [path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()]
    assert [file for file in files if not any(p.fullmatch(file) for p in patterns.values())] == []
    absent = [name for name, p in patterns.items() if not any(p.fullmatch(file) for file in files)]
    assert [Path(name).name for name in absent] == ["extra.safetensors", "secret.key", "site_heads.safetensors"]


def keys_of(heading: str) -> list[str]:
    """Return the keys of one section of the reference."""
    section = re.split(r"\n#{2,3} ", REFERENCE.split(f"# `{heading}`\n")[1])[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("name", ["run.json", "sites.json", "metrics.jsonl", "audit.jsonl", "gallery/gallery.json"])
def test_keys_are_those_of_the_reference(name: str, tiny_run: Path) -> None:
    text = (tiny_run / name).read_text()
    content = [json.loads(line) for line in text.splitlines()] if name.endswith("jsonl") else json.loads(text)
    of_replies = {"images", "bytes", "sha256", "updates", "update_norm", "masked"}
    optional = {"metrics.jsonl": {"visits", "lost"}, "audit.jsonl": of_replies}.get(name, set())
    for entry in content if isinstance(content, list) else [content]:
        assert set(entry) | optional == set(keys_of(name))


@pytest.mark.parametrize("kind", ["classification", "localization", "comparisons"])
def test_keys_of_figures_are_those_of_the_reference(kind: str, tiny_run: Path) -> None:
    found = records(tiny_run, kind)
    assert found
    optional = {"seeds", "findings", "p"}
    for record in found:
        assert set(keys_of(kind)) - optional <= set(record) <= set(keys_of(kind))
    assert set(read(tiny_run, "metrics.json")) == {"schema", "classification", "localization", "comparisons"}


def test_nothing_tells_a_patient(tiny_run: Path) -> None:
    for path in (p for p in tiny_run.rglob("*") if p.is_file()):
        assert b"secret" not in path.read_bytes(), path


def test_a_topology_of_other_sites_is_refused_and_the_directory_takes_the_corrected_study(
    tiny_study: Path, tmp_path: Path
) -> None:
    wrong = load_study(tiny_study, ["arms=[federated]", "federation.topology={name: gossip, graph: {north: [west]}}"])
    with pytest.raises(StudyError, match="found west"):
        study_run.run_study(wrong, tmp_path / "run")
    study_run.check_run(load_study(tiny_study), RunDirectory(tmp_path / "run"), resume=False)


def test_the_resolved_study_runs_the_same_study(tiny_run: Path, tiny_study: Path) -> None:
    assert load_study(tiny_run / "study.yaml") == load_study(tiny_study)
    packages = read(tiny_run, "run.json")["packages"]
    assert packages["torch"] == torch.__version__
    assert packages["numpy"] == np.__version__


def test_log_has_every_round_once(tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    found = [(line["seed"], f"{line['arm']}/{line['model']}", line["round"]) for line in lines]
    assert sorted(found) == sorted((seed, model, n) for seed in (0, 1) for model in MODELS for n in (1, 2))
    for line in lines:
        assert line["updates"] == line["round"] * (4 if line["arm"] == "pooled" else 2)


# Patients, labels, splits


def test_splits_keep_patients_together(tiny_run: Path, tiny_study: Path) -> None:
    for entry in read(tiny_run, "sites.json"):
        split = pd.read_csv(tiny_run / "splits" / f"{entry['name']}.csv")
        given = pd.read_csv(tiny_study.parent / entry["name"] / "labels.csv")
        assert (split.groupby("patient")["split"].nunique() == 1).all()
        assert list(split["image_id"]) == list(given["image"])
        assert split["patient"].nunique() == given["patient"].nunique()
        for name, counts in entry["splits"].items():
            chosen = split[split["split"] == name]
            assert counts == {"images": len(chosen), "patients": chosen["patient"].nunique()}


def test_predictions_labels_and_boxes_are_of_test_images(tiny_run: Path) -> None:
    for site in ("north", "south", "east"):
        split = pd.read_csv(tiny_run / "splits" / f"{site}.csv")
        test = split.loc[split["split"] == "test", "image_id"]
        labels = pd.read_csv(tiny_run / "labels" / f"{site}.csv")
        assert list(labels["image_id"]) == list(test)
        assert set(pd.read_csv(tiny_run / "boxes" / f"{site}.csv")["image_id"]) <= set(test)
        for model in MODELS:
            predicted = table(tiny_run, "predictions", model, site)
            assert list(predicted["image_id"]) == list(test)
            assert list(predicted["patient"]) == list(labels["patient"])


@pytest.mark.usefixtures("unevaluated")
def test_an_outside_site_is_tested_only(tiny_run: Path, tiny_study: Path, tmp_path: Path) -> None:
    """Every image of it is a test image, and the weights are those of a study without it."""
    assert set(pd.read_csv(tiny_run / "splits/east.csv")["split"]) == {"test"}
    assert records(tiny_run, site="east", arm="federated", finding="Nodule")
    text = re.sub(r"  east: .*\n", "", tiny_study.read_text()).replace("root: ", f"root: {tiny_study.parent}/")
    (tmp_path / "study.yaml").write_text(text)
    without = trained(tmp_path / "study.yaml", tmp_path / "run", "arms=[federated]", "seeds=[0]")
    assert same(weights(without), weights(tiny_run))


@pytest.mark.usefixtures("unevaluated")
def test_no_box_enters_training(tmp_path: Path) -> None:
    """A federation learns the same weights, bit for bit, whether or not its hospitals have boxes."""
    study = hospitals.write_study(tmp_path)
    values = ("arms=[federated]", "seeds=[0]")
    boxed = trained(study, tmp_path / "boxed", *values)
    for site in ("north", "south", "east"):
        assert len(pd.read_csv(tmp_path / site / "boxes.csv"))
        (tmp_path / site / "boxes.csv").unlink()
    bare = trained(study, tmp_path / "bare", *values)
    assert [any(site["boxes"].values()) for site in read(boxed, "sites.json")] == [True] * 3
    assert not any(any(site["boxes"].values()) for site in read(bare, "sites.json"))
    assert same(weights(boxed), weights(bare))


def test_a_finding_never_taught_is_blank_and_its_figures_null(tiny_run: Path) -> None:
    """South labels no effusion: its own model says nothing of it anywhere, the others do."""
    for site in ("north", "east"):
        assert table(tiny_run, "predictions", "local/south", site)["Effusion"].isna().all()
        assert table(tiny_run, "predictions", "local/south", site)["Nodule"].notna().all()
        assert table(tiny_run, "predictions", "federated/federated", site)[FINDINGS].notna().all(axis=None)
        for seed in (0, 1, "all"):
            for record in records(tiny_run, model="south", site=site, finding="Effusion", seed=seed):
                assert (record["value"], record["low"], record["high"], record["n"]) == (None, None, None, 0)
    for record in records(tiny_run, site="south", finding="Effusion"):
        assert (record["value"], record["n"]) == (None, 0)
    macro = records(tiny_run, model="south", site="north", finding="macro", metric="auroc", seed=0)[0]
    own = records(tiny_run, model="south", site="north", finding="Nodule", metric="auroc", seed=0)[0]
    assert macro["value"] == own["value"]


@pytest.mark.usefixtures("unevaluated")
def test_unknown_labels_may_count_as_negative_as_if_the_database_had_said_so(tmp_path: Path) -> None:
    """South labels no effusion. What it would train on if its table said negative, it trains on without."""
    short = ("arms=[federated]", "seeds=[0]", "federation.weighting=known")
    study = hospitals.write_study(tmp_path)
    masked = weights(trained(study, tmp_path / "masked", *short))
    negative = weights(trained(study, tmp_path / "negative", *short, "training.unknown=negative"))
    labels = pd.read_csv(tmp_path / "south/labels.csv")
    labels.assign(Effusion=np.where(labels["split"] == "train", 0.0, np.nan)).to_csv(
        tmp_path / "south/labels.csv", index=False
    )
    assert same(negative, weights(trained(study, tmp_path / "said", *short)))
    assert not same(negative, masked)


def test_unknown_labels_that_train_as_negative_enter_no_figure(tmp_path: Path, tiny_run: Path) -> None:
    short = ("arms=[local, federated]", "seeds=[0]", "evaluation.gallery=0", "evaluation.erased=0")
    run = run_with(hospitals.write_study(tmp_path), tmp_path / "run", *short, "training.unknown=negative")
    for part in ("labels/south.csv", "validation/labels/south.csv"):
        assert (run / part).read_text() == (tiny_run / part).read_text()
    assert all(record["n"] == 0 for record in records(run, site="south", finding="Effusion"))
    for site in ("north", "south", "east"):
        assert table(run, "predictions", "local/south", site)["Effusion"].isna().all()


def test_a_finding_without_negatives_trains_where_unknown_labels_are_negative(tmp_path: Path) -> None:
    """As between hospitals, where the server sees the counts of what is trained on."""
    path = hospitals.write_study(tmp_path)
    for site in ("north", "south"):
        labels = pd.read_csv(tmp_path / f"{site}/labels.csv")
        labels.assign(Nodule=labels["Nodule"].where(labels["Nodule"] == 1)).to_csv(
            tmp_path / f"{site}/labels.csv", index=False
        )
    with pytest.raises(StudyError, match="positive and 0 negative"):
        load_sites(load_study(path), tmp_path / "cache")
    load_sites(load_study(path, ["training.unknown=negative"]), tmp_path / "cache")


def test_the_macro_over_sites_is_the_mean_of_the_sites_that_train(tiny_run: Path) -> None:
    for arm in ("pooled", "federated"):
        for finding in FINDINGS:
            one = {"arm": arm, "finding": finding, "metric": "auroc", "seed": "all"}
            parts = [records(tiny_run, site=site, **one)[0] for site in ("north", "south")]
            values = [part["value"] for part in parts if part["value"] is not None]
            macro = records(tiny_run, site="macro", **one)[0]
            assert macro["value"] == pytest.approx(np.mean(values))
            assert macro["n"] == sum(part["n"] for part in parts if part["value"] is not None)
            assert macro["low"] is None  # four positives a site


# Arms, seeds, sites


@pytest.mark.parametrize(
    ("arms", "models"),
    [
        (["federated"], ["federated/federated"]),
        (["local"], ["local/north", "local/south"]),
        (["pooled", "federated"], ["federated/federated", "pooled/pooled"]),
    ],
)
def test_any_choice_of_arms_runs(
    arms: list[str], models: list[str], tiny_run: Path, tiny_study: Path, tmp_path: Path
) -> None:
    """Each arm gives the model that it gives beside the others."""
    run = run_with(tiny_study, tmp_path / "run", f"arms={json.dumps(arms)}", "seeds=[0]")
    found = sorted(path.parent.relative_to(run / "models/seed_0").as_posix() for path in run.rglob("model.safetensors"))
    assert found == models
    assert all(same(weights(run, model), weights(tiny_run, model)) for model in models)
    assert {record["arm"] for record in records(run)} == set(arms)
    assert bool(records(run, "comparisons")) == ("federated" in arms and len(arms) > 1)
    assert (run / "report.html").stat().st_size > 10_000


def test_seeds_differ_and_their_mean_is_recorded(tiny_run: Path) -> None:
    assert not same(weights(tiny_run, seed=0), weights(tiny_run, seed=1))
    chosen = {"model": "federated", "site": "north", "finding": "Nodule", "metric": "auroc"}
    one, two, mean = (records(tiny_run, seed=seed, **chosen)[0] for seed in (0, 1, "all"))
    assert mean["seeds"] == 2
    assert mean["value"] == pytest.approx((one["value"] + two["value"]) / 2)
    assert mean["sd"] == pytest.approx(np.std([one["value"], two["value"]], ddof=1))


def test_arms_start_from_the_same_weights(tiny_study: Path) -> None:
    from hilum.study.arms import new_model

    study = load_study(tiny_study)
    first, again, other = (new_model(study, seed).state_dict() for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.usefixtures("unevaluated")
def test_order_of_sites_does_not_matter(tiny_run: Path, tiny_study: Path, tmp_path: Path) -> None:
    text = tiny_study.read_text().replace("root: ", f"root: {tiny_study.parent}/")
    content = re.sub(r"(  north: .*\n)(  south: .*\n)", r"\2\1", text)
    assert content != text
    (tmp_path / "study.yaml").write_text(content)
    run = trained(tmp_path / "study.yaml", tmp_path / "run", "arms=[federated]", "seeds=[0]")
    assert same(weights(run), weights(tiny_run))


@pytest.mark.usefixtures("unevaluated")
@pytest.mark.parametrize("normalization", ["averaged", "recalibrated", "frozen"])
def test_every_normalization_runs(normalization: str, tiny_study: Path, tmp_path: Path) -> None:
    values = [f"federation.normalization={normalization}", "federation.head=shared", "training.updates=null"]
    values += ["arms=[federated]", "seeds=[0]"]
    run = trained(tiny_study, tmp_path / "run", *values)
    assert not list(run.rglob("site_*.safetensors"))
    assert read(run, "run.json")["updates"]["per_site"] is None
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


# Figures


@pytest.mark.parametrize("model", ["local/north", "federated/federated"])
def test_figures_agree_with_sklearn_on_the_tables(model: str, tiny_run: Path) -> None:
    checked = 0
    for site in ("north", "south", "east"):
        labels = pd.read_csv(tiny_run / "labels" / f"{site}.csv")
        scores = table(tiny_run, "predictions", model, site)
        for finding in FINDINGS:
            known = labels[finding].notna()
            chosen = {"seed": 0, "model": model.split("/")[1], "site": site, "finding": finding}
            for metric, of in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
                (record,) = records(tiny_run, metric=metric, **chosen)
                assert record["n"] == known.sum()
                if known.any():
                    checked += 1
                    expected = of(labels.loc[known, finding], scores.loc[known, finding])
                    assert record["value"] == pytest.approx(expected)
                    few = labels[known].groupby(finding)["patient"].nunique().min() < FEWEST_OF_CLASS
                    assert record["low"] is None if few else record["low"] <= record["value"] <= record["high"]
    assert checked == 10


def test_localization_has_its_metrics_and_controls(tiny_run: Path) -> None:
    found = records(tiny_run, "localization")
    assert {record["metric"] for record in found} == {"pointing_game", "iou", "iobb", "box_energy"}
    assert {record["finding"] for record in found} == {"Nodule", "macro"}
    report = (tiny_run / "report.html").read_text()
    assert report.count("Energy in box") > 1  # in its table, and in the glossary
    assert all(0 <= record[control] <= 1 for record in found for control in ("random_map", "centre_prior"))


def test_a_study_may_cut_each_map_by_itself(tiny_run: Path, tiny_study: Path) -> None:
    """By Otsu's method, as ``iou`` does."""
    study, key = load_study(tiny_study, ["evaluation.threshold=otsu"]), ModelKey(0, "federated", "federated")
    figures = Figures(study, RunDirectory(tiny_run), [key])
    (found,) = [
        record
        for record in figures.records()["localization"]
        if (record["seed"], record["site"], record["finding"], record["metric"]) == (0, "north", "Nodule", "iou")
    ]
    localized = figures.outcomes.localized([key], "north").with_boxes()
    values = iou(localized.maps[0][:, 0], localized.boxes["Nodule"], "otsu")
    assert found["value"] == pytest.approx(np.nanmean(values))
    head = {name: found[name] for name in ("seed", "model", "site", "finding", "metric")}
    (fixed,) = records(tiny_run, "localization", **head)
    assert found["value"] != fixed["value"]


def test_maps_of_the_run_lie_on_their_images(tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness as the map finds the discs of films without an effusion, whatever the letterbox padded.

    Also where a model is so sure that its cells differ in the fourth digit alone.
    """

    def brightness(model: Any, batches: Any, precision: str, flip: bool, localize: Any = None) -> Inferred:
        cells = torch.cat([torch.nn.functional.avg_pool2d(images, 4) for images in batches])
        cells = 1 - (1 - cells.repeat(1, len(FINDINGS), 1, 1).numpy()) / 4096
        return Inferred(cells.max((2, 3)), cells)

    monkeypatch.setattr(voices, "infer", brightness)
    run = run_with(tiny_study, tmp_path / "run", "arms=[federated]", "seeds=[0]", "images.size=64", "training.rounds=1")
    checked = 0
    for site in ("north", "south", "east"):
        given = pd.read_csv(tiny_study.parent / site / "labels.csv").set_index("image")
        boxes = pd.read_csv(run / "boxes" / f"{site}.csv").set_index("image_id")
        with np.load(run / f"maps/seed_0/federated/federated/{site}.npz", allow_pickle=False) as stored:
            assert list(stored["findings"]) == FINDINGS
            assert set(boxes.index) <= set(stored["image_id"])
            pairs = list(zip(stored["image_id"], stored["maps"][:, 0], strict=True))
        for name, found in pairs:
            if name not in boxes.index or given.get("Effusion", pd.Series(0, given.index))[name]:
                continue
            row, column = np.unravel_index(found.argmax(), found.shape)
            x, y = (column + 0.5) / found.shape[1], (row + 0.5) / found.shape[0]
            box = boxes.loc[name]
            assert box["x0"] <= x <= box["x1"], (name, x, box)
            assert box["y0"] <= y <= box["y1"], (name, y, box)
            checked += 1
    assert checked >= 4


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    """'0001' is not 1: boxes, labels and maps still meet."""
    study = hospitals.write_study(tmp_path)
    for site in ("north", "south", "east"):
        for name in ("labels.csv", "boxes.csv"):
            rows = pd.read_csv(tmp_path / site / name, dtype=str)
            number = rows["image"].str.extract(r"(\d+)\.png")[0]
            rows.assign(image="00" + number).to_csv(tmp_path / site / name, index=False)
        for path in sorted((tmp_path / site / "images").iterdir()):
            path.rename(tmp_path / site / ("00" + path.stem[-2:]))
    run = run_with(study, tmp_path / "run", "arms=[federated]", "seeds=[0]")
    assert {record["n"] for record in records(run, "localization", site="east", finding="Nodule")} == {6}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("model.backbone.widths=[4, 6]", "expected three whole numbers above 0 as widths; found [4, 6]"),
        ("model.backbone.widths=4", "expected three whole numbers above 0 as widths; found 4"),
        ("model.backbone.dilation=0", "expected a dilation of at least 1; found 0"),
        ("model.pooling={name: top_k, fraction: 1.5}", "expected a fraction above 0 and at most 1; found 1.5"),
        (
            "model.pooling={name: noisy_or, floor: 2}",
            "model.pooling: expected a floor of at least 0 and below 1; found 2.",
        ),
    ],
)
def test_option_value_that_a_model_cannot_take_is_told(value: str, told: str, tiny_study: Path, tmp_path: Path) -> None:
    assert told in refused(tiny_study, tmp_path / "run", "--set", value)
    assert not (tmp_path / "run").exists()


def test_a_study_may_be_given_as_a_value() -> None:
    content = {"name": "x", "findings": ["Nodule"], "sites": {"a": {"database": "folder", "root": "a"}}}
    assert parse_study(content, "here").training.rounds == 20


# What a run directory may be


def refused(study: Path, out: Path, *options: str) -> str:
    """Run a study that must be refused; return the one line that it prints."""
    outcome = hospitals.hilum("study", study, "--out", out, *options)
    assert outcome.status == 1, outcome
    assert len(outcome.err.splitlines()) == 1, outcome.err
    return outcome.err


def own_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_users_own_study_file_is_never_written_over(tiny_study: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    text = tiny_study.read_text().replace("root: ", f"root: {tiny_study.parent}/")
    (own / "study.yaml").write_text("# mine\n" + text)
    before = own_files(own)
    assert "than that of the study file" in refused(own / "study.yaml", own)
    assert "than that of the study file" in refused(own / "study.yaml", own, "--resume")
    (own / "notes.txt").write_text("mine too")
    assert "holds other files, such as notes.txt" in refused(tiny_study, own)
    (own / "notes.txt").unlink()
    assert "holds other files, such as study.yaml" in refused(tiny_study, own)  # no file that hilum wrote
    assert own_files(own) == before


def test_only_what_hilum_wrote_itself_is_replaced(tiny_study: Path, tmp_path: Path) -> None:
    """A run that ended before it knew its images left its study, and perhaps a cache and a half-written file."""
    values = ["seeds=[0]", "arms=[federated]", "training.rounds=1", f"images.cache={tmp_path}/run/cache"]
    out = tmp_path / "run"
    (out / "cache").mkdir(parents=True)
    (out / "study.yaml").write_text(dump_study(load_study(tiny_study, values)))
    (out / ".study.yaml.1.tmp").write_text("half")
    (out / "models").mkdir()
    assert "holds other files, such as models" in refused(tiny_study, out)
    (out / "models").rmdir()
    run_with(tiny_study, out, *values)


def test_a_run_goes_on_from_its_own_study_file(tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert "already holds a run" in refused(run / "study.yaml", run)
    assert hospitals.hilum("study", run / "study.yaml", "--out", run, "--resume").status == 0
    assert (run / "study.yaml").read_bytes() == (tiny_run / "study.yaml").read_bytes()


def test_a_run_goes_on_whose_study_file_does_not_say_the_defaults_of_options(
    tiny_study: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """As those that were written by an older hilum."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    kept = yaml.safe_load((run / "study.yaml").read_text())
    del kept["model"]["backbone"]["dilation"]
    (run / "study.yaml").write_text(yaml.safe_dump(kept))
    assert hospitals.hilum("study", tiny_study, "--out", run, "--resume").status == 0


def test_a_file_is_no_directory(tiny_study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Expected a directory for the run" in refused(tiny_study, tmp_path / "file")


# Going on with a run


def begun(tiny_run: Path, tmp_path: Path, **facts: Any) -> Path:
    """Return a copy of the run whose run.json says something else; None takes the key out."""
    out = tmp_path / "begun"
    shutil.copytree(tiny_run, out)
    content = {key: value for key, value in (read(out, "run.json") | facts).items() if value is not None}
    (out / "run.json").write_text(json.dumps(content))
    return out


def test_a_resumed_run_keeps_its_threads_and_tells_other_packages_in_one_line(
    tiny_study: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = read(tiny_run, "run.json")
    packages = facts["packages"] | {"torch": "1.0", "pandas": "1.0"}
    out = begun(tiny_run, tmp_path, machine=facts["machine"] | {"threads": 3}, packages=packages)
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    outcome = hospitals.hilum("study", tiny_study, "--out", out, "--resume")
    assert outcome.status == 0
    assert outcome.err == (
        f"hilum: this run was begun with torch 1.0 (now {torch.__version__}): its figures may not repeat to the last "
        "digit.\n"
    )
    assert used == [3]


@pytest.mark.parametrize("key", ["images_sha256", "precision", "machine", "packages"])
def test_a_key_that_run_json_lacks_is_named(key: str, tiny_study: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = begun(tiny_run, tmp_path, **{key: None})
    told = refused(tiny_study, out, "--resume")
    assert f"Expected the key '{key}' in {out / 'run.json'}" in told


def test_the_advice_at_a_loss_that_is_not_finite_can_be_followed(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys that it names are keys of a study, and a new directory takes the study."""
    values = ("--set", "arms=[federated]", "--set", "seeds=[0]", "--set", "training.rounds=1")
    with monkeypatch.context() as patched:
        patched.setattr(MaskedBCE, "cost", lambda loss, logits, targets: logits * float("nan"))
        told = refused(tiny_study, tmp_path / "run", *values)
    assert "a new --out" in told
    advised = re.findall(r"--set (\S+)=…", told)
    assert advised == ["training.optimizer.lr", "training.optimizer.clip"]
    lower = (part for key in advised for part in ("--set", f"{key}=0.0001"))
    assert hospitals.hilum("study", tiny_study, "--out", tmp_path / "new", *values, *lower).status == 0


# The log


KEY = ModelKey(0, "federated", "federated")


def test_a_line_is_added_to_the_log_without_rewriting_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.log_round(KEY, {"round": 1, "train_loss": float("nan")})
    first, inode = run.metrics_log.read_bytes(), run.metrics_log.stat().st_ino
    run.log_round(KEY, {"round": 2, "train_loss": 0.5})
    assert run.metrics_log.stat().st_ino == inode
    assert run.metrics_log.read_bytes().startswith(first)
    lines = [json.loads(line) for line in run.metrics_log.read_text().splitlines()]
    assert [(line["seed"], line["model"], line["round"], line["train_loss"]) for line in lines] == [
        (0, "federated", 1, None),
        (0, "federated", 2, 0.5),
    ]


def test_lines_of_rounds_that_were_not_finished_are_dropped(tmp_path: Path) -> None:
    run, other = RunDirectory(tmp_path), ModelKey(0, "local", "north")
    run.forget_rounds(KEY, after=0)
    assert not run.metrics_log.exists()
    for key in (KEY, other):
        for number in (1, 2, 3):
            run.log_round(key, {"round": number})
    whole = run.metrics_log.read_bytes().splitlines(keepends=True)
    with run.metrics_log.open("ab") as handle:
        handle.write(whole[0][:20])
    run.forget_rounds(KEY, after=2)
    assert run.metrics_log.read_bytes() == b"".join(whole[:2] + whole[3:])
    run.forget_rounds(KEY, after=0)
    assert run.metrics_log.read_bytes() == b"".join(whole[3:])


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.log_round(KEY, {"round": 1})
    before = run.metrics_log.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"metrics\.jsonl; the disk is full.*--resume"):
        run.log_round(KEY, {"round": 2})
    assert run.metrics_log.read_bytes() == before


# Damaged files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_row(path: Path) -> None:
    pd.read_csv(path).iloc[:-1].to_csv(path, index=False)


@pytest.mark.parametrize(
    ("spoil", "file"),
    [
        (cut, "predictions/seed_1/federated/federated/north.csv"),
        (drop_row, "predictions/seed_1/federated/federated/north.csv"),
        (lambda path: path.write_text(""), "predictions/seed_0/local/south/east.csv"),
        (lambda path: path.write_bytes(bytes(range(256))), "predictions/seed_0/local/south/east.csv"),
        (
            lambda path: pd.read_csv(path).drop(columns="Nodule").to_csv(path),
            "predictions/seed_0/pooled/pooled/east.csv",
        ),
        (lambda path: pd.read_csv(path).assign(Nodule="?").to_csv(path), "predictions/seed_0/pooled/pooled/east.csv"),
        (cut, "maps/seed_0/pooled/pooled/east.npz"),
        (Path.unlink, "maps/seed_0/pooled/pooled/east.npz"),
        (cut, "shuffled/seed_0/pooled/pooled/east.npz"),
        (cut, "erased/seed_0/pooled/pooled/east.csv"),
        (lambda path: pd.read_csv(path).assign(Nodule="?").to_csv(path), "erased/seed_0/local/south/south.csv"),
        (lambda path: pd.read_csv(path).assign(erased="nothing").to_csv(path), "erased/seed_1/pooled/pooled/north.csv"),
    ],
)
def test_a_damaged_prediction_is_named_and_can_be_made_anew(
    spoil: Callable[[Path], Any],
    file: str,
    tiny_study: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = begun(tiny_run, tmp_path)
    spoil(out / file)
    told = refused(tiny_study, out, "--resume")
    assert str(out / file) in told
    advised = re.findall(r"Remove (?:it|(\S+)) and run", told)[0] or out / file
    Path(advised).unlink()
    monkeypatch.setattr(study_run.Figures, "records", lambda _: {})
    study_run.run_study(load_study(tiny_study), out, resume=True)
    assert content_of(out / file) == content_of(tiny_run / file)


def test_damaged_labels_and_boxes_are_written_anew(
    tiny_study: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, files = begun(tiny_run, tmp_path), ["splits/north.csv", "labels/north.csv", "validation/boxes/south.csv"]
    for file in files:
        cut(out / file)
    monkeypatch.setattr(study_run.Figures, "records", lambda _: {})
    study_run.run_study(load_study(tiny_study), out, resume=True)
    assert [content_of(out / file) for file in files] == [content_of(tiny_run / file) for file in files]


def content_of(path: Path) -> Any:
    """Return a table's text, or the arrays of maps: the archive also holds when it was written."""
    if path.suffix == ".csv":
        return path.read_text()
    with np.load(path) as stored:
        return {name: stored[name].tobytes() for name in stored}
