"""One finding at one site: what the federated arm reaches there, and how that compares, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hilum.evaluation.bootstrap import FEWEST
from hilum.report.erasing import SIGNIFICANT, Verdict, judge
from hilum.report.evaluation import ALIKE, CONTROLS, finding_name, p_value
from hilum.report.numbers import difference, score
from hilum.report.read import MACRO, RunDirectory
from hilum.report.results import METRICS, Figure, Results, above_controls

FEDERATED = "federated"
POINTING = "pointing_game"
FOUND, IN_DOUBT, MISSED = "found", "found, but in doubt", "not above the controls"
BETTER, WORSE, EQUAL, NOT_SHOWN = "better", "worse", "equal", "no difference shown"
DECIDED = (FOUND, IN_DOUBT, MISSED)
LIKENESS = {"shuffled": "those of shuffled weights", "other_findings": "those of other findings"}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One finding at one site: what the federated arm reaches, and its difference to each other arm in words.

    ``controls``: the pointing game of what cannot know; ``doubts``: check that the maps fail → rank correlation;
    ``verdict``: the word of the tests of disease or site, or ""; ``p``: of the AUROC against 0.5, corrected for what
    the arm tells, where the run was evaluated.
    """

    site: str
    finding: str
    precision: Figure
    auroc: Figure
    against: list[str]
    pointing: Figure
    controls: Mapping[str, float]
    doubts: Mapping[str, float]
    found: str
    verdict: str
    p: float | None

    @property
    def place(self) -> str:
        """Finding and site."""
        return f"{finding_name(self.finding)} at {self.site}"

    @property
    def told(self) -> bool | None:
        """Whether the AUROC is above 0.5, with its whole interval and p; None where it has no interval."""
        return None if self.auroc.low is None else self.auroc.low > 0.5 and self._is_sure

    @property
    def below(self) -> bool:
        """Whether it is below."""
        return self.auroc.high is not None and self.auroc.high < 0.5 and self._is_sure

    @property
    def _is_sure(self) -> bool:
        return self.p is None or self.p < SIGNIFICANT

    @property
    def is_found(self) -> bool:
        """Whether the maps are above the controls."""
        return self.found in (FOUND, IN_DOUBT)

    @property
    def maps(self) -> str:
        """The word on the maps, and the checks that they fail."""
        return "; ".join([self.found or "no boxes", *self.likeness])

    @property
    def likeness(self) -> list[str]:
        """What the maps resemble."""
        return [f"maps resemble {LIKENESS[check]} ({value:.2f})" for check, value in self.doubts.items()]


def in_words(figure: Figure, p: float | None = None) -> str:
    """Return a difference as better, worse or equal within the wider end of its interval.

    ``p`` is corrected for the number of comparisons: from 0.05 on no difference is shown, whatever the interval.

    >>> in_words(Figure(0.01, -0.02, 0.03))
    'equal within ±0.030 (+0.010 [−0.020, +0.030])'
    >>> in_words(Figure(0.03, 0.01, 0.05), 0.2)
    'no difference shown (+0.030 [+0.010, +0.050], p 0.200 corrected)'
    """
    if figure.value is None:
        return figure.reason or "not computed"
    text = difference(figure.value, figure.low, figure.high)
    if figure.low is None or figure.high is None:
        return f"too few to tell ({text})"
    word = word_of(figure.low, figure.high, p)
    if word == EQUAL:
        return f"equal within ±{max(-figure.low, figure.high):.3f} ({text})"
    return f"{word} ({text}, {'not corrected' if p is None else f'p {p_value(p)} corrected'})"


def word_of(low: float, high: float, p: float | None) -> str:
    """Return the word on a difference from its interval and its corrected p, where it has one.

    Where the two disagree no difference is shown.
    """
    sure = p is None or p < SIGNIFICANT
    if low <= 0 <= high:
        return NOT_SHOWN if p is not None and sure else EQUAL
    return (BETTER if low > 0 else WORSE) if sure else NOT_SHOWN


def corrected(run: RunDirectory) -> dict[tuple[str | None, ...], float]:
    """Return (arm, model, site, finding, metric) → p of the difference to it, corrected for the number of comparisons.

    ``model`` is None but for a local model of another hospital.
    """
    records = run.evaluation["comparisons"] if run.evaluation is not None else []
    return {
        (r["against"], r.get("against_model"), r["site"], r["finding"], r["metric"]): r["p_holm"]
        for r in records
        if r["arm"] == FEDERATED and r["p_holm"] is not None
    }


def means_against(run: RunDirectory, arm: str) -> dict[tuple[str, str], Record]:
    """Return (finding, metric) → the difference to an arm of means over the sites that train, of an evaluation."""
    records = run.evaluation["comparisons"] if run.evaluation is not None else []
    means = [r for r in records if (r["arm"], r["against"], r["site"]) == (FEDERATED, arm, MACRO)]
    return {(r["finding"], r["metric"]): r for r in means}


