"""The answer to the first question, in words made of a run's own figures: does one federated model tell and find?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from hilum.evaluation.bootstrap import FEWEST, FEWEST_OF_CLASS
from hilum.evaluation.long_tail import TAIL
from hilum.report.erasing import Verdict, judge
from hilum.report.evaluation import ALIKE, COMPARED_MAPS, CONTROLS, finding_name, p_value
from hilum.report.numbers import count, difference, listing, plural, score
from hilum.report.read import MACRO, RunDirectory
from hilum.report.results import METRICS, Figure, Results, above_controls, mean_over

FEDERATED = "federated"
OTHERS = {
    "local": "whether hospitals gain by joining",
    "pooled": "what is lost by leaving images where they are",
}
POINTING = "pointing_game"
BOX_FIGURES = {POINTING: "pointing game", "iou": "IoU", "ap@0.3": "AP@0.3", "rodeo": "RoDeO"}
FOUND, IN_DOUBT, MISSED = "found", "found, but in doubt", "not above the controls"
BETTER, WORSE, EQUAL, NOT_SHOWN = "better", "worse", "equal", "no difference shown"
SIGNIFICANT = 0.05
DECIDED = (FOUND, IN_DOUBT, MISSED)
LIKENESS = {"shuffled": "those of shuffled weights", "other_findings": "those of other findings"}
MEANING_OF_LIKENESS = {
    "shuffled": "they show the film and the network more than what was learnt",
    "other_findings": "they show where the model looks more than which finding it sees there",
}
NOT_TESTED = "no boxes, or too few, tell whether lesions count"
MEANING = {
    "disease": "",
    "disease, partly border": " – lesions count, and so does the border of the film",
    "disease, partly site": " – lesions count, and so does the border of the film, which tells hospitals apart",
    "disease and border": " – lesions count, but half or more is told of the border alone",
    "disease and site": " – lesions count, but half or more is told of the border alone, which tells hospitals apart",
    "open": " – neither lesions nor the border alone are shown to count",
    "open, lesions not tested": f" – the border alone is not shown to tell anything; {NOT_TESTED}",
    "partly border": " – the border of the film counts, and lesions are not shown to",
    "partly border, lesions not tested": f" – the border of the film counts; {NOT_TESTED}",
    "partly site": " – the border of the film counts, which tells hospitals apart, and lesions are not shown to",
    "partly site, lesions not tested": " – the border of the film counts, which tells hospitals apart; " + NOT_TESTED,
    "border": " – half or more is told of the border alone and lesions are not shown to count: this points to how, "
    "where or of whom films are made, more than to the disease",
    "border, lesions not tested": f" – half or more is told of the border alone; {NOT_TESTED}",
    "site": " – half or more is told of the border alone, which tells hospitals apart, and lesions are not shown to "
    "count: this points to the hospital more than to the disease",
    "site, lesions not tested": " – half or more is told of the border alone, which tells hospitals apart; "
    + NOT_TESTED,
    "not known": " – too few films, or nothing shown to be told apart",
}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One finding at one site: what the federated arm reaches, and its difference to each other arm in words.

    ``controls``: the pointing game of what cannot know; ``doubts``: check that the maps fail → rank correlation;
    ``verdict``: the word of the tests of disease or site, or "".
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

    @property
    def maps(self) -> str:
        """The word on the maps, and the checks that they fail."""
        return "; ".join([self.found or "no boxes", *self.likeness])

    @property
    def likeness(self) -> list[str]:
        """What the maps resemble."""
        return [f"maps resemble {LIKENESS[check]} ({value:.2f})" for check, value in self.doubts.items()]


@dataclass(frozen=True)
class Answer:
    """The answer in short, its evidence by topic, the arms that ``rows`` compare with, and what stays open."""

    short: str
    evidence: list[tuple[str, list[str]]]
    arms: list[str]
    rows: list[Row]
    missing: list[str]


def answer(run: RunDirectory, results: Results) -> Answer | None:
    """Return the answer of a run; None where it has no federated arm."""
    if FEDERATED not in run.run.arms:
        return None
    arms = [arm for arm in OTHERS if arm in run.run.arms]
    rows = list(_rows(run, results, arms))
    evidence = [
        ("Classification", _classified(rows)),
        *((f"Federated against {arm}", _compared(run, results, arm)) for arm in arms),
        ("Localization", _localized(run, rows, arms)),
        ("Where localization fails", _failures(run, rows)),
        ("Disease or site", _verdicts(run)),
        ("Long tail", _tail(run)),
    ]
    return Answer(
        _short(run, results, rows), [(title, said) for title, said in evidence if said], arms, rows, _missing(run, rows)
    )


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
    word = _word(figure.low, figure.high, p)
    if word == EQUAL:
        return f"equal within ±{max(-figure.low, figure.high):.3f} ({text})"
    return f"{word} ({text}, {'not corrected' if p is None else f'p {p_value(p)} corrected'})"


def _word(low: float, high: float, p: float | None) -> str:
    if low <= 0 <= high:
        return EQUAL
    if p is not None and p >= SIGNIFICANT:
        return NOT_SHOWN
    return BETTER if low > 0 else WORSE


def _corrected(run: RunDirectory) -> dict[tuple[str, ...], float]:
    """Return (arm, site, finding, metric) → p of the difference to the arm, corrected for the number of comparisons."""
    records = run.evaluation["comparisons"] if run.evaluation is not None else []
    return {
        (r["against"], r["site"], r["finding"], r["metric"]): r["p_holm"]
        for r in records
        if r["arm"] == FEDERATED and r["p_holm"] is not None
    }


def _rows(run: RunDirectory, results: Results, arms: list[str]) -> Iterator[Row]:
    verdicts, p = _judged(run), _corrected(run)
    for site in run.sites:
        for finding in run.run.findings:
            precision, auroc = (results.of_arm(FEDERATED, site, finding, metric) for metric in METRICS)
            pointing = results.of_arm(FEDERATED, site, finding, POINTING)
            if auroc.value is not None or pointing.value is not None:
                against = [
                    in_words(results.difference(arm, site.name, finding), p.get((arm, site.name, finding, "auroc")))
                    for arm in arms
                ]
                controls = _controls(run, site.name, finding, pointing)
                doubts = _doubts(run, site.name, finding)
                found, verdict = _found(pointing, controls, doubts), verdicts.get((site.name, finding))
                word = "" if verdict is None else verdict.word
                yield Row(site.name, finding, precision, auroc, against, pointing, controls, doubts, found, word)


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


def _is_found(row: Row) -> bool:
    return row.found in (FOUND, IN_DOUBT)


def _told(row: Row) -> bool | None:
    return None if row.auroc.low is None else row.auroc.low > 0.5


def _below(row: Row) -> bool:
    return row.auroc.high is not None and row.auroc.high < 0.5


def _short(run: RunDirectory, results: Results, rows: list[Row]) -> str:
    told = {row.finding for row in rows if _told(row)}
    asked = [f for f in run.run.findings if any(r.finding == f and _told(r) is not None for r in rows)]
    boxed = [f for f in run.run.findings if any(r.finding == f and r.found in DECIDED for r in rows)]
    found = {row.finding for row in rows if _is_found(row)}
    sure = {row.finding for row in rows if row.found == FOUND}
    start = {"phantom": "On phantoms: ", "mixed": "Partly on phantoms: "}.get(run.run.data, "")
    if not asked:
        return f"{start}Not answered: no finding has enough test patients of both classes."
    means = _means(run, results)
    if not boxed:
        what = f"{len(told)} of {plural(len(asked), 'finding')} told better than chance somewhere"
        few = f"no finding has boxes on {FEWEST} test images to say where"
        return " ".join([f"{start}Half answered: {what}, but {few}.", *means, *_limits(rows)])
    both, limits = [f for f in boxed if f in told and f in found], _limits(rows)
    whole = both == boxed and len(told) == len(asked) and not limits
    word = "Yes" if whole else "In part" if both else "Not shown"
    doubtful = len(found - sure)
    said = (
        f"{start}{word}. The federated model tells {len(told)} of {plural(len(asked), 'finding')} better than chance "
        f"at some site, and its maps find {len([f for f in boxed if f in found])} of the {len(boxed)} with enough boxes"
        f"{f' ({doubtful} in doubt)' if doubtful else ''}. "
        f"Both: {'; '.join(_both(rows, f) for f in both) or 'none'}."
    )
    return " ".join([said, *means, *limits])


def _means(run: RunDirectory, results: Results) -> list[str]:
    """Return a sentence of the macro figures over the training sites, of the federated arm and the others."""
    shared, parts = results.shared, []
    for metric, name in METRICS.items():
        means = {
            arm: mean_over([results.of_arm(arm, site, MACRO, metric) for site in shared])
            for arm in (FEDERATED, *OTHERS)
            if arm in run.run.arms
        }
        if means[FEDERATED].value is not None:
            beside = ", ".join(f"{arm} {score(mean.value)}" for arm, mean in means.items() if arm != FEDERATED)
            parts.append(f"{name} {_figure(means[FEDERATED])}" + (f" ({beside})" if beside else ""))
    return [f"Macro, mean over {plural(len(shared), 'training site')}: {'; '.join(parts)}."] if parts else []


def _limits(rows: list[Row]) -> list[str]:
    """Return what forbids a plain yes: ranked the wrong way round, told by the border, maps that fail a check."""
    found = {row.finding for row in rows if _is_found(row)}
    below = [f"{_place(row)} ({_figure(row.auroc)})" for row in rows if _below(row)]
    blind = [f"{_place(row)} ({row.verdict})" for row in rows if row.finding in found and _by_border(row)]
    doubted = [f"{_place(row)}, {' and '.join(row.likeness)}" for row in rows if row.found == IN_DOUBT]
    said = [f"Below 0.5: {'; '.join(below)}."] if below else []
    said += [f"Found, but in doubt: {'; '.join(doubted)}."] if doubted else []
    if blind:
        said.append(f"Told at least in part by the border of the film, lesions not shown to count: {'; '.join(blind)}.")
    return said


def _by_border(row: Row) -> bool:
    return row.verdict.startswith(("partly", "border", "site"))


def _both(rows: list[Row], finding: str) -> str:
    told = [row.site for row in rows if row.finding == finding and _told(row)]
    found = [row.site for row in rows if row.finding == finding and _is_found(row)]
    return f"{finding_name(finding)} (told at {listing(told)}, found at {listing(found)})"


def _classified(rows: list[Row]) -> list[str]:
    known = [row for row in rows if _told(row) is not None]
    few = [row for row in rows if row.auroc.value is not None and _told(row) is None]
    not_told = [f"{_place(row)} ({_figure(row.auroc)})" for row in known if not _told(row) and not _below(row)]
    below = [f"{_place(row)} ({_figure(row.auroc)})" for row in known if _below(row)]
    said = [
        f"AUROC above 0.5, with its whole interval, in {sum(bool(_told(r)) for r in known)} of "
        f"{plural(len(known), 'pair')} of finding and site."
    ]
    if not_told:
        said.append(f"Not shown to be above 0.5: {'; '.join(not_told)}.")
    if below:
        said.append(f"Below 0.5, with the whole interval, so ranked the wrong way round: {'; '.join(below)}.")
    if few:
        said.append(f"Too few patients of a class to say: {'; '.join(map(_place, few))}.")
    return said


def _compared(run: RunDirectory, results: Results, arm: str) -> list[str]:
    sites = [s for s in run.sites if arm != "local" or not s.outside]
    p = _corrected(run)
    said, absent = [], []
    for metric, name in METRICS.items():
        macros = [(s, results.difference(arm, s.name, MACRO, metric)) for s in sites]
        known = [
            f"{s.name} {in_words(f, p.get((arm, s.name, MACRO, metric)))}" for s, f in macros if f.value is not None
        ]
        if known:
            said.append(f"Macro {name} by site: {'; '.join(known)}.")
            absent = [s.name for s, f in macros if f.value is None]
    if not said:
        said.append("No site has a macro figure under both arms.")
    if absent:
        said.append(f"No such figure at {listing(absent)}.")
    return said + _singles(run, results, arm, [s.name for s in sites])


def _singles(run: RunDirectory, results: Results, arm: str, sites: list[str]) -> list[str]:
    p = _corrected(run)
    shown: dict[str, list[str]] = {}
    rest = 0
    for finding, site in product(run.run.findings, sites):
        figure, own = results.difference(arm, site, finding), p.get((arm, site, finding, "auroc"))
        if figure.low is None or figure.high is None:
            continue
        word = _word(figure.low, figure.high, own)
        if word in (BETTER, WORSE):
            how = ", not corrected for the number of comparisons" if own is None else ""
            beside = "" if own is None else f", p {p_value(own)} corrected"
            text = f"{finding_name(finding)} at {site} ({difference(figure.value)}{beside})"
            shown.setdefault(f"{word} in AUROC{how}", []).append(text)
        else:
            rest += 1
    said = [f"Single findings {kind}: {'; '.join(shown[kind])}." for kind in sorted(shown)]
    if rest:
        pairs = plural(rest + sum(map(len, shown.values())), "pair")
        said.append(f"For {rest} of {pairs} of finding and site no difference is shown.")
    return said


def _localized(run: RunDirectory, rows: list[Row], arms: list[str]) -> list[str]:
    decided = [row for row in rows if row.found in DECIDED]
    said = []
    if decided:
        found = [f"{_place(r)}, {_figure(r.pointing)} of {count(r.pointing.n)}" for r in decided if _is_found(r)]
        used = [CONTROLS[name] for name in CONTROLS if any(name in row.controls for row in decided)]
        said.append(
            f"The hottest point lies in a true box more often than that of every control ({listing(used)}): "
            f"{'; '.join(found) if found else 'nowhere'}."
        )
    for check, what in LIKENESS.items():
        alike = [f"{_place(row)} ({row.doubts[check]:.2f})" for row in decided if check in row.doubts]
        if alike:
            meaning = MEANING_OF_LIKENESS[check]
            said.append(f"Maps resemble {what}, rank correlation above {ALIKE:g}: {'; '.join(alike)}: {meaning}.")
    said += [sentence for arm in arms if (sentence := _maps_against(run, arm))]
    few = [row for row in rows if row.found == "too few boxes"]
    if few:
        least = f"{FEWEST} test images or {FEWEST_OF_CLASS} patients"
        said.append(f"Boxes on fewer than {least}: {'; '.join(map(_place, few))}.")
    return said or ["No test image has a true box with a heat map."]


def _maps_against(run: RunDirectory, arm: str) -> str:
    """Say in one sentence how the maps compare with another arm's on the same images; "" where none are compared."""
    records = run.evaluation["comparisons"] if run.evaluation is not None else []
    parts = []
    for metric in COMPARED_MAPS:
        known = [
            r
            for r in records
            if (r["arm"], r["against"], r["metric"]) == (FEDERATED, arm, metric)
            and r["finding"] != MACRO
            and None not in (r["p"], r["low"])
        ]
        found = [(_word(r["low"], r["high"], r["p_holm"]), r) for r in known]
        words = [
            f"{word} for {'; '.join(_map_difference(r) for w, r in found if w == word)}"
            for word in (BETTER, WORSE)
            if any(w == word for w, _ in found)
        ]
        rest = sum(word not in (BETTER, WORSE) for word, _ in found)
        if rest:
            words.append(f"no difference shown for {rest} of {plural(len(known), 'pair')} of finding and site")
        if words:
            parts.append(f"{BOX_FIGURES[metric]} {', '.join(words)}")
    return f"Maps against those of {arm}, on the same images: {'. '.join(parts)}." if parts else ""


