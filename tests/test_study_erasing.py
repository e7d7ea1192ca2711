"""Films with erased parts: which are asked, what of them is erased, and the records made of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hilum.study.directory import ModelKey
from hilum.study.erasures import CONTROL, LESIONS, MIDDLE_PART, NOTHING, chosen_films
from hilum.study.evaluation.erasing import border_records, lesion_records
from hilum.study.outcomes import Erased
from hilum.study.predictions import HeldOut

KEY = ModelKey(0, "federated", "federated")
NODULE, MASS = (0.1, 0.3, 0.3, 0.5), (0.7, 0.3, 0.9, 0.5)  # each at the other's mirrored place
NONE = np.empty(0, np.int64)


def held(boxes: list[tuple[str, str, tuple[float, ...]]], images: int = 3) -> HeldOut:
    """Test films a0, a1, … of a site; the study knows the nodules alone."""
    table = pd.DataFrame([(i, f, *b) for i, f, b in boxes], columns=["image_id", "finding", "x0", "y0", "x1", "y1"])
    manifest = SimpleNamespace(images=pd.DataFrame({"image_id": [f"a{k}" for k in range(images)]}), boxes=table)
    site: Any = SimpleNamespace(name="north", findings=("Nodule",), manifest=manifest)
    return HeldOut(site, np.arange(images), NONE, NONE)


@pytest.mark.parametrize("other", [[], [("a1", "Mass", MASS)], [("a0", "Mass", MASS)]])
def test_a_control_keeps_off_the_boxes_of_every_finding_of_its_film(other: list[Any]) -> None:
    films = chosen_films(KEY, held([("a0", "Nodule", NODULE), *other]), 200)
    (control,) = [film for film in films if film.erased == CONTROL]
    (box,) = control.boxes
    np.testing.assert_allclose(box[[0, 2]], (0.7, 0.9))
    free = box[1] >= MASS[3] - 1e-9 or box[3] <= MASS[1] + 1e-9
    assert free == any(image == "a0" for image, *_ in other)


def test_a_whole_film_is_asked_once() -> None:
    boxes = [(f"a{k}", "Nodule", NODULE) for k in range(6)]
    films = chosen_films(KEY, held(boxes, 6), 2)
    whole = [film.row for film in films if film.erased == NOTHING]
    middle, lesions, control = (
        [film.row for film in films if film.erased == part] for part in (MIDDLE_PART, LESIONS, CONTROL)
    )
    assert len(middle) == len(lesions) == 2
    assert lesions == control
    assert sorted(whole) == sorted({*middle, *lesions})
    assert {film.finding for film in films if film.erased in (NOTHING, MIDDLE_PART)} == {""}
    elsewhere = chosen_films(ModelKey(0, "local", "south"), held(boxes, 6), 2)
    assert {film.erased for film in elsewhere} == {NOTHING, MIDDLE_PART}
    assert chosen_films(KEY, held(boxes, 6), 0) == []


def erased(targets: list[int], patients: list[int], odds: dict[str, list[float]], boxes: str = "") -> Erased:
    """The films of a site with each part erased, and their log-odds by part."""
    n, parts = len(targets), [*odds]
    return Erased(
        np.concatenate([odds[p] for p in parts])[None, :, None],
        np.tile(np.array(targets, float), len(parts))[:, None],
        np.tile(patients, len(parts)),
        np.tile([f"a{k}" for k in range(n)], len(parts)).astype(object),
        np.repeat(parts, n).astype(object),
        np.repeat([boxes if p in (LESIONS, CONTROL) else "" for p in parts], n).astype(object),
    )


def outcomes(**sites: Erased) -> Any:
    study = SimpleNamespace(
        findings=["Nodule"], evaluation=SimpleNamespace(resamples=50), split=SimpleNamespace(seed=0)
    )
    boxes = pd.DataFrame({"finding": ["Nodule"] * 3, "image_id": ["a0", "a1", "a2"]})
    return SimpleNamespace(study=study, sites=[*sites], erased=lambda _, site: sites[site], table=lambda *_: boxes)


def test_falls_are_from_the_one_row_of_the_whole_film() -> None:
    odds = {NOTHING: [1.0, 2.0, 3.0], LESIONS: [0.0, 0.0, 0.0], CONTROL: [1.0, 1.0, 1.0]}
    (record,) = lesion_records(outcomes(north=erased([1, 1, 1], [0, 1, 2], odds, "Nodule")), [KEY], "north")
    assert (record["n"], record["lesions"], record["control"], record["value"]) == (3, 2, 1, 1)


@pytest.mark.parametrize(("patients", "of"), [([*range(6), *[9] * 6], "others"), ([*range(12)], "own")])
def test_negatives_are_of_other_sites_where_its_own_are_of_too_few_patients(patients: list[int], of: str) -> None:
    """North calls its positives 2 and its negatives 0, south its negatives 5: above north's positives."""
    north = erased([1] * 6 + [0] * 6, patients, {p: [2.0] * 6 + [0.0] * 6 for p in (NOTHING, MIDDLE_PART)})
    south = erased([0] * 6, [*range(6)], {p: [5.0] * 6 for p in (NOTHING, MIDDLE_PART)})
    (record,) = border_records(outcomes(north=north, south=south), [KEY], "north")
    assert record["negatives_of"] == of
    assert record["value"] == record["low"] == record["high"] == (0 if of == "others" else 1)
