"""Disease or site, in words: what a model loses with the lesions, and what it tells of the border of a film alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hilum.evaluation.bootstrap import FEWEST
from hilum.report.numbers import plural

Record = Mapping[str, Any]
MOST = 0.5


@dataclass(frozen=True)
class Verdict:
    """What a model looks at for one finding at one site: ``word`` in short, and the ``reasons``."""

    word: str
    reasons: list[str]

    @property
    def text(self) -> str:
        """Word and reasons as one phrase."""
        return f"{self.word}: {'; '.join(self.reasons)}" if self.reasons else self.word


def judge(lesions: Record | None, border: Record | None) -> Verdict:
    """Return the verdict of both tests; None where one could not be made.

    Lesions count where the interval of the difference lies above 0. The border counts where the interval of its AUROC
    lies above 0.5, or below it (inverted: what is told is told the wrong way round), and most of all where it is at
    least half as far from 0.5 as that of whole films; it tells the site where the negatives are those of other sites.
    """
    looks, why = _looks(lesions)
    share, also = _remains(border)
    reasons = [reason for reason in (why, also) if reason]
    outside = "site" if border is not None and border["negatives_of"] == "others" else "border"
    if share is not None and share >= MOST:
        return Verdict(f"disease and {outside}" if looks else outside, reasons)
    if looks:
        return Verdict(f"disease, partly {outside}" if share else "disease", reasons)
    if share is None:
        return Verdict("not known", reasons)
    return Verdict("open" if share or lesions is not None else "not the border", reasons)


def _looks(record: Record | None) -> tuple[bool, str]:
    if record is None:
        return False, "no boxes"
    if record["n"] < FEWEST:
        return False, f"boxes on only {plural(record['n'], 'film')}"
    if record["low"] is None:
        return False, "boxes of too few patients"
    if record["low"] > 0:
        return True, "it loses more without the lesions than without as much elsewhere"
    if record["high"] < 0:
        return False, "it loses less without the lesions than without as much elsewhere"
    return False, "not shown to lose more without the lesions than without as much elsewhere"


def _remains(record: Record | None) -> tuple[float | None, str]:
    """Return the share of what is told apart that is still told without the lungs; None where that is not known."""
    if record is None:
        return None, "no films to tell it from"
    if record["low"] is None or record["whole_low"] is None:
        return None, "too few patients of a class"
    if record["whole_low"] <= 0.5 <= record["whole_high"]:
        return None, "it tells nothing apart"
    across = ", ranked across sites" if record["negatives_of"] == "others" else ""
    if record["low"] <= 0.5 <= record["high"]:
        return 0.0, f"the border alone is not shown to tell anything{across}"
    share = abs(record["value"] - 0.5) / abs(record["whole"] - 0.5)
    how = ", inverted" if record["high"] < 0.5 else ""
    return share, f"{round(100 * min(share, 1))} % of what it tells is told by the border alone{how}{across}"