def _map_difference(record: Record) -> str:
    text = difference(record["value"], record["low"], record["high"])
    return f"{finding_name(record['finding'])} at {record['site']} ({text}, p {p_value(record['p_holm'])} corrected)"


def _failures(run: RunDirectory, rows: list[Row]) -> list[str]:
    """Return what is not above a control: from the evaluation where there is one, else the pointing game alone."""
    if run.evaluation is None:
        return [
            f"{_place(row)}: pointing game {_figure(row.pointing)}, "
            f"{', '.join(f'{CONTROLS[name]} {score(value)}' for name, value in row.controls.items())}."
            for row in rows
            if row.found == MISSED
        ]
    records = [
        r
        for r in run.evaluation["localization"]
        if r["arm"] == FEDERATED and r["finding"] != MACRO and r["metric"] in BOX_FIGURES and r["n"] >= FEWEST
    ]
    said = []
    for site, finding in dict.fromkeys((r["site"], r["finding"]) for r in records):
        group = (r for r in records if (r["site"], r["finding"]) == (site, finding))
        parts = [text for record in group if (text := _beaten(record))]
        if parts:
            said.append(f"{finding_name(finding)} at {site}: {'; '.join(parts)}.")
    if said:
        return ["Not shown to be above the best of the controls:", *said]
    if records:
        said.append(f"Nowhere: {listing(list(BOX_FIGURES.values()))} are above every control, with their intervals.")
    return said


