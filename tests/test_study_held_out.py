"""What a run keeps for its evaluation: validation patients, images for false alarms, maps of shuffled weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hilum.evaluation.maps import pointing_game
from hilum.models.classifier import build_model
from hilum.models.shuffle import shuffle_weights
from hilum.study.predictions import GRID, NEGATIVES

MODEL = "seed_0/federated/federated"


def ids(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as stored:
        assert stored["maps"].shape == (len(stored["image_id"]), 2, *GRID)
        return [str(i) for i in stored["image_id"]]


def of_split(run: Path, site: str, part: str) -> list[str]:
    table = pd.read_csv(run / "splits" / f"{site}.csv")
    return table.loc[table["split"] == part, "image_id"].tolist()


@pytest.mark.parametrize("site", ["north", "south"])
def test_validation_patients_are_kept_as_test_patients_are(tiny_run: Path, site: str) -> None:
    kept = tiny_run / "validation"
    expected = of_split(tiny_run, site, "val")
    assert len(expected) == 8
    for table in (kept / "labels" / f"{site}.csv", kept / "predictions" / MODEL / f"{site}.csv"):
        assert pd.read_csv(table)["image_id"].tolist() == expected
    boxed = pd.read_csv(kept / "boxes" / f"{site}.csv")["image_id"].unique().tolist()
    labels = pd.read_csv(kept / "labels" / f"{site}.csv")
    negative = labels.loc[labels["Nodule"] == 0, "image_id"].tolist()
    assert sorted(ids(kept / "maps" / MODEL / f"{site}.npz")) == sorted(boxed + negative)


def test_a_site_without_validation_patients_has_none(tiny_run: Path) -> None:
    assert len(pd.read_csv(tiny_run / "validation/labels/east.csv")) == 0
    assert not (tiny_run / "validation/predictions" / MODEL / "east.csv").exists()


def test_maps_of_negatives_are_kept_up_to_a_number(
    tiny_run: Path, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hilum.study import predictions
    from hilum.study.hospitals import cache_of, load_sites
    from hilum.study.spec import load_study

    labels = pd.read_csv(tiny_run / "labels/north.csv")
    assert set(labels.loc[labels["Nodule"] == 0, "image_id"]) <= set(ids(tiny_run / "maps" / MODEL / "north.npz"))
    study = load_study(tiny_study)
    north = load_sites(study, cache_of(study))[0]
    monkeypatch.setattr(predictions, "NEGATIVES", 1)
    held = predictions.held_out(north, "test")
    assert NEGATIVES > 1
    assert len(held.mapped) == len(held.boxed) + 1
    assert north.targets[held.rows[np.setdiff1d(held.mapped, held.boxed)], 0] == 0


def test_maps_of_shuffled_weights_are_of_the_same_images(tiny_run: Path) -> None:
    for site in ("north", "south", "east"):
        path = tiny_run / "shuffled" / MODEL / f"{site}.npz"
        with np.load(path) as shuffled, np.load(tiny_run / "maps" / MODEL / f"{site}.npz") as trained:
            assert shuffled["image_id"].tolist() == trained["image_id"].tolist()
            assert (shuffled["maps"] != trained["maps"]).mean() > 0.9


def test_shuffling_keeps_the_values_of_every_tensor_and_nothing_of_their_order() -> None:
    trained, one, again, other = (
        build_model({"name": "residual", "widths": [4, 6, 8]}, {"name": "linear_softmax"}, 2, 0) for _ in range(4)
    )
    for model, seed in ((one, 1), (again, 1), (other, 2)):
        shuffle_weights(model, seed)
    before, after = trained.state_dict(), one.state_dict()
    assert all(torch.equal(before[n].flatten().sort().values, after[n].flatten().sort().values) for n in before)
    assert not any(torch.equal(t, after[n]) for n, t in before.items() if t.dim() == 4)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in after.items())
    assert not torch.equal(after["head.weight"], other.state_dict()["head.weight"])


def erased_of(run: Path, site: str, model: str = MODEL) -> pd.DataFrame:
    table = pd.read_csv(run / "erased" / model / f"{site}.csv")
    return table.assign(boxes=table["boxes"].astype(object).fillna(""))


def test_films_with_erased_parts_are_kept(tiny_run: Path) -> None:
    for site in ("north", "south", "east"):
        table = erased_of(tiny_run, site)
        test = of_split(tiny_run, site, "test")
        for part in ("nothing", "middle"):
            kept = table[table["erased"] == part]
            assert sorted(kept["image_id"]) == sorted(test)
            assert set(kept["boxes"]) == {""}
        boxed = pd.read_csv(tiny_run / "boxes" / f"{site}.csv")["image_id"].unique()
        of_finding = table[table["boxes"] == "Nodule"].groupby("erased")
        parts = {part: rows.reset_index(drop=True) for part, rows in of_finding}
        assert set(parts) == {"lesions", "control"}
        names = [part["image_id"].tolist() for part in parts.values()]
        assert names[0] == names[1]
        assert set(names[0]) <= set(boxed)
        assert (parts["lesions"]["Nodule"] != parts["control"]["Nodule"]).any()
    local = erased_of(tiny_run, "north", "seed_0/local/south")
    assert local["Effusion"].isna().all()
    assert set(local["erased"]) == {"nothing", "middle"}


def test_log_odds_of_whole_films_are_those_of_the_predictions(tiny_run: Path) -> None:
    table = erased_of(tiny_run, "east")
    whole = table[table["erased"] == "nothing"].set_index("image_id")["Nodule"]
    said = pd.read_csv(tiny_run / "predictions" / MODEL / "east.csv").set_index("image_id")["Nodule"]
    np.testing.assert_allclose(1 / (1 + np.exp(-whole.loc[said.index])), said, rtol=1e-4)


def test_the_worst_misses_are_kept_for_the_gallery(tiny_run: Path) -> None:
    entries = json.loads((tiny_run / "gallery/gallery.json").read_text())
    assert {e["why"] for e in entries} == {"random", "miss"}
    for entry in (e for e in entries if e["why"] == "miss"):
        assert (tiny_run / entry["file"]).is_file()
        with np.load(tiny_run / "maps" / MODEL / f"{entry['site']}.npz") as stored:
            row = stored["image_id"].tolist().index(entry["image_id"])
            heat = stored["maps"][row, 0].astype(float)[None]
        assert pointing_game(heat, [np.array(entry["boxes"])])[0] == 0
