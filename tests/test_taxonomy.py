"""The taxonomy and the closure of labels over it."""

from __future__ import annotations

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
RAW = hnp.arrays(np.float32, (5, len(COLUMNS)), elements=st.sampled_from([1, 0, -1, float("nan")]))


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


@given(RAW)
def test_without_contradictions_no_child_is_above_its_parent(raw: np.ndarray) -> None:
    result = close_labels(raw, COLUMNS)
    if not result.contradictions:
        for child, parent in ((1, 0), (2, 1), (2, 0), (4, 0)):
            assert not ((result.labels[:, child] == 1) & (result.labels[:, parent] != 1)).any()


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(DataError, match="found 'up'"):
        close_labels(np.zeros((1, 1), np.float32), ["Mass"], "up")  # type: ignore[arg-type]
