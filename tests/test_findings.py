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
from hilum.findings.policy import LABEL_POLICIES, apply_policy
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


@pytest.mark.parametrize(("policy", "uncertain"), [("ignore", np.nan), ("zeros", 0), ("ones", 1)])
def test_a_policy_moves_only_what_is_uncertain(policy: str, uncertain: float) -> None:
    raw = np.array([[1, 0, -1, np.nan]], np.float32)
    assert np.array_equal(apply_policy(policy, raw), np.array([[1, 0, uncertain, np.nan]]), equal_nan=True)


@pytest.mark.parametrize("policy", LABEL_POLICIES)
@given(raw=RAW)
def test_targets_are_binary_or_unknown_and_raw_labels_stay(policy: str, raw: np.ndarray) -> None:
    before = raw.copy()
    targets = apply_policy(policy, raw)
    assert targets.dtype == np.float32
    assert np.array_equal(raw, before, equal_nan=True)
    certain = (raw == 0) | (raw == 1)
    assert np.array_equal(targets[certain], raw[certain])
    assert np.isnan(targets[np.isnan(raw)]).all()
    assert (targets == -1).sum() == 0
    assert np.array_equal(apply_policy(policy, targets), targets, equal_nan=True)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownName, match="Expected a label policy among ignore, ones, zeros"):
        apply_policy("zeroes", np.zeros((1, 1), np.float32))
