"""The evidence for the answer, topic by topic, each as sentences made of a run's own figures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from statistics import fmean
from typing import Any

from hilum.evaluation.bootstrap import FEWEST, FEWEST_OF_CLASS
from hilum.evaluation.long_tail import TAIL
from hilum.report.evaluation import ALIKE, COMPARED_MAPS, CONTROLS, finding_name, p_value
from hilum.report.numbers import count, difference, listing, plural, score
from hilum.report.read import MACRO, RunDirectory
from hilum.report.results import METRICS, Figure, Results, above_controls
from hilum.report.rows import (
    BETTER,
    DECIDED,
    FEDERATED,
    LIKENESS,
    MISSED,
    POINTING,
    WORSE,
    Row,
    corrected,
    figure_text,
    in_words,
    judged,
    mean_against,
    means_against,
    with_interval,
    word_of,
)

BOX_FIGURES = {POINTING: "pointing game", "iou": "IoU", "ap@0.3": "AP@0.3", "rodeo": "RoDeO"}
MEANING_OF_LIKENESS = {
    "shuffled": "they show the film and the network more than what was learnt",
    "other_findings": "they show where the model looks more than which finding it sees there",
}
NOT_TESTED = "no boxes, or too few, tell whether lesions count"
MEANING = {
    "disease": "",
    "disease, border not tested": " – lesions count; whether the border of the film does as well is not known",
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


def classified(rows: list[Row]) -> list[str]:
    """Say which findings are told, and where."""
    known = [row for row in rows if row.told is not None]
    few = [row for row in rows if row.auroc.value is not None and row.told is None]
    not_told = [f"{row.place} ({figure_text(row.auroc)})" for row in known if not row.told and not row.below]
    below = [f"{row.place} ({figure_text(row.auroc)})" for row in known if row.below]
    surely = " and p < 0.05 corrected for the number of pairs" if any(row.p is not None for row in known) else ""
    said = [
        f"AUROC above 0.5, with its whole interval{surely}, in {sum(bool(r.told) for r in known)} of "
        f"{plural(len(known), 'pair')} of finding and site."
    ]
    if not_told:
        said.append(f"Not shown to be above 0.5: {'; '.join(not_told)}.")
    if below:
        said.append(f"Below 0.5, with the whole interval, so ranked the wrong way round: {'; '.join(below)}.")
    if few:
        said.append(f"Too few patients of a class to say: {'; '.join(row.place for row in few)}.")
    return said


def compared(run: RunDirectory, results: Results, arm: str) -> list[str]:
    """Say how the federated arm tells findings beside another; at an outside site, beside each local model."""
    places: list[tuple[str, str | None]] = []
    for site in run.sites:
        models = [own.name for own in results.training] if arm == "local" and site.outside else [None]
        places += [(site.name, model) for model in models]
    p = corrected(run)
    said, absent = _over_sites(run, arm), []
    for metric, name in METRICS.items():
        macros = [(s, m, results.difference(arm, s, MACRO, metric, m)) for s, m in places]
        known = [
            f"{_place(s, m)} {in_words(f, p.get((arm, m, s, MACRO, metric)))}"
            for s, m, f in macros
            if f.value is not None
        ]
        if known:
            said.append(f"Macro {name} by site: {'; '.join(known)}.")
            there = {s for s, _, f in macros if f.value is not None}
            absent = [_place(s, m if s in there else None) for s, m, f in macros if f.value is None]
    if not said:
        said.append("No site has a macro figure under both arms.")
    if absent:
        said.append(f"No such figure at {listing([*dict.fromkeys(absent)])}.")
    return said + [sentence for metric in METRICS for sentence in _singles(run, results, arm, places, metric)]


def _place(site: str, model: str | None) -> str:
    return site if model is None else f"{site} (against {model}'s model)"


def _over_sites(run: RunDirectory, arm: str) -> list[str]:
    """Say how the macro figures, as means over the sites that train, are beside another arm's."""
    records = means_against(run, arm)
    parts = [f"{name} {_in_words(records[MACRO, m])}" for m, name in METRICS.items() if (MACRO, m) in records]
    return [f"Macro, mean over the training sites: {'; '.join(parts)}."] if parts else []


