"""Names, aliases and label policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hilum.databases import DATABASES
from hilum.errors import DataError, UnknownName
from hilum.findings.aliases import ALIASES, finding_of
from hilum.findings.policy import LABEL_POLICIES, LabelPolicy, apply_policy, turned
from hilum.findings.vocabulary import FINDINGS, NO_FINDING, require_finding

RAW = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([1, 0, -1, float("nan")])
)
# torchxrayvision 1.5.7, xrv.datasets.default_pathologies.
DEFAULT_PATHOLOGIES = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion"),
    *("Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture"),
    *("Lung Opacity", "Enlarged Cardiomediastinum"),
)


def test_the_first_findings_are_those_of_torchxrayvision() -> None:
    assert FINDINGS[:18] == DEFAULT_PATHOLOGIES
    assert len(set(FINDINGS)) == len(FINDINGS)
    assert NO_FINDING in FINDINGS


def test_a_misspelt_finding_names_the_nearest() -> None:
    assert require_finding("Mass") == "Mass"
    with pytest.raises(UnknownName, match="Did you mean 'Pneumothorax'"):
        require_finding("Pneumotorax")


@pytest.mark.parametrize("alias", ALIASES, ids=str)
def test_an_alias_means_a_finding_in_its_database_alone(alias: tuple[str, str, str]) -> None:
    name, database, finding = alias
    assert database in DATABASES
    assert finding in FINDINGS
    assert finding_of(database, f" {name} ") == finding
    with pytest.raises(DataError, match=f"found '{name}'"):
        finding_of("folder", name)


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_name_of_the_vocabulary_means_itself_everywhere(finding: str) -> None:
    assert finding_of("folder", finding) == finding


@pytest.mark.parametrize(
    ("policy", "uncertain", "blank"),
    [("ignore", np.nan, np.nan), ("zeros", 0, np.nan), ("ones", 1, np.nan), ("blank-is-negative", np.nan, 0)],
)
def test_a_policy_moves_only_what_it_names(policy: str, uncertain: float, blank: float) -> None:
    raw = np.array([[1, 0, -1, np.nan]], np.float32)
    assert np.array_equal(apply_policy(policy, raw), np.array([[1, 0, uncertain, blank]]), equal_nan=True)


@pytest.mark.parametrize("policy", LABEL_POLICIES)
@given(raw=RAW)
def test_targets_are_in_the_unit_interval_or_unknown_and_raw_labels_stay(policy: str, raw: np.ndarray) -> None:
    before = raw.copy()
    targets = apply_policy(policy, raw)
    assert targets.dtype == np.float32
    assert np.array_equal(raw, before, equal_nan=True)
    certain = (raw == 0) | (raw == 1)
    assert np.array_equal(targets[certain], raw[certain])
    assert ((targets >= 0) & (targets <= 1) | np.isnan(targets)).all()
    if policy != "blank-is-negative":
        assert np.array_equal(apply_policy(policy, targets), targets, equal_nan=True)


def test_soft_labels_lie_in_their_interval_and_follow_the_image() -> None:
    raw = np.full((400, 2), -1, np.float32)
    ids = [f"{n}.png" for n in range(400)]
    policy = LabelPolicy("soft", 0.2, 0.4)
    targets = apply_policy(policy, raw, ("Edema", "Mass"), ids=ids)
    assert targets.min() >= 0.2
    assert targets.max() <= 0.4
    assert targets.mean() == pytest.approx(0.3, abs=0.01)
    assert abs(np.corrcoef(targets.T)[0, 1]) < 0.15
    turned_round = apply_policy(policy, raw[:9], ("Edema", "Mass"), ids=ids[8::-1])
    np.testing.assert_array_equal(turned_round, targets[8::-1])


def test_chexpert_takes_uncertain_atelectasis_and_edema_as_positive() -> None:
    raw = np.array([[-1, -1, -1, np.nan]], np.float32)
    assert apply_policy("chexpert", raw, ("Atelectasis", "Edema", "Mass", "Effusion")).tolist() == [[1, 1, 0, 0]]


def test_single_findings_may_have_a_policy_of_their_own() -> None:
    policy = LabelPolicy("zeros", blank="negative", findings={"Edema": LabelPolicy("ones")})
    raw = np.array([[-1, -1], [np.nan, np.nan]], np.float32)
    assert apply_policy(policy, raw, ("Edema", "Mass")).tolist() == [[1, 0], [0, 0]]
    assert str(policy) == "zeros, blank is negative; Edema: ones"


def test_a_finding_of_which_the_database_does_not_speak_stays_unknown() -> None:
    targets = apply_policy("blank-is-negative", np.full((1, 2), np.nan, np.float32), ("Edema", "Mass"), (True, False))
    np.testing.assert_array_equal(targets, [[0, np.nan]])


def test_what_became_of_labels_is_counted() -> None:
    raw = np.array([[-1, np.nan], [-1, 1], [1, np.nan]], np.float32)
    targets = np.array([[1, 0], [np.nan, 1], [1, np.nan]], np.float32)
    assert turned(raw, targets) == [
        {"uncertain": {"positive": 1, "unknown": 1}},
        {"blank": {"negative": 1, "unknown": 1}},
    ]


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.1), (-0.1, 0.5), (0.5, 1.5), (float("nan"), 0.5)])
def test_an_interval_outside_the_unit_interval_is_refused(low: float, high: float) -> None:
    with pytest.raises(
        DataError, match=f"0 ≤ low ≤ high ≤ 1, .* found low {low} and high {high}. Set both, the lesser"
    ):
        LabelPolicy("soft", low, high)


@pytest.mark.parametrize("own", ["blank-is-negative", "ignore"])
@pytest.mark.parametrize("whole", ["blank-is-negative", "ignore"])
def test_a_blank_follows_the_finding_and_else_the_whole(own: str, whole: str) -> None:
    """'ignore' does not speak of blanks, so that those of a single finding follow the whole."""
    policy = LabelPolicy(whole, findings={"Edema": LabelPolicy(own)})
    raw = np.array([[np.nan, np.nan, 1], [-1, -1, 0]], np.float32)
    negative = 0 if "blank-is-negative" in (own, whole) else np.nan
    rest = 0 if whole == "blank-is-negative" else np.nan
    expected = [[negative, rest, 1], [np.nan, np.nan, 0]]
    np.testing.assert_array_equal(apply_policy(policy, raw, ("Edema", "Mass", "Hernia")), expected)


def test_a_finding_can_keep_its_blanks_unknown_where_the_whole_takes_them_as_negative() -> None:
    policy = LabelPolicy("blank-is-negative", findings={"Edema": LabelPolicy("ones", blank="unknown")})
    targets = apply_policy(policy, np.full((1, 2), np.nan, np.float32), ("Edema", "Mass"))
    np.testing.assert_array_equal(targets, [[np.nan, 0]])


def test_a_blank_of_a_finding_of_its_own_policy_stays_unknown_where_the_database_is_silent() -> None:
    policy = LabelPolicy("ignore", findings={"Edema": LabelPolicy("blank-is-negative")})
    blank = np.full((1, 1), np.nan, np.float32)
    assert np.isnan(apply_policy(policy, blank, ("Edema",), (False,))).all()
    assert (apply_policy(policy, blank, ("Edema",), (True,)) == 0).all()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownName, match="Expected a label policy among"):
        apply_policy("zeroes", np.zeros((1, 1), np.float32))
