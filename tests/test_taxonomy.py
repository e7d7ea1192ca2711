"""The taxonomy and the closure of labels over it."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hilum.errors import DataError
from hilum.findings.taxonomy import PARENTS, ancestors, close_labels
from hilum.findings.vocabulary import FINDINGS

nan = np.nan
COLUMNS = ("Lung Opacity", "Consolidation", "Pneumonia", "Effusion", "Nodule")
RANK = {0: 0, -1: 1, 1: 2}
DIRECTIONS = st.sampled_from(["none", "upward", "downward", "both"])
RAW = hnp.arrays(np.float32, (5, len(COLUMNS)), elements=st.sampled_from([1, 0, -1, float("nan")]))
LABELLED = st.lists(st.sampled_from(FINDINGS), min_size=25, unique=True).flatmap(
    lambda findings: st.tuples(
        st.just(tuple(findings)),
        hnp.arrays(
            np.float32, (2, len(findings)), elements=st.sampled_from([1, 0, -1, float("nan")]), fill=st.nothing()
        ),
    )
)
"""Random labels of some findings of the whole taxonomy."""


def line(finding: str) -> list[str]:
    """Return the ancestors of a finding, found by walking."""
    found: list[str] = []
    while (parent := PARENTS[finding]) is not None:
        found.append(finding := parent)
    return found


def closed(row: list[float], direction: str = "both", columns: tuple[str, ...] = COLUMNS) -> list[float]:
    return close_labels(np.array([row], np.float32), columns, direction).labels[0].tolist()


def test_every_finding_stands_in_the_taxonomy_and_no_path_is_a_circle() -> None:
    assert set(FINDINGS) <= set(PARENTS)
    for finding in FINDINGS:
        assert finding not in ancestors(finding)
        assert finding == "No Finding" or ancestors(finding)[-1:] == ("Abnormal",)


def test_the_paths_of_card_nine() -> None:
    assert ancestors("Pneumonia") == ("Consolidation", "Lung Opacity", "Abnormal")
    assert ancestors("Mass") == ("Nodule/Mass", "Lung Lesion", "Lung Opacity", "Abnormal")
    assert ancestors("Emphysema") == ("Hyperlucency", "Abnormal")


@pytest.mark.parametrize(
    ("row", "direction", "expected"),
    [
        ([nan, nan, 1, nan, nan], "upward", [1, 1, 1, nan, nan]),
        ([-1, nan, 1, nan, nan], "both", [1, 1, 1, nan, nan]),
        ([nan, nan, -1, nan, nan], "both", [-1, -1, -1, nan, nan]),
        ([0, nan, -1, 1, nan], "downward", [0, 0, 0, 1, 0]),
        ([0, nan, nan, nan, nan], "upward", [0, nan, nan, nan, nan]),
        ([nan, nan, 1, nan, nan], "downward", [nan, nan, 1, nan, nan]),
        ([0, nan, 1, nan, nan], "none", [0, nan, 1, nan, nan]),
    ],
)
def test_labels_are_closed(row: list[float], direction: str, expected: list[float]) -> None:
    np.testing.assert_equal(closed(row, direction), expected)


def test_a_contradiction_stays_and_is_counted() -> None:
    raw = np.array([[0, nan, 1, nan, nan], [0, 0, 1, nan, nan], [1, 1, 1, 0, 0]], np.float32)
    result = close_labels(raw, COLUMNS)
    assert result.contradictions == {("Pneumonia", "Lung Opacity"): 2, ("Pneumonia", "Consolidation"): 1}
    assert result.labels[:2, [0, 2]].tolist() == [[0, 1], [0, 1]]


def test_findings_without_relatives_stay() -> None:
    np.testing.assert_equal(closed([1, nan], columns=("Effusion", "Hernia")), [1, nan])


@given(RAW)
def test_closure_keeps_what_is_certain_and_repeats(raw: np.ndarray) -> None:
    result = close_labels(raw, COLUMNS)
    certain = (raw == 0) | (raw == 1)
    np.testing.assert_array_equal(result.labels[certain], raw[certain])
    np.testing.assert_array_equal(close_labels(result.labels, COLUMNS).labels, result.labels)


@given(LABELLED, DIRECTIONS)
def test_no_child_is_above_its_parent_unless_both_are_labelled_so(
    labelled: tuple[tuple[str, ...], np.ndarray], direction: str
) -> None:
    """0 < uncertain < 1; what lies between the two sides of a contradiction stays as it was."""
    findings, raw = labelled
    labels = close_labels(raw, findings, direction).labels
    for before, after in zip(raw.tolist(), labels.tolist(), strict=True):
        known = {f: v for f, v in zip(findings, after, strict=True) if v == v}
        for child, parent in product(known, known):
            if parent in line(child) and RANK[known[child]] > RANK[known[parent]]:
                assert known[child] == before[findings.index(child)]
                assert known[parent] == before[findings.index(parent)]
                if direction == "both":
                    above = {known.get(a) for a in (parent, *line(parent))}
                    below = {known[f] for f in known if f == child or child in line(f)}
                    assert 0 in above
                    assert 1 in below


@given(LABELLED)
def test_what_nothing_contradicts_is_closed(labelled: tuple[tuple[str, ...], np.ndarray]) -> None:
    findings, raw = labelled
    labels = close_labels(raw, findings).labels
    for before, after in zip(raw.tolist(), labels.tolist(), strict=True):
        was = dict(zip(findings, before, strict=True))
        for finding, value in zip(findings, after, strict=True):
            negative = any(was.get(a) == 0 for a in line(finding))
            positive = any(was[f] == 1 for f in findings if finding in line(f))
            if was[finding] in (0, 1) or positive == negative:
                continue
            assert value == (1 if positive else 0)


@given(LABELLED, DIRECTIONS)
def test_contradictions_are_those_that_a_loop_counts(
    labelled: tuple[tuple[str, ...], np.ndarray], direction: str
) -> None:
    findings, raw = labelled
    counts: Counter[tuple[str, str]] = Counter()
    for row in raw.tolist():
        label = dict(zip(findings, row, strict=True))
        for finding in (f for f in findings if label[f] == 1):
            counts.update((finding, a) for a in line(finding) if label.get(a) == 0)
            if label.get("No Finding") == 1 and finding not in ("No Finding", "Support Devices", "Pacemaker"):
                counts[finding, "No Finding"] += 1
    assert close_labels(raw, findings, direction).contradictions == counts


@pytest.mark.parametrize(
    ("row", "direction", "expected"),
    [
        ([0, nan, 1, nan, nan], "both", [0, nan, 1, nan, 0]),
        ([0, nan, 1, nan, nan], "downward", [0, nan, 1, nan, 0]),
        ([0, -1, 1, nan, nan], "upward", [0, -1, 1, nan, nan]),
        ([0, nan, -1, nan, nan], "upward", [0, nan, -1, nan, nan]),
    ],
)
def test_a_label_between_two_that_contradict_each_other_stays(
    row: list[float], direction: str, expected: list[float]
) -> None:
    np.testing.assert_equal(closed(row, direction), expected)


def test_no_finding_beside_a_finding_is_counted_and_nothing_follows_from_it() -> None:
    columns = ("Nodule", "Support Devices", "Pacemaker", "No Finding")
    raw = np.array([[1, 1, 1, 1], [1, nan, nan, 1], [1, nan, nan, -1], [0, nan, nan, 1]], np.float32)
    result = close_labels(raw, columns)
    assert result.contradictions == {("Nodule", "No Finding"): 2}
    np.testing.assert_equal(result.labels, raw)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(DataError, match="found 'up'"):
        close_labels(np.zeros((1, 1), np.float32), ["Mass"], "up")  # type: ignore[arg-type]