def _in_words(record: Record) -> str:
    return in_words(Figure(record["value"], record["low"], record["high"]), record["p_holm"])


def _singles(
    run: RunDirectory, results: Results, arm: str, places: list[tuple[str, str | None]], metric: str
) -> list[str]:
    p, name = corrected(run), METRICS[metric]
    shown: dict[str, list[str]] = {}
    rest = 0
    for finding, (site, model) in product(run.run.findings, places):
        figure, own = (
            results.difference(arm, site, finding, metric, model),
            p.get((arm, model, site, finding, metric)),
        )
        if figure.low is None or figure.high is None:
            continue
        word = word_of(figure.low, figure.high, own)
        if word in (BETTER, WORSE):
            how = ", not corrected for the number of comparisons" if own is None else ""
            beside = "" if own is None else f", p {p_value(own)} corrected"
            text = f"{finding_name(finding)} at {_place(site, model)} ({difference(figure.value)}{beside})"
            shown.setdefault(f"{word} in {name}{how}", []).append(text)
        else:
            rest += 1
    said = [f"Single findings {kind}: {'; '.join(shown[kind])}." for kind in sorted(shown)]
    if rest:
        made = plural(rest + sum(map(len, shown.values())), "comparison")
        said.append(f"In {rest} of {made} of single findings no difference in {name} is shown.")
    return said


def localized(run: RunDirectory, rows: list[Row], arms: list[str]) -> list[str]:
    """Say where maps find lesions, what they resemble, and how they are beside those of other arms."""
    decided = [row for row in rows if row.found in DECIDED]
    said = []
    if decided:
        found = [f"{r.place}, {figure_text(r.pointing)} of {count(r.pointing.n)}" for r in decided if r.is_found]
        used = [CONTROLS[name] for name in CONTROLS if any(name in row.controls for row in decided)]
        said.append(
            f"The hottest point lies in a true box more often than that of every control ({listing(used)}): "
            f"{'; '.join(found) if found else 'nowhere'}."
        )
    for check, what in LIKENESS.items():
        alike = [f"{row.place} ({row.doubts[check]:.2f})" for row in decided if check in row.doubts]
        if alike:
            meaning = MEANING_OF_LIKENESS[check]
            said.append(f"Maps resemble {what}, rank correlation above {ALIKE:g}: {'; '.join(alike)}: {meaning}.")
    said += [sentence for arm in arms if (sentence := _maps_against(run, arm))]
    few = [row for row in rows if row.found == "too few boxes"]
    if few:
        least = f"{FEWEST} test images or {FEWEST_OF_CLASS} patients"
        said.append(f"Boxes on fewer than {least}: {'; '.join(row.place for row in few)}.")
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
        found = [(word_of(r["low"], r["high"], r["p_holm"]), r) for r in known]
        words = [
            f"{word} for {'; '.join(_map_difference(r) for w, r in found if w == word)}"
            for word in (BETTER, WORSE)
            if any(w == word for w, _ in found)
        ]
        rest = sum(word not in (BETTER, WORSE) for word, _ in found)
        if rest:
            words.append(f"no difference shown in {rest} of {plural(len(known), 'comparison')}")
        if words:
            parts.append(f"{BOX_FIGURES[metric]} {', '.join(words)}")
    return f"Maps against those of {arm}, on the same images: {'. '.join(parts)}." if parts else ""


def _map_difference(record: Record) -> str:
    text = difference(record["value"], record["low"], record["high"])
    place = f"{finding_name(record['finding'])} at {_place(record['site'], record.get('against_model'))}"
    return f"{place} ({text}, p {p_value(record['p_holm'])} corrected)"


