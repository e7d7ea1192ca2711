"""What the sites hold: label spaces, and what was left out, without naming an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hilum.report.read import RunDirectory, SiteFacts

KINDS = 12
UNTOLD = "not told: sites.json is of an older version"


@dataclass(frozen=True)
class LabelCell:
    """Labels of one finding at one site, over all images and in the test split."""

    positive: int
    negative: int
    uncertain: int
    unknown: int
    test_positive: int
    test_negative: int

    @property
    def known(self) -> int:
        """Images with a label, uncertain ones included."""
        return self.positive + self.negative + self.uncertain

    @property
    def total(self) -> int:
        """All images."""
        return self.known + self.unknown

    @property
    def one_class(self) -> str:
        """Say so where only one class is there."""
        if not self.positive and not self.negative:
            return ""
        return "positives only" if not self.negative else "negatives only" if not self.positive else ""


def label_spaces(run: RunDirectory) -> dict[str, list[LabelCell]]:
    """Return finding → one cell a site, in the order of ``run.sites``."""
    return {f: [_cell(site, f) for site in run.sites] for f in run.run.findings}


def _cell(site: SiteFacts, finding: str) -> LabelCell:
    raw, test = site.counts(finding), site.counts(finding, "test")
    return LabelCell(
        raw["positive"],
        raw["negative"],
        raw["uncertain"],
        raw["unknown"],
        test["positive"],
        test["negative"],
    )


def one_class_sites(run: RunDirectory) -> list[SiteFacts]:
    """Return sites whose every labelled finding has positives only."""
    spaces = label_spaces(run)
    cells = {s.name: [row[i] for row in spaces.values() if row[i].known] for i, s in enumerate(run.sites)}
    return [s for s in run.sites if cells[s.name] and all(c.one_class == "positives only" for c in cells[s.name])]


def unlabelled_sites(run: RunDirectory) -> list[SiteFacts]:
    """Return outside sites that label none of the findings: nothing of them is tested."""
    spaces = label_spaces(run).values()
    labelled = [
        any(row[i].known or row[i].test_positive or row[i].test_negative for row in spaces)
        for i in range(len(run.sites))
    ]
    return [site for site, known in zip(run.sites, labelled, strict=True) if site.outside and not known]


@dataclass(frozen=True)
class Turned:
    """What a site's policy made of the uncertain or the blank labels of one finding."""

    finding: str
    site: str
    policy: str
    kind: str
    became: list[tuple[str, int]]


def turned(run: RunDirectory) -> list[Turned]:
    """Return what every site's policy turned into what; blank labels that stay unknown are not listed."""
    return [
        Turned(finding, site.name, site.label_policy, kind, list(became.items()))
        for finding in run.run.findings
        for site in run.sites
        for kind, became in site.findings.get(finding, {}).get("turned", {}).items()
        if kind == "uncertain" or set(became) != {"unknown"}
    ]


@dataclass(frozen=True)
class LeftOut:
    """How often a reason kept images of a site out; ``more`` counts the rarer reasons."""

    site: str
    reasons: list[tuple[str, int]]
    total: int
    more: int


def left_out(run: RunDirectory) -> list[LeftOut]:
    """Return the images left out of each site, counted by reason."""
    return [_count(site.name, site.left_out) for site in run.sites]


def problems(run: RunDirectory) -> list[LeftOut]:
    """Return what the reading of each database complained about, counted by kind."""
    return [_count(site.name, site.problems) for site in run.sites]


def _count(site: str, entries: Iterable[Mapping[str, Any] | str]) -> LeftOut:
    """Count by reason. Only an entry with a count has a reason that holds no file name and no cell."""
    counts: Counter[str] = Counter()
    for one in entries:
        counted = not isinstance(one, str) and "count" in one
        counts[str(one["reason"]) if counted else UNTOLD] += int(one["count"]) if counted else 1  # type: ignore[index]
    ranked = counts.most_common()
    return LeftOut(site, ranked[:KINDS], counts.total(), sum(n for _, n in ranked[KINDS:]))
