"""Disease or site, in words: what a model loses with the lesions, and what it tells of the border of a film alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hilum.evaluation.bootstrap import FEWEST
from hilum.report.numbers import plural

Record = Mapping[str, Any]
MOST = 0.5
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Verdict:
    """What a model looks at for one finding at one site: ``word`` in short, and the ``reasons``.

    ``share``: how much of what is told the border alone tells, with its range; "" where it is not shown to tell any.
    """

    word: str
    reasons: list[str]
    share: str = ""

    @property
    def text(self) -> str:
        """Word and reasons as one phrase."""
        return f"{self.word}: {'; '.join(self.reasons)}" if self.reasons else self.word


def judge(lesions: Record | None, border: Record | None) -> Verdict:
    """Return the verdict of both tests; None where one could not be made.

    Lesions count where the interval of the difference lies above 0, and p, corrected for the number of tests, is below
    0.05. The border counts where the interval of its AUROC
    lies above 0.5, or below it (inverted: what is told is told the wrong way round); partly, unless the end of that
    interval nearest to 0.5 is at least half as far from it as the AUROC of whole films. It tells the site where the
    negatives are those of other sites.
    """
    looks, why = _looks(lesions)
    told, share, also = _remains(border)
    if looks and told is None:
        word = "disease, border not tested"
    elif looks:
        joint = ", " if told and told.startswith("partly") else " and "
        word = f"disease{joint}{told}" if told else "disease"
    elif told is None:
        word = "not known"
    else:
        word = (told or "open") + (", lesions not tested" if looks is None else "")
    return Verdict(word, [why, also], share)


def _looks(record: Record | None) -> tuple[bool | None, str]:
    """Say whether lesions are shown to count; None where no boxes, or too few, tell."""
    if record is None:
        return None, "no boxes"
    if record["n"] < FEWEST:
        return None, f"boxes on only {plural(record['n'], 'film')}"
    if record["low"] is None:
        return None, "boxes of too few patients"
    if record["low"] > 0 and (record.get("p_holm") or 0.0) >= SIGNIFICANT:
        return False, "not shown to lose more without the lesions, p corrected for the number of tests"
    if record["low"] > 0:
        return True, "it loses more without the lesions than without as much elsewhere"
    if record["high"] < 0:
        return False, "it loses less without the lesions than without as much elsewhere"
    return False, "not shown to lose more without the lesions than without as much elsewhere"


def _remains(record: Record | None) -> tuple[str | None, str, str]:
    """Return what the border tells ("" where it is not shown to, None where not known), its share and the reason."""
    if record is None:
        return None, "", "no films to tell it from"
    if record["low"] is None or record["whole_low"] is None:
        return None, "", "too few patients of a class"
    if record["whole_low"] <= 0.5 <= record["whole_high"]:
        return None, "", "it is not shown to tell anything apart"
    others = record["negatives_of"] == "others"
    across = ", ranked across sites" if others else ""
    if record["low"] <= 0.5 <= record["high"]:
        return "", "", f"the border alone is not shown to tell anything{across}"
    whole = abs(record["whole"] - 0.5)
    value, low, high = (abs(record[name] - 0.5) / whole for name in ("value", "low", "high"))
    low, high = min(low, high), max(low, high)
    told = ("" if low >= MOST else "partly ") + ("site" if others else "border")
    share = f"{_percent(value)} % [{_percent(low)}, {_percent(high)}]"
    how = ", inverted" if record["high"] < 0.5 else ""
    return told, share, f"{share} of what it tells is told by the border alone{how}{across}"


def _percent(share: float) -> int:
    return round(100 * min(share, 1))