def _beaten(record: Record) -> str:
    """Say which control a figure is not shown to be above; "" for none."""
    if record["value"] is None or record["low"] is None:
        return ""
    controls = {name: float(record[name]) for name in CONTROLS if record.get(name) is not None}
    best = max(controls, key=lambda name: controls[name], default=None)
    if best is None or above_controls(record["low"], record.get("excess_low"), controls):
        return ""
    value = score(record["value"], record["low"], record["high"])
    return f"{BOX_FIGURES[record['metric']]} {value} against {score(controls[best])} ({CONTROLS[best]})"


def _judged(run: RunDirectory) -> dict[tuple[str, str], Verdict]:
    """Return (site, finding) → the verdict of the tests of disease or site; empty where they were not made."""
    if run.evaluation is None or not run.evaluation.get("erased"):
        return {}
    tests: dict[tuple[str, str], dict[str, Record]] = {}
    for name in ("lesions", "borders"):
        for record in run.evaluation[name]:
            if record["arm"] == FEDERATED:
                tests.setdefault((record["site"], record["finding"]), {})[name] = record
    return {place: judge(found.get("lesions"), found.get("borders")) for place, found in tests.items()}


def _verdicts(run: RunDirectory) -> list[str]:
    verdicts: dict[str, list[str]] = {}
    for (site, finding), verdict in _judged(run).items():
        share = f" ({verdict.share} by the border alone)" if verdict.share else ""
        verdicts.setdefault(verdict.word, []).append(f"{finding_name(finding)} at {site}{share}")
    return [
        f"{word[:1].upper()}{word[1:]}: {'; '.join(places)}{MEANING[word]}."
        for word, places in sorted(verdicts.items(), key=lambda item: [*MEANING].index(item[0]))
    ]