def mean_against(run: RunDirectory, arm: str, name: str, members: Collection[str], metric: str) -> Record | None:
    """Return the difference to an arm of the mean ``name`` over findings and the sites that train; None without one.

    A mean of one finding at one site is no test of its own: that comparison stands for it.
    """
    mean = means_against(run, arm).get((name, metric))
    if mean is not None or run.evaluation is None:
        return mean
    training = [site.name for site in run.sites if not site.outside]
    alone = [
        r
        for r in run.evaluation["comparisons"]
        if (r["arm"], r["against"], r["metric"]) == (FEDERATED, arm, metric)
        and r["finding"] in members
        and r["site"] in training
        and r.get("against_model") in (None, r["site"])
        and r["value"] is not None
    ]
    alone = with_interval(alone)
    return alone[0] if len(alone) == 1 else None


def with_interval(records: Sequence[Record]) -> list[Record]:
    """Return the records with an interval, which a mean is over; all where none has one."""
    return [r for r in records if r["low"] is not None] or [*records]


def rows_of(run: RunDirectory, results: Results, arms: list[str]) -> Iterator[Row]:
    """Yield the findings and sites of which there is a figure, site by site, compared with ``arms``."""
    verdicts, p, told = judged(run), corrected(run), _told(run)
    for site in run.sites:
        for finding in run.run.findings:
            precision, auroc = (results.of_arm(FEDERATED, site, finding, metric) for metric in METRICS)
            pointing = results.of_arm(FEDERATED, site, finding, POINTING)
            if auroc.value is not None or pointing.value is not None:
                against = [
                    in_words(
                        results.difference(arm, site.name, finding), p.get((arm, None, site.name, finding, "auroc"))
                    )
                    for arm in arms
                ]
                controls = _controls(run, site.name, finding, pointing)
                doubts = _doubts(run, site.name, finding)
                found, verdict = _found(pointing, controls, doubts), verdicts.get((site.name, finding))
                word = "" if verdict is None else verdict.word
                sure = told.get((site.name, finding))
                yield Row(site.name, finding, precision, auroc, against, pointing, controls, doubts, found, word, sure)


def _told(run: RunDirectory) -> dict[tuple[str, str], float | None]:
    """Return (site, finding) → p of the AUROC against 0.5, corrected for what the arm tells."""
    records = run.evaluation["classification"] if run.evaluation is not None else []
    return {(r["site"], r["finding"]): r["p_holm"] for r in records if r["arm"] == FEDERATED and "p_holm" in r}


def _controls(run: RunDirectory, site: str, finding: str, pointing: Figure) -> dict[str, float]:
    """Return the pointing game of every control: the evaluation has more of them than the run."""
    records = run.evaluation["localization"] if run.evaluation is not None else []
    known: Record = dict(zip(CONTROLS, pointing.controls, strict=False))
    for record in records:
        if tuple(record[k] for k in ("arm", "site", "finding", "metric")) == (FEDERATED, site, finding, POINTING):
            known = record
    return {name: known[name] for name in CONTROLS if known.get(name) is not None}


def _doubts(run: RunDirectory, site: str, finding: str) -> dict[str, float]:
    """Return check → rank correlation, of the checks that the maps fail: it is above ``ALIKE``."""
    place = (FEDERATED, site, finding)
    records = run.evaluation["checks"] if run.evaluation is not None else []
    known = {r["check"]: r["value"] for r in records if (r["arm"], r["site"], r["finding"]) == place}
    return {check: known[check] for check in LIKENESS if known.get(check) is not None and known[check] > ALIKE}


def _found(pointing: Figure, controls: Mapping[str, float], doubts: Mapping[str, float]) -> str:
    """Say how the pointing game compares with its controls; "" where there is none."""
    if pointing.value is None:
        return ""
    if (pointing.n or 0) < FEWEST or pointing.low is None:
        return "too few boxes"
    if not controls:
        return "no controls"
    if not above_controls(pointing.low, pointing.excess_low, controls):
        return MISSED
    return IN_DOUBT if doubts else FOUND


def judged(run: RunDirectory) -> dict[tuple[str, str], Verdict]:
    """Return (site, finding) → the verdict of the tests of disease or site; empty where they were not made."""
    if run.evaluation is None or not run.evaluation.get("erased"):
        return {}
    tests: dict[tuple[str, str], dict[str, Record]] = {}
    for name in ("lesions", "borders"):
        for record in run.evaluation[name]:
            if record["arm"] == FEDERATED:
                tests.setdefault((record["site"], record["finding"]), {})[name] = record
    return {place: judge(found.get("lesions"), found.get("borders")) for place, found in tests.items()}


def figure_text(figure: Figure) -> str:
    """Return a figure with its interval."""
    return score(figure.value, figure.low, figure.high)
