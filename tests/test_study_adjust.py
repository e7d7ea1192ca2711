"""Outside hospitals in a study that adjusts to them: as ``hilum predict --adjust`` says of the same films."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hospitals
from hilum.errors import StudyError
from hilum.study import voices
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.hospitals import cache_of, load_sites
from hilum.study.run import _tell_unadjusted, run_study
from hilum.study.spec import load_study
from hilum.training.state import load_state, save_state

pytestmark = pytest.mark.usefixtures("unmeasured")

SHORT = ("seeds=[0]", "evaluation.gallery=0")
FINDINGS = list(hospitals.FINDINGS)


def run_with(study: Path, out: Path, *values: str) -> hospitals.Outcome:
    return hospitals.hilum("study", study, "--out", out, *(part for v in (*SHORT, *values) for part in ("--set", v)))


def said(run: Path, arm: str, site: str, kind: str = "predictions") -> pd.DataFrame:
    return pd.read_csv(run / kind / "seed_0" / arm / f"{site}.csv")


@pytest.mark.parametrize(("adjust", "adjusted"), [("sites", ["federated"]), ("images", ["federated", "pooled"])])
def test_outside_hospitals_are_predicted_as_predict_adjusts(
    adjust: str, adjusted: list[str], tiny_study: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training hospitals, and arms with nothing to adjust, stay as they are to the letter."""
    monkeypatch.setattr(voices, "LEAST_IMAGES", 4)
    run, arms = tmp_path / "run", ["federated", "pooled"]
    outcome = run_with(tiny_study, run, f"evaluation.adjust={adjust}", "arms=[federated, pooled]")
    assert outcome.status == 0, outcome.err
    assert ("nothing to adjust in pooled:" in outcome.err) == (adjust == "sites")
    for arm in arms:
        for site in ("north", "south"):
            pd.testing.assert_frame_equal(said(run, f"{arm}/{arm}", site), said(tiny_run, f"{arm}/{arm}", site))
        before, after = (said(r, f"{arm}/{arm}", "east").set_index("image_id")[FINDINGS] for r in (tiny_run, run))
        assert np.allclose(before, after, atol=1e-7) == (arm not in adjusted)
        whole = said(run, f"{arm}/{arm}", "east", "erased").query("erased == 'nothing'").set_index("image_id")
        odds = 1 / (1 + np.exp(-whole[FINDINGS]))
        np.testing.assert_allclose(odds, after.loc[whole.index], rtol=1e-4)
    for arm in adjusted:
        out, films = tmp_path / arm, tiny_study.parent / "east/images"
        outcome = hospitals.hilum("predict", run, films, "--out", out, "--arm", arm, "--adjust", adjust)
        assert outcome.status == 0, outcome.err
        table = pd.read_csv(out / "predictions.csv")
        table.index = "images/" + table["image"].map(lambda path: Path(path).name)
        after = said(run, f"{arm}/{arm}", "east").set_index("image_id")
        np.testing.assert_allclose(table.loc[after.index, FINDINGS], after[FINDINGS], rtol=1e-4)
        paths = [r / "maps/seed_0" / arm / arm / "east.npz" for r in (tiny_run, run)]
        with np.load(paths[0]) as plain, np.load(paths[1]) as maps:
            both = np.intersect1d(plain["image_id"], maps["image_id"])
            rows = [[list(m["image_id"]).index(i) for i in both] for m in (plain, maps)]
            assert (plain["maps"][rows[0]] != maps["maps"][rows[1]]).mean() > 0.9


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["adjust=sites", "sites.east.role=training"], "Expected a site with the role 'outside' for evaluation.adjust"),
        (["adjust=sites", "arms=[local, pooled]"], "an arm in which hospitals keep statistics or head rows"),
        (
            ["adjust=sites", "federation.normalization=averaged", "federation.head=shared", "arms=[federated]"],
            "keep statistics or head rows",
        ),
        (["adjust=images"], r"Expected 50 images or more of 'east' for evaluation\.adjust images; found 12"),
        (["adjust=images", "federation.normalization=frozen"], "Expected statistics that training moves"),
    ],
)
def test_an_adjustment_that_would_change_nothing_is_refused_before_training(
    values: list[str], told: str, tiny_study: Path, tmp_path: Path
) -> None:
    study = load_study(tiny_study, [f"evaluation.{values[0]}", *values[1:]])
    with pytest.raises(StudyError, match=told):
        run_study(study, tmp_path / "run")
    assert not (tmp_path / "run/models").exists()


def test_an_arm_of_which_a_hospital_keeps_nothing_is_not_adjusted(
    tiny_study: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It had not taken the last weights; a study goes on, where ``hilum predict`` can be asked again."""
    run, key = RunDirectory(tmp_path / "run"), ModelKey(0, "federated", "federated")
    shutil.copytree(tiny_run, run.root, ignore=shutil.ignore_patterns("rounds", "maps"))
    study = load_study(tiny_study, ["evaluation.adjust=sites"])
    east = load_sites(study, cache_of(study))[2]
    assert voices.adjust_at(study, run, key, east) == "sites"
    weights = run.model(key) / "model.safetensors"
    save_state(weights, load_state(weights), {"beside": ["site_south.safetensors"]})
    assert voices.adjust_at(study, run, key, east) == "none"
    _tell_unadjusted(study, [east], [key], run)
    assert "nothing to adjust in federated: evaluation.adjust sites leaves" in capsys.readouterr().err