def _tail(run: RunDirectory) -> list[str]:
    if run.evaluation is None:
        return []
    groups = {name: members for name, members in run.evaluation["groups"].items() if members}
    said = []
    for name in groups:
        found = {
            r["arm"]: r
            for r in run.evaluation["classification"]
            if (r["site"], r["finding"], r["metric"]) == (MACRO, name, "average_precision") and r["value"] is not None
        }
        if FEDERATED in found:
            own = found[FEDERATED]
            beside = f", pooled {score(found['pooled']['value'])}" if "pooled" in found else ""
            chance = _chance(run, groups[name], own)
            where = "" if chance is None else f" where chance is {score(chance)}"
            said.append(
                f"{name.capitalize()} ({listing([finding_name(f) for f in groups[name]])}): average precision "
                f"{score(own['value'], own['low'], own['high'])}{where}{beside}."
            )
        else:
            said.append(f"{name.capitalize()} ({listing([finding_name(f) for f in groups[name]])}): no figure.")
    if "tail" not in groups:
        said.append(
            f"No finding has fewer than {TAIL} training images that show it: this run is silent about rare ones."
        )
    return said


def _chance(run: RunDirectory, members: list[str], mean: Record) -> float | None:
    """Return the share of positives, averaged as ``mean`` is: over findings within a site, then over the sites.

    None where the images of these pairs of site and finding are not those behind the mean.
    """
    evaluation: Record = run.evaluation or {}
    sites = []
    for site in (s.name for s in run.sites if not s.outside):
        pairs = [
            r
            for r in evaluation["classification"]
            if (r["arm"], r["site"], r["metric"]) == (FEDERATED, site, "average_precision") and r["finding"] in members
        ]
        sites.append(_with_interval([r for r in pairs if r["value"] is not None]))
    certain = [pairs for pairs in sites if any(r["low"] is not None for r in pairs)]
    counted = certain or [pairs for pairs in sites if pairs]
    if sum(r["n"] for pairs in counted for r in pairs) != mean["n"]:
        return None
    return fmean(fmean(r["positives"] / r["n"] for r in pairs) for pairs in counted)


