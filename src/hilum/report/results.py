"""Figures looked up by arm and site, each with its n and, where it does not exist, the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose, sqrt

from hilum.evaluation.bootstrap import FEWEST_OF_CLASS
from hilum.report.numbers import plural
from hilum.report.read import ALL_SEEDS, MACRO, Comparison, LocalizationScore, RunDirectory, Score, SiteFacts

METRICS = {"average_precision": "average precision", "auroc": "AUROC"}  # the main figure of a long tail first


@dataclass(frozen=True)
class Figure:
    """One figure of the report: value with interval, n, and the reason where there is no value.

    ``seeds`` are the values of single seeds; ``spread`` those of several models behind a mean that has no
    interval; ``controls`` the same metric for the random map and the centre prior, ``excess_low`` the low end of the
    paired interval of what the value exceeds its highest control by.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    positives: int | None = None
    reason: str = ""
    findings: int | None = None
    seeds: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    controls: tuple[float | None, float | None] = (None, None)
    excess_low: float | None = None


def above_controls(low: float, excess_low: float | None, controls: Mapping[str, float]) -> bool:
    """Return whether a figure is above its controls: on the same images where ``excess_low`` tells, else its interval.

    Maps of shuffled weights are no part of ``excess_low``.
    """
    apart = [value for name, value in controls.items() if name == "shuffled" or excess_low is None]
    return (excess_low is None or excess_low > 0) and low > max(apart, default=-1.0)


@dataclass(frozen=True)
class Results:
    """The records of ``metrics.json`` by arm, site, finding and metric."""

    run: RunDirectory
    _scores: dict[tuple[object, ...], Score] = field(init=False, repr=False)
    _maps: dict[tuple[object, ...], LocalizationScore] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_scores", {_key(s): s for s in self.run.scores})
        object.__setattr__(self, "_maps", {_key(s): s for s in self.run.localization})

    @property
    def training(self) -> list[SiteFacts]:
        """Sites that were trained on."""
        return [s for s in self.run.sites if not s.outside]

    @property
    def shared(self) -> list[SiteFacts]:
        """Training sites where every arm has a macro figure, so that means are over the same sites.

        A site with too few images of a class for an interval has a part only where no site has an interval. Both
        metrics exist, and have an interval, at the same sites.
        """
        figures = {s.name: [self.of_arm(arm, s, MACRO) for arm in self.run.run.arms] for s in self.training}
        known = [s for s in self.training if all(f.value is not None for f in figures[s.name])]
        return [s for s in known if all(f.low is not None for f in figures[s.name])] or known

    @property
    def findings(self) -> list[str]:
        """``macro`` first, then each finding of the study."""
        return [MACRO, *self.run.run.findings]

    def score(self, arm: str, model: str, site: str, finding: str, metric: str = "auroc") -> Figure:
        """Return a classification figure: the mean over seeds, with the values of single seeds."""
        record = self._over_seeds(self._scores, arm, model, site, finding, metric)
        if not isinstance(record, Score):
            return Figure(reason="not computed")
        seeds = self._single_seeds(self._scores, arm, model, site, finding, metric)
        return Figure(
            record.value,
            record.low,
            record.high,
            record.n,
            record.positives,
            self._why_absent(record),
            record.findings,
            seeds,
        )

    def pointing(self, arm: str, model: str, site: str, finding: str, metric: str) -> Figure:
        """Return a localization figure with its two controls."""
        record = self._over_seeds(self._maps, arm, model, site, finding, metric)
        if not isinstance(record, LocalizationScore):
            return Figure(reason="not computed")
        reason = "" if record.value is not None else "no box" if record.n == 0 else "not computed"
        seeds = self._single_seeds(self._maps, arm, model, site, finding, metric)
        controls = (record.random_map, record.centre_prior)
        return Figure(
            record.value,
            record.low,
            record.high,
            record.n,
            reason=reason,
            seeds=seeds,
            controls=controls,
            excess_low=record.excess_low,
        )

    def of_arm(self, arm: str, site: SiteFacts, finding: str, metric: str = "auroc") -> Figure:
        """Return what an arm reaches at a site: local means the site's own model.

        At an outside site no model is its own: the mean over the local models stands there, with no
        interval, and ``spread`` holds each of them. As they are taught other findings, a macro is the mean over
        findings of these means; without any, its reason is theirs where they have one in common.
        """
        look_up = self.score if metric in METRICS else self.pointing
        if arm != "local":
            return look_up(arm, arm, site.name, finding, metric)
        if not site.outside:
            return look_up(arm, site.name, site.name, finding, metric)
        if finding == MACRO:
            figures = [self.of_arm(arm, site, one, metric) for one in self.run.run.findings]
            means = mean_over([f for f in figures if f.value is not None])
            if means.value is None:
                reasons = {f.reason for f in figures}
                return replace(means, reason=reasons.pop() if len(reasons) == 1 else "no finding with both classes")
            return means
        every = [look_up(arm, other.name, site.name, finding, metric) for other in self.training]
        known = [f for f in every if f.value is not None]
        if not known:
            return replace(every[0], value=None) if every else Figure(reason="no local model")
        values = tuple(f.value for f in known if f.value is not None)
        return replace(known[0], value=sum(values) / len(values), low=None, high=None, seeds=(), spread=values)

    def difference(
        self, against: str, site: str, finding: str, metric: str = "auroc", model: str | None = None
    ) -> Figure:
        """Return the paired difference federated minus ``against`` at a site.

        local is the site's own model, or the ``model`` that is named.
        """
        found = [
            c
            for c in self.run.comparisons
            if (c.against, c.site, c.finding, c.metric, c.arm) == (against, site, finding, metric, "federated")
            and (against != "local" or c.against_model in (None, model or site))
        ]
        chosen: Comparison | None = next((c for c in found if c.seed == ALL_SEEDS), None)
        if chosen is None and len(self.run.run.seeds) == 1 and found:
            chosen = found[0]
        if chosen is None:
            place = self.run.site(site)
            alone = against == "local" and place is not None and place.outside
            return Figure(reason="no local model of its own" if alone else "not computed")
        reason = "" if chosen.value is not None else "no figure to compare"
        return Figure(chosen.value, chosen.low, chosen.high, chosen.n, reason=reason)

    def mean(self, arm: str, metric: str) -> Figure:
        """Return the mean of an arm's macro figures over ``shared``.

        Its interval is that of the evaluation, over resamples of all patients, where that has the same mean.
        """
        own = mean_over([self.of_arm(arm, site, MACRO, metric) for site in self.shared])
        records = self.run.evaluation["classification"] if self.run.evaluation is not None else []
        key, named = (arm, arm, MACRO, MACRO, metric), ("arm", "model", "site", "finding", "metric")
        evaluated = next((r for r in records if tuple(r[k] for k in named) == key), None)
        if evaluated is None or own.value is None or not isclose(evaluated["value"] or -1, own.value, abs_tol=1e-6):
            return own
        return replace(own, low=evaluated["low"], high=evaluated["high"])

    def _why_absent(self, record: Score) -> str:
        if record.value is not None:
            return "" if record.low is not None else _too_few(record)
        if record.finding == MACRO:
            return "no finding with both classes"
        if record.n == 0:
            site = self.run.site(record.site)
            test = site.counts(record.finding, "test") if site else {}
            return "never taught it" if test.get("positive", 0) + test.get("negative", 0) else "no label"
        if record.positives == 0:
            return "no positives"
        return "positives only" if record.positives == record.n else "not computed"

    def _over_seeds(self, table: dict, *key: str) -> object | None:
        """The record over all seeds, or that of the only seed."""
        seeds = self.run.run.seeds
        return table.get((ALL_SEEDS, *key)) or (table.get((seeds[0], *key)) if len(seeds) == 1 else None)

    def _single_seeds(self, table: dict, *key: str) -> tuple[float, ...]:
        records = [table.get((seed, *key)) for seed in self.run.run.seeds]
        return tuple(r.value for r in records if r is not None and r.value is not None)


