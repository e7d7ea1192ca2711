"""The answer to the first question, in words made of a run's own figures: does one federated model tell and find?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hilum.report.erasing import judge
from hilum.report.numbers import count, difference, listing, plural, score
from hilum.report.read import MACRO, RunDirectory
from hilum.report.results import Figure, Results

FEDERATED = "federated"
OTHERS = {
    "local": "whether hospitals gain by joining",
    "pooled": "what is lost by leaving images where they are",
}
POINTING = "pointing_game"
BOX_FIGURES = {POINTING: "pointing game", "iou": "IoU", "ap@0.3": "AP@0.3", "rodeo": "RoDeO"}
CONTROLS = {
    "random_map": "a random map",
    "centre_prior": "the mean box of other patients",
    "gaussian_prior": "the middle of the image",
    "shuffled": "shuffled weights",
}
FEWEST = 10
DECIDED = ("found", "not above the controls")
MEANING = {
    "disease": "",
    "disease, partly border": " – lesions count, and so does the border of the film",
    "disease, partly site": " – lesions count, and so does the border of the film, which tells hospitals apart",
    "disease and border": " – lesions count, but half or more is told of the border alone",
    "disease and site": " – lesions count, but half or more is told of the border alone, which tells hospitals apart",
    "not the border": " – the border alone tells nothing, and no boxes say what within it does",
    "open": "",
    "border": " – half or more is told of the border alone and lesions are not shown to count: this points to how, "
    "where or of whom films are made, not to the disease",
    "site": " – half or more is told of the border alone, which tells hospitals apart, and lesions are not shown to "
    "count: this points to the hospital, not to the disease",
    "not known": " – too few films, or nothing told apart",
}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One finding at one site: what the federated arm reaches, and its difference to each other arm in words."""

    site: str
    finding: str
    auroc: Figure
    against: list[str]
    pointing: Figure
    found: str


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
        ("Localization", _localized(rows)),
        ("Where localization fails", _failures(run, rows)),
        ("Disease or site", _verdicts(run)),
        ("Long tail", _tail(run)),
    ]
    return Answer(
        _short(run, rows), [(title, said) for title, said in evidence if said], arms, rows, _missing(run, rows)
    )


def in_words(figure: Figure) -> str:
    """Return a difference as better, worse or equal within the wider end of its interval.

    >>> in_words(Figure(0.01, -0.02, 0.03))
    'equal within ±0.030 (+0.010 [−0.020, +0.030])'
    """
    if figure.value is None:
        return figure.reason or "not computed"
    text = difference(figure.value, figure.low, figure.high)
    if figure.low is None or figure.high is None:
        return f"too few to tell ({text})"
    if figure.low > 0:
        return f"better ({text})"
    if figure.high < 0:
        return f"worse ({text})"
    return f"equal within ±{max(-figure.low, figure.high):.3f} ({text})"


def _rows(run: RunDirectory, results: Results, arms: list[str]) -> Iterator[Row]:
    for site in run.sites:
        for finding in run.run.findings:
            auroc = results.of_arm(FEDERATED, site, finding)
            pointing = results.of_arm(FEDERATED, site, finding, POINTING)
            if auroc.value is not None or pointing.value is not None:
                against = [in_words(results.difference(arm, site.name, finding)) for arm in arms]
                yield Row(site.name, finding, auroc, against, pointing, _found(pointing))


def _found(pointing: Figure) -> str:
    """Say how the pointing game compares with its controls; "" where there is none."""
    if pointing.value is None:
        return ""
    if (pointing.n or 0) < FEWEST or pointing.low is None:
        return "too few boxes"
    controls = [c for c in pointing.controls if c is not None]
    if not controls:
        return "no controls"
    return "found" if pointing.low > max(controls) else "not above the controls"


def _told(row: Row) -> bool | None:
    return None if row.auroc.low is None else row.auroc.low > 0.5


def _short(run: RunDirectory, rows: list[Row]) -> str:
    told = {row.finding for row in rows if _told(row)}
    asked = [f for f in run.run.findings if any(r.finding == f and _told(r) is not None for r in rows)]
    boxed = [f for f in run.run.findings if any(r.finding == f and r.found in DECIDED for r in rows)]
    found = {row.finding for row in rows if row.found == "found"}
    start = {"phantom": "On phantoms: ", "mixed": "Partly on phantoms: "}.get(run.run.data, "")
    if not asked:
        return f"{start}Not answered: no finding has enough test images of both classes."
    if not boxed:
        what = f"{len(told)} of {plural(len(asked), 'finding')} told better than chance somewhere"
        return f"{start}Half answered: {what}, but no finding has boxes on {FEWEST} test images to say where."
    both = [f for f in boxed if f in told and f in found]
    word = "Yes" if both == boxed and len(told) == len(asked) else "In part" if both else "Not shown"
    return (
        f"{start}{word}. The federated model tells {len(told)} of {plural(len(asked), 'finding')} better than chance "
        f"at some site, and its maps find {len([f for f in boxed if f in found])} of the {len(boxed)} that have boxes "
        f"enough. Both: {'; '.join(_both(rows, f) for f in both) or 'none'}."
    )


def _both(rows: list[Row], finding: str) -> str:
    told = [row.site for row in rows if row.finding == finding and _told(row)]
    found = [row.site for row in rows if row.finding == finding and row.found == "found"]
    return f"{_name(finding)} (told at {listing(told)}, found at {listing(found)})"