def _with_interval(records: list[Record]) -> list[Record]:
    return [r for r in records if r["low"] is not None] or records


def _missing(run: RunDirectory, rows: list[Row]) -> list[str]:
    facts, said = run.run, []
    if facts.data != "real":
        which = "These are phantoms" if facts.data == "phantom" else "Some sites are phantoms"
        said.append(f"{which}: drawn by a program, they show that the software works and say nothing about patients.")
    said += [f"No {arm} arm: this run does not say {what}." for arm, what in OTHERS.items() if arm not in facts.arms]
    if len(facts.seeds) == 1:
        said.append("One seed: intervals cover the choice of test patients, not how training varies.")
    if not any(row.pointing.value is not None for row in rows):
        said.append("No boxes: where the model looks is not measured.")
    if not any(site.outside for site in run.sites):
        said.append("No outside site: this run does not say how the model does at a hospital that it never met.")
    if run.evaluation is None:
        said.append(
            "Not evaluated: 'hilum evaluate' adds the tail, more controls, p values corrected for the number of "
            "comparisons, and the tests of disease or site."
        )
    elif not run.evaluation.get("erased"):
        said.append("No films with erased parts: whether the disease was learnt or the site is not tested.")
    return said


def _place(row: Row) -> str:
    return f"{finding_name(row.finding)} at {row.site}"


def _figure(figure: Figure) -> str:
    return score(figure.value, figure.low, figure.high)