def mean_over(figures: Sequence[Figure]) -> Figure:
    """Return the unweighted mean of figures from different patients, with its interval.

    The interval combines those of the parts, which are independent because sites share no patients:
    half-widths add in squares (MOVER; Zou and Donner 2008, Statistics in Medicine 27:1693). It is
    None where one of the parts has none.
    """
    known = [(f.value, f.low, f.high) for f in figures if f.value is not None]
    if not known:
        return Figure(reason="no figure at any site")
    mean = sum(v for v, _, _ in known) / len(known)
    below = [v - low for v, low, _ in known if low is not None]
    above = [high - v for v, _, high in known if high is not None]
    n = sum(f.n or 0 for f in figures if f.value is not None)
    if len(below) < len(known) or len(above) < len(known):
        return Figure(mean, n=n)
    size = len(known)
    low = mean - sqrt(sum(b * b for b in below)) / size
    high = mean + sqrt(sum(a * a for a in above)) / size
    return Figure(mean, low, high, n)


def _too_few(record: Score) -> str:
    """Say which class is too small for an interval; many images of few patients are too few as well."""
    if record.finding == MACRO or record.positives is None:
        return "too few patients of a class"
    negatives = record.n - record.positives
    few = (record.positives, "positive") if record.positives < negatives else (negatives, "negative")
    if few[0] >= FEWEST_OF_CLASS:
        return "too few patients of a class"
    return f"too few: {plural(*few)}"


def _key(record: Score | LocalizationScore) -> tuple[object, ...]:
    return (record.seed, record.arm, record.model, record.site, record.finding, record.metric)
