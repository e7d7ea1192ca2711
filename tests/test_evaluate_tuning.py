"""What is fitted on validation patients, on made-up hospitals: whose patients, and to what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from hilum.evaluation.calibration import fit_temperature
from hilum.evaluation.thresholds import youden_cut
from hilum.report.evaluation import SIDE, evaluation_tables, reliability_plots
from hilum.study.directory import ModelKey
from hilum.study.evaluation.tuning import corrections, counted, teachers, tune
from hilum.study.outcomes import Localized, Scores

BOX = np.array([[0.25, 0.25, 0.75, 0.75]])
FEDERATED = [ModelKey(0, "federated", "federated")]


def localized(images: int = 24) -> Localized:
    """Maps that reach 0.6 of their range on the box, which every second image has; the first other one is positive."""
    heat = np.full((1, images, 1, 8, 8), 0.1, np.float32)
    heat[..., 2:6, 2:6], heat[..., 0, 0], heat[..., 4, 4] = 0.6, 0.0, 1.0
    boxed = np.arange(images) % 2 == 0
    targets = boxed.astype(float)
    targets[1] = 1
    probabilities = np.where(boxed, 0.8, 0.3)[None, :, None]
    boxes = [BOX if b else np.empty((0, 4)) for b in boxed]
    numbers = np.arange(images)
    return Localized({"Mass": boxes}, probabilities, targets[:, None], numbers, numbers.astype(str), heat, [0])


def scores(slope: float, shift: float, seed: int, positive_only: bool = False) -> Scores:
    """A hospital whose labels follow logit p / slope + shift."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, 3000)
    t = (rng.random(3000) < expit(z + shift)).astype(float)
    t = np.ones(3000) if positive_only else t
    return Scores(expit(slope * z)[None, :, None], t[:, None], np.arange(3000), np.arange(3000))


def run_of(sites: dict[str, Scores], maps: dict[str, Localized] | None = None, outside: tuple[str, ...] = ()) -> Any:
    """Stand-in of ``Outcomes`` that keeps validation patients of the hospitals given."""
    return SimpleNamespace(
        study=SimpleNamespace(findings=["Mass"]),
        roles={**dict.fromkeys(sites, "training"), **dict.fromkeys(outside, "outside")},
        holds=lambda keys, site, part: site in sites,
        scores=lambda keys, site, part: sites[site],
        localized=lambda keys, site, part: (maps or {}).get(site),
    )


def test_a_local_model_is_fitted_at_its_own_hospital_alone() -> None:
    outcomes = run_of({"north": scores(1, 0, 0), "south": scores(1, 0, 1)}, outside=("east",))
    assert teachers(outcomes, [ModelKey(0, "local", "south")]) == ["south"]
    assert teachers(outcomes, FEDERATED) == ["north", "south"]


def test_thresholds_come_from_images_with_boxes_of_all_teachers() -> None:
    one = localized()
    said = Scores(one.scores, one.targets, one.patients, one.ids)
    found = tune(run_of({"north": said, "south": said}, {"north": one, "south": one}), FEDERATED)["Mass"]
    assert found.threshold == pytest.approx(0.15)  # the lowest cut above the background
    assert found.images == 24
    assert found.call == youden_cut(np.tile(one.scores[0, :, 0], 2), np.tile(one.targets[:, 0], 2)) == 0.8
    few = tune(run_of({"north": said}, {"north": localized(12)}), FEDERATED)["Mass"]
    assert (few.threshold, few.images) == ("otsu", 6)
    nothing = tune(run_of({"north": said}), FEDERATED)["Mass"]
    assert (nothing.threshold, nothing.images, nothing.box_score.slope) == ("otsu", 0, 1)


def test_box_scores_become_chances_of_a_hit() -> None:
    """Boxes of probability 0.8 all hit, those of 0.3 are false alarms; the positive image without a box is left out."""
    one = localized()
    assert counted(one, "Mass").sum() == 23
    assert not counted(one, "Mass")[1]
    said = Scores(one.scores, one.targets, one.patients, one.ids)
    chance = tune(run_of({"north": said}, {"north": one}), FEDERATED)["Mass"].box_score
    assert chance(0.8) == pytest.approx(13 / 14, abs=1e-3)  # Platt: (12 hits + 1) / (12 + 2)
    assert chance(0.3) == pytest.approx(1 / 13, abs=1e-3)  # 1 / (11 false alarms + 2)