def _classified(rows: list[Row]) -> list[str]:
    known = [row for row in rows if _told(row) is not None]
    few = [row for row in rows if row.auroc.value is not None and _told(row) is None]
    not_told = [f"{_place(row)} ({_figure(row.auroc)})" for row in known if not _told(row)]
    said = [
        f"AUROC above 0.5, with its whole interval, in {sum(bool(_told(r)) for r in known)} of "
        f"{plural(len(known), 'pair')} of finding and site."
    ]
    if not_told:
        said.append(f"Not shown to be above 0.5: {'; '.join(not_told)}.")
    if few:
        said.append(f"Too few images of a class to say: {'; '.join(map(_place, few))}.")
    return said


def _compared(run: RunDirectory, results: Results, arm: str) -> list[str]:
    sites = [s for s in run.sites if arm != "local" or not s.outside]
    macros = [(s, results.difference(arm, s.name, MACRO)) for s in sites]
    known = [f"{s.name} {in_words(f)}" for s, f in macros if f.value is not None]
    absent = [s.name for s, f in macros if f.value is None]
    said = [f"Macro AUROC by site: {'; '.join(known)}." if known else "No site has a macro AUROC under both arms."]
    if absent and known:
        said.append(f"No such figure at {listing(absent)}.")
    singles = [
        (in_words(figure).split(" (")[0].split(" within")[0], f"{_name(f)} at {s.name} ({difference(figure.value)})")
        for f in run.run.findings
        for s in sites
        if (figure := results.difference(arm, s.name, f)).low is not None
    ]
    for word in ("better", "worse"):
        which = [text for found, text in singles if found == word]
        if which:
            said.append(f"Single findings {word}: {'; '.join(which)}.")
    equal = sum(word == "equal" for word, _ in singles)
    if equal:
        said.append(f"For {equal} of {plural(len(singles), 'pair')} of finding and site no difference is shown.")
    return said


def _localized(rows: list[Row]) -> list[str]:
    decided = [row for row in rows if row.found in DECIDED]
    said = []
    if decided:
        found = [f"{_place(r)}, {_figure(r.pointing)} of {count(r.pointing.n)}" for r in decided if r.found == "found"]
        said.append(
            f"The hottest point lies in a true box more often than for a random map and for the mean box of other "
            f"patients: {'; '.join(found) if found else 'nowhere'}."
        )
    few = [row for row in rows if row.found == "too few boxes"]
    if few:
        said.append(f"Boxes on fewer than {FEWEST} test images: {'; '.join(map(_place, few))}.")
    return said or ["No test image has a true box with a heat map."]


def _failures(run: RunDirectory, rows: list[Row]) -> list[str]:
    """Return what is not above a control: from the evaluation where there is one, else the pointing game alone."""
    if run.evaluation is None:
        return [
            f"{_place(row)}: pointing game {_figure(row.pointing)}, random map {score(row.pointing.controls[0])}, "
            f"mean box of other patients {score(row.pointing.controls[1])}."
            for row in rows
            if row.found == "not above the controls"
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
            said.append(f"{_name(finding)} at {site}: {'; '.join(parts)}.")
    if said:
        return ["Not shown to be above the best of the controls:", *said]
    if records:
        said.append(f"Nowhere: {listing(list(BOX_FIGURES.values()))} are above every control, with their intervals.")
    return said


def _beaten(record: Record) -> str:
    """Say which control a figure is not shown to be above; "" for none."""
    if record["value"] is None or record["low"] is None:
        return ""
    controls = {CONTROLS[name]: record[name] for name in CONTROLS if record[name] is not None}
    best = max(controls, key=lambda name: float(controls[name]), default=None)
    if best is None or record["low"] > controls[best]:
        return ""
    value = score(record["value"], record["low"], record["high"])
    return f"{BOX_FIGURES[record['metric']]} {value} against {score(controls[best])} of {best}"


def _verdicts(run: RunDirectory) -> list[str]:
    if run.evaluation is None or not run.evaluation.get("erased"):
        return []
    tests: dict[tuple[str, str], dict[str, Record]] = {}
    for name in ("lesions", "borders"):
        for record in run.evaluation[name]:
            if record["arm"] == FEDERATED:
                tests.setdefault((record["site"], record["finding"]), {})[name] = record
    verdicts: dict[str, list[str]] = {}
    for (site, finding), found in tests.items():
        word = judge(found.get("lesions"), found.get("borders")).word
        verdicts.setdefault(word, []).append(f"{_name(finding)} at {site}")
    return [
        f"{word[:1].upper()}{word[1:]}: {'; '.join(places)}{MEANING.get(word, '')}."
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
            said.append(
                f"{name.capitalize()} ({listing([_name(f) for f in groups[name]])}): average precision "
                f"{score(own['value'], own['low'], own['high'])} where chance is {score(own['positives'] / own['n'])}"
                f"{beside}."
            )
        else:
            said.append(f"{name.capitalize()} ({listing([_name(f) for f in groups[name]])}): no figure.")
    if "tail" not in groups:
        said.append("No finding has fewer than 100 training images: this run says nothing about rare ones.")
    return said


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
        said.append("Not evaluated: 'hilum evaluate' adds the tail, more controls, and the tests of disease or site.")
    elif not run.evaluation.get("erased"):
        said.append("No films with erased parts: whether the disease was learnt or the site is not tested.")
    return said


def _place(row: Row) -> str:
    return f"{_name(row.finding)} at {row.site}"


def _name(finding: str) -> str:
    return finding.replace("_", " ")


def _figure(figure: Figure) -> str:
    return score(figure.value, figure.low, figure.high)