def failures(run: RunDirectory, rows: list[Row]) -> list[str]:
    """Return what is not above a control: from the evaluation where there is one, else the pointing game alone."""
    if run.evaluation is None:
        return [
            f"{row.place}: pointing game {figure_text(row.pointing)}, "
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
    decided = [r for r in records if r["value"] is not None and r["low"] is not None]
    if not decided:
        return []
    names = listing([name for metric, name in BOX_FIGURES.items() if any(r["metric"] == metric for r in decided)])
    places = plural(len({(r["site"], r["finding"]) for r in decided}), "pair")
    return [f"Nowhere: {names} are above every control, with their intervals, for {places} of finding and site."]


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


def verdicts(run: RunDirectory) -> list[str]:
    """Say whether the disease or the site was learnt."""
    verdicts: dict[str, list[str]] = {}
    for (site, finding), verdict in judged(run).items():
        share = f" ({verdict.share} by the border alone)" if verdict.share else ""
        verdicts.setdefault(verdict.word, []).append(f"{finding_name(finding)} at {site}{share}")
    return [
        f"{word[:1].upper()}{word[1:]}: {'; '.join(places)}{MEANING[word]}."
        for word, places in sorted(verdicts.items(), key=lambda item: [*MEANING].index(item[0]))
    ]


def tail(run: RunDirectory) -> list[str]:
    """Say how frequent and rare findings are told."""
    if run.evaluation is None:
        return []
    groups = {name: members for name, members in run.evaluation["groups"].items() if members}
    said = []
    for name in groups:
        key = (FEDERATED, MACRO, name, "average_precision")
        own = next(
            (
                r
                for r in run.evaluation["classification"]
                if (r["arm"], r["site"], r["finding"], r["metric"]) == key and r["value"] is not None
            ),
            None,
        )
        if own is not None:
            beside = "".join(
                f"; {text}" for arm in ("local", "pooled") if (text := _group_against(run, arm, name, groups[name]))
            )
            chance = _chance(run, groups[name], own)
            where = "" if chance is None else f" where chance is {score(chance)}"
            said.append(
                f"{name.capitalize()} ({listing([finding_name(f) for f in groups[name]])}): average precision "
                f"{score(own['value'], own['low'], own['high'])}{where}{_left_out(run, groups[name])}{beside}."
            )
        else:
            said.append(f"{name.capitalize()} ({listing([finding_name(f) for f in groups[name]])}): no figure.")
    if out := _left_out(run, run.run.findings):
        said.append(f"Macro figures are means over findings and sites{out}.")
    if "tail" not in groups:
        said.append(
            f"No finding has fewer than {TAIL} training images that show it: this run is silent about rare ones."
        )
    return said


def _group_against(run: RunDirectory, arm: str, group: str, members: list[str]) -> str:
    """Say how a group of findings is beside another arm; "" where nothing compares them."""
    mean = mean_against(run, arm, group, members, "average_precision")
    return "" if mean is None else f"against {arm} {_in_words(mean)}"


def _left_out(run: RunDirectory, members: list[str]) -> str:
    """Name the pairs of finding and site that a mean average precision is not over, with their figures."""
    behind = [r for pairs in _behind_mean(run, members) for r in pairs]
    said = [
        f"{finding_name(r['finding'])} at {r['site']} ({score(r['value'])})"
        for pairs in _precisions(run, members)
        for r in pairs
        if r not in behind
    ]
    few = f"fewer than {FEWEST_OF_CLASS} test patients of a class"
    return f", without {listing(said)}, of which there are {few}" if said else ""


def _behind_mean(run: RunDirectory, members: list[str]) -> list[list[Record]]:
    """Return the average precisions that a mean is over, by site: those with an interval, where any site has one."""
    sites = [with_interval(pairs) for pairs in _precisions(run, members) if pairs]
    return [pairs for pairs in sites if any(r["low"] is not None for r in pairs)] or sites


def _precisions(run: RunDirectory, members: list[str]) -> list[list[Record]]:
    """Return the federated arm's average precisions of these findings that are known, of each site that trains."""
    evaluation: Record = run.evaluation or {}
    return [
        [
            r
            for r in evaluation["classification"]
            if (r["arm"], r["site"], r["metric"]) == (FEDERATED, site.name, "average_precision")
            and r["finding"] in members
            and r["value"] is not None
        ]
        for site in run.sites
        if not site.outside
    ]


def _chance(run: RunDirectory, members: list[str], mean: Record) -> float | None:
    """Return the share of positives, averaged as ``mean`` is: over findings within a site, then over the sites.

    None where the images of these pairs of site and finding are not those behind the mean.
    """
    counted = _behind_mean(run, members)
    if sum(r["n"] for pairs in counted for r in pairs) != mean["n"]:
        return None
    return fmean(fmean(r["positives"] / r["n"] for r in pairs) for pairs in counted)