def test_corrections_undo_temperature_and_prior_and_skip_what_has_one_class() -> None:
    sites = {"north": scores(2.0, 0, 0), "south": scores(2.0, 1.5, 1), "lone": scores(2.0, 0, 2, positive_only=True)}
    outcomes = run_of(sites, outside=("east",))
    south = corrections(outcomes, FEDERATED, "south")
    both = np.concatenate([sites[s].scores[0, :, 0] for s in ("north", "south")])
    labels = np.concatenate([sites[s].targets[:, 0] for s in ("north", "south")])
    assert south["temperature"][0][0] == fit_temperature(both, labels)
    prior, warm = south["prior"][0][0], south["temperature"][0][0]
    assert prior.slope == warm.slope
    assert prior(sites["south"].scores[0, :, 0]).mean() == pytest.approx(sites["south"].targets.mean(), abs=1e-3)
    assert corrections(outcomes, FEDERATED, "lone")["prior"] == corrections(outcomes, FEDERATED, "lone")["temperature"]
    assert list(corrections(outcomes, FEDERATED, "east")) == ["temperature"]
    assert corrections(run_of({}, outside=("east",)), FEDERATED, "east") == {}


@pytest.mark.parametrize("negatives", [0, 1, 4])
def test_a_hospital_of_nearly_one_class_moves_neither_the_call_nor_the_temperature_of_the_others(
    negatives: int,
) -> None:
    sites = {"north": scores(2.0, 0, 0), "lone": scores(0.5, 0, 2, positive_only=True)}
    sites["lone"].targets[:negatives] = 0
    alone, beside = run_of({"north": sites["north"]}), run_of(sites)
    assert tune(beside, FEDERATED) == tune(alone, FEDERATED)
    assert corrections(beside, FEDERATED, "north") == corrections(alone, FEDERATED, "north")
    sites["lone"].targets[:5] = 0
    assert tune(beside, FEDERATED) != tune(alone, FEDERATED)


def record(**values: Any) -> dict[str, Any]:
    base = {"arm": "federated", "model": "federated", "site": "north", "finding": "Mass", "metric": "ece"}
    return base | {"correction": "raw", "value": 0.1, "low": 0.05, "high": 0.2, "n": 40, "positives": 10} | values


def test_reliability_is_plotted_of_both_classes_raw_and_last_corrected() -> None:
    points = {"predicted": [0.25, 1.0], "observed": [0.5, 1.0], "images": [30, 10]}
    records = [record(correction=c, reliability=points) for c in ("raw", "temperature", "prior")]
    records += [record(site="lone", positives=40, reliability=points), record(arm="pooled", model="pooled")]
    (plot,) = reliability_plots({"calibration": records})
    assert (plot.site, plot.finding) == ("north", "Mass")
    assert [kind for kind, _ in plot.lines] == ["raw", "corrected"]
    assert plot.lines[0][1] == f"M{SIDE / 4:.1f},{SIDE / 2:.1f}L{SIDE:.1f},0.0"
    assert float(plot.dots[0][3]) > float(plot.dots[1][3])
    assert [name for name, _ in plot.errors] == ["raw", "prior"]


def test_tables_show_what_a_site_would_use_and_leave_out_what_has_no_rows() -> None:
    """Local is the site's own model; a figure that does not exist is a dash."""
    values = {"finding": "macro", "metric": "average_precision"}
    models = (("local", "north"), ("local", "south"), ("federated", "federated"))
    content = {
        "groups": {"head": ["Mass"], "medium": [], "tail": []},
        "classification": [record(**values, arm=a, model=m, value=0.4 + 0.1 * k) for k, (a, m) in enumerate(models)],
        "calibration": [record(finding="macro", value=0.25)],
    }
    content |= {name: [] for name in ("thresholds", "localization", "checks", "comparisons", "ranks")}
    first, errors = evaluation_tables(content)
    assert first.head == ["site", "arm", "macro AP", "macro AUROC", "head AP"]
    assert [(row[1], row[2][:5], row[3]) for row in first.rows] == [
        ("local", "0.400", "–"),
        ("federated", "0.600", "–"),
    ]
    assert errors.rows == [["north", "federated", "0.250 [0.05, 0.20]", "–", "–"]]
