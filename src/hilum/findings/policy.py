"""Label policies: what uncertain (-1) and blank labels become when a site is loaded.

Raw labels are 1 positive, 0 negative, -1 uncertain, NaN blank. A policy returns targets in [0, 1] in which NaN means
unknown: masked out of loss and metric, never a negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.errors import DataError, UnknownName

Labels = NDArray[np.float32]
SOFT = (0.55, 0.85)
NEGATIVE_BLANKS = ("blank-is-negative", "chexpert")

LABEL_POLICIES: dict[str, str] = {
    "ignore": "an uncertain label becomes unknown (U-Ignore)",
    "zeros": "an uncertain label becomes negative (U-Zeros)",
    "ones": "an uncertain label becomes positive (U-Ones)",
    "soft": "an uncertain label becomes a number drawn from [low, high], by default [0.55, 0.85] (U-Ones + LSR)",
    "blank-is-negative": "a blank label becomes negative, an uncertain one unknown",
    "chexpert": "U-Ones for Atelectasis and Edema, U-Zeros for the others, a blank is negative",
}
"""Irvin et al. 2019, arXiv:1901.07031 (U-Ignore, U-Zeros, U-Ones); Pham et al. 2021, arXiv:1911.06475 (LSR)."""


@dataclass(frozen=True)
class LabelPolicy:
    """A named policy: ``low`` and ``high`` bound what 'soft' draws; ``blank`` is what a blank label becomes.

    ``blank`` None: unknown, unless the name says otherwise. ``findings`` have a policy of their own, for blanks where
    it speaks of them. Raises ``UnknownName`` and ``DataError``.
    """

    name: str = "ignore"
    low: float = SOFT[0]
    high: float = SOFT[1]
    blank: Literal["unknown", "negative"] | None = None
    findings: Mapping[str, LabelPolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in LABEL_POLICIES:
            raise UnknownName("label policy", self.name, LABEL_POLICIES)
        if not 0 <= self.low <= self.high <= 1:
            raise DataError(
                f"Expected 0 ≤ low ≤ high ≤ 1, the bounds of what the label policy 'soft' draws; "
                f"found low {self.low:g} and high {self.high:g}. Set both, the lesser as low."
            )

    def blank_is_negative(self, finding: str) -> bool:
        """Tell whether a blank label of a finding that the database speaks of is negative."""
        own = self.findings.get(finding)
        if own is not None and own._speaks_of_blanks:
            return own.blank_is_negative(finding)
        return self.blank == "negative" or (self.blank is None and self.name in NEGATIVE_BLANKS)

    @property
    def _speaks_of_blanks(self) -> bool:
        return self.blank is not None or self.name in NEGATIVE_BLANKS

    def uncertain(self, finding: str) -> tuple[float, float]:
        """Return the bounds of what an uncertain label of ``finding`` becomes; NaN where it becomes unknown."""
        if finding in self.findings:
            return self.findings[finding].uncertain(finding)
        if self.name == "soft":
            return self.low, self.high
        ones = self.name == "ones" or (self.name == "chexpert" and finding in ("Atelectasis", "Edema"))
        value = 1.0 if ones else 0.0 if self.name in ("zeros", "chexpert") else np.nan
        return value, value

    def __str__(self) -> str:
        text = f"soft [{self.low:g}, {self.high:g}]" if self.name == "soft" else self.name
        text += f", blank is {self.blank}" if self.blank and self.name != "blank-is-negative" else ""
        return text + "".join(f"; {finding}: {policy}" for finding, policy in self.findings.items())


def apply_policy(
    policy: LabelPolicy | str,
    raw: Labels,
    findings: Sequence[str] | None = None,
    spoken: Sequence[bool] | None = None,
    ids: Sequence[str] | None = None,
) -> Labels:
    """Return the targets of raw labels (N, C) in {1, 0, -1, NaN} → (N, C) in [0, 1] or NaN.

    ``findings``: the names of the columns, for policies that differ between them. ``spoken``: the columns of which
    the database speaks, all by default; in the others a blank stays unknown under every policy. ``ids``: names of
    the rows: what 'soft' draws depends on the id and the finding alone, so that order and splits do not change it.
    Raises ``UnknownName``.

    >>> apply_policy("ones", np.array([[1, 0, -1]], np.float32)).tolist()
    [[1.0, 0.0, 1.0]]
    """
    policy = LabelPolicy(policy) if isinstance(policy, str) else policy
    targets = np.array(raw, np.float32)
    names = [""] * targets.shape[-1] if findings is None else list(findings)
    rows = list(range(len(targets))) if ids is None else list(ids)
    for c, finding in enumerate(names):
        column = targets[..., c]
        low, high = policy.uncertain(finding)
        blank, uncertain = np.isnan(column), column == -1
        if low < high and uncertain.any():
            drawn = _uniform([rows[k] for k in np.flatnonzero(uncertain)], finding)
            column[uncertain] = low + (high - low) * drawn
        else:
            column[uncertain] = low
        if policy.blank_is_negative(finding) and (spoken is None or spoken[c]):
            column[blank] = 0
    return targets


def turned(raw: Labels, targets: Labels) -> list[dict[str, dict[str, int]]]:
    """Return, for each column, what closure and policy made of its uncertain and blank labels, counted."""
    return [
        {
            kind: _kinds(after[which])
            for kind, which in (("uncertain", before == -1), ("blank", np.isnan(before)))
            if which.any()
        }
        for before, after in zip(raw.T, targets.T, strict=True)
    ]


def _kinds(targets: NDArray[np.float32]) -> dict[str, int]:
    soft = (targets > 0) & (targets < 1)
    counts: dict[str, Any] = {"positive": targets == 1, "negative": targets == 0, "soft": soft}
    counts["unknown"] = np.isnan(targets)
    return {name: int(which.sum()) for name, which in counts.items() if which.any()}


def _uniform(ids: Sequence[object], finding: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each id, drawn from its hash with the finding."""
    import pandas as pd

    texts = np.array([f"{finding}\x1f{one}" for one in ids], object)
    return pd.util.hash_array(texts, hash_key="hilum-soft-label").astype(np.float64) / 2.0**64
