"""What ``hilum evaluate`` found, as tables for the page and the terminal, and as reliability plots for the page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilum.report.erasing import judge
from hilum.report.numbers import MINUS, NONE, count, difference, score
from hilum.report.read import MACRO
from hilum.report.results import METRICS

SIDE = 120.0
Record = Mapping[str, Any]
MAP_COLUMNS = {
    "pointing_game": "pointing game",
    "iou": "IoU",
    "iou_boxes>0.1": "T(IoU) 0.1",
    "iou_boxes>0.3": "T(IoU) 0.3",
    "iou_boxes>0.5": "T(IoU) 0.5",
    "iobb>0.1": "T(IoBB) 0.1",
    "iobb>0.5": "T(IoBB) 0.5",
    "false_boxes_iou@0.1": "false boxes, T(IoU) 0.1",
    "false_boxes_iobb@0.1": "false boxes, T(IoBB) 0.1",
    "pixel_auprc": "pixel AUPRC",
    "ap@0.3": "AP@0.3",
    "ap@0.5": "AP@0.5",
    "froc": "FROC",
    "rodeo": "RoDeO",
}
CONTROLS = {
    "random_map": "random map",
    "centre_prior": "centre prior",
    "gaussian_prior": "middle of the image",
    "shuffled": "shuffled weights",
}
METRIC_NAMES = {"average_precision": "AP", "auroc": "AUROC", "iobb": "IoBB", "box_energy": "energy in box"}
COMPARED_MAPS = ("pointing_game", "iou")
ALIKE = 0.5  # rank correlation above which maps are said to resemble others: they share a quarter of their variance
CORRECTIONS = ("raw", "temperature", "prior")


@dataclass(frozen=True)
class Table:
    """A table of text; ``part`` says in which section of the page it stands."""

    part: str
    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class ReliabilityPlot:
    """One finding at one site: paths and dots of raw and corrected probabilities in a square of ``SIDE``."""

    site: str
    finding: str
    lines: list[tuple[str, str]]
    dots: list[tuple[str, str, str, str]]
    errors: list[tuple[str, str]]


def evaluation_table(path: Path) -> str:
    """Return the tables of an evaluation.json as text to print."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return "\n\n".join(_text(table) for table in evaluation_tables(content))


def evaluation_tables(content: Record) -> list[Table]:
    """Return every table that has rows."""
    made = (
        _classification(content),
        _localization(content),
        _controls(content),
        _map_tests(content),
        _checks(content),
        _erased(content),
        _calibration(content),
        _tests(
            [r for r in content["comparisons"] if r["metric"] in METRICS],
            "Arms",
            "Differences between arms on the same patients",
        ),
        _ranks(content),
        _tests(content.get("differences", []), "Runs", f"Differences to the run {content.get('against', '')}"),
    )
    return [table for table in made if table.rows]


def reliability_plots(content: Record) -> list[ReliabilityPlot]:
    """Return a plot of each site and finding that have both classes, of the federated arm or the first one."""
    records = [r for r in content["calibration"] if "reliability" in r and 0 < r["positives"] < r["n"]]
    lead = _lead(records)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["arm"] == lead and record["model"] in (lead, record["site"]):
            groups.setdefault((record["site"], record["finding"]), []).append(record)
    return [_plot(site, finding, group) for (site, finding), group in groups.items()]


def _plot(site: str, finding: str, records: Sequence[Record]) -> ReliabilityPlot:
    lines, dots, errors = [], [], []
    last = records[-1]["correction"]
    for record in (r for r in records if r["correction"] in ("raw", last)):
        kind = "raw" if record["correction"] == "raw" else "corrected"
        points = record["reliability"]
        total = sum(points["images"])
        places = [(SIDE * p, SIDE * (1 - o)) for p, o in zip(points["predicted"], points["observed"], strict=True)]
        lines.append((kind, "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)))
        sizes = [1 + 6 * (n / total) ** 0.5 for n in points["images"]]
        dots += [(kind, f"{x:.1f}", f"{y:.1f}", f"{r:.1f}") for (x, y), r in zip(places, sizes, strict=True)]
        errors.append((record["correction"], _score(record)))
    return ReliabilityPlot(site, finding, lines, dots, errors)


def _classification(content: Record) -> Table:
    groups = [name for name, members in content["groups"].items() if members]
    found = {_key(r): r for r in content["classification"]}
    rows = []
    for site, arm, model in _arms(content["classification"]):
        cells = [(MACRO, "average_precision"), (MACRO, "auroc"), *((g, "average_precision") for g in groups)]
        chosen = [found.get((arm, model, site, finding, metric)) for finding, metric in cells]
        if any(chosen):
            rows.append([_site(site), arm, *map(_score, chosen)])
    named = "; ".join(f"{g}: {', '.join(content['groups'][g])}" for g in groups)
    return Table(
        "figures",
        "Average precision",
        f"Macro over findings, the main figure where labels are long-tailed; chance is the prevalence. By training "
        f"images that show a finding: more than 1000 head, fewer than 100 tail. {named}.",
        ["site", "arm", "macro AP", "macro AUROC", *(f"{g} AP" for g in groups)],
        rows,
    )


def _localization(content: Record) -> Table:
    found = {_key(r): r for r in content["localization"]}
    cuts = {(r["arm"], r["model"], r["finding"]): r for r in content["thresholds"]}
    rows = []
    for site, arm, model in _arms(content["localization"]):
        for finding in dict.fromkeys(r["finding"] for r in content["localization"] if r["site"] == site):
            chosen = {m: found.get((arm, model, site, finding, m)) for m in MAP_COLUMNS}
            first = chosen["pointing_game"]
            if first is None:
                continue
            cut = cuts.get((arm, model, finding))
            threshold = "" if cut is None else _threshold(cut)
            cells = [_score(chosen["pointing_game"]), *(_value(chosen[m]) for m in list(MAP_COLUMNS)[1:])]
            rows.append([_site(site), finding_name(finding), arm, count(first["n"]), threshold, *cells])
    return Table(
        "maps",
        "Maps against boxes",
        "Maps are cut where the IoU on validation images with boxes is highest, or, with fewer than 10 of these, each "
        "by itself (Otsu). T(…) is the share of images above that ratio. False boxes: those an image of no more than "
        "that ratio with every true box. AP and FROC also count false alarms on images without the finding; RoDeO "
        "judges what is called by place, shape and finding.",
        ["site", "finding", "arm", "n", "cut at", *MAP_COLUMNS.values()],
        rows,
    )


def _controls(content: Record) -> Table:
    found = {_key(r): r for r in content["localization"]}
    rows = []
    for site, arm, model in _arms(content["localization"]):
        for finding in dict.fromkeys(r["finding"] for r in content["localization"] if r["site"] == site):
            for metric in ("pointing_game", "iou", "ap@0.3", "rodeo"):
                record = found.get((arm, model, site, finding, metric))
                if record is not None and finding != MACRO:
                    beside = [_number(record[name]) for name in CONTROLS]
                    rows.append([_site(site), finding_name(finding), arm, MAP_COLUMNS[metric], _score(record), *beside])
    return Table(
        "maps",
        "Beside maps that cannot know",
        "Maps of noise, the mean box of other patients, one Gaussian in the middle, and maps of the same model with "
        "shuffled weights. A map that does not beat them explains nothing.",
        ["site", "finding", "arm", "figure", "value", *CONTROLS.values()],
        rows,
    )


def _map_tests(content: Record) -> Table:
    found = {
        (r["site"], r["finding"], _pair(r), r["metric"]): r
        for r in content["comparisons"]
        if r["metric"] in COMPARED_MAPS
    }
    rows = []
    for site, finding, arms in dict.fromkeys(key[:3] for key in found):
        chosen = [found.get((site, finding, arms, metric)) for metric in COMPARED_MAPS]
        n = max(r["n"] for r in chosen if r is not None)
        cells = [text for r in chosen for text in _difference_and_p(r)]
        rows.append([_site(site), finding_name(finding), arms, count(n), *cells])
    names = [MAP_COLUMNS[metric] for metric in COMPARED_MAPS]
    return Table(
        "maps",
        "Maps of the arms on the same images",
        "Difference with its 95 % interval of the patient bootstrap, each arm's maps cut at its own threshold; p "
        "corrected (Holm) within one figure. None for a finding with boxes on fewer than 10 images. More figures are "
        "in evaluation.json.",
        ["site", "finding", "arms", "n", *(text for name in names for text in (name, "p corrected"))],
        rows,
    )


def _difference_and_p(record: Record | None) -> list[str]:
    if record is None:
        return [NONE] * 2
    return [difference(record["value"], record["low"], record["high"]), p_value(record["p_holm"])]


def _checks(content: Record) -> Table:
    rows = []
    found = {(r["arm"], r["model"], r["site"], r["finding"], r["check"]): r for r in content["checks"]}
    for site, arm, model in _arms(content["checks"]):
        for finding in dict.fromkeys(r["finding"] for r in content["checks"] if r["site"] == site):
            chosen = [
                found.get((arm, model, site, finding, name)) for name in ("shuffled", "other_findings", "same_peak")
            ]
            if any(chosen):
                rows.append([_site(site), finding_name(finding), arm, *map(_score, chosen)])
    return Table(
        "maps",
        "Do maps follow the weights and the finding",
        "Rank correlation of a map with that of shuffled weights, and with the maps of the other findings on the same "
        f"image; share of those whose hottest cell is the same. All should be low: a correlation above {ALIKE:g} puts "
        "what the maps find in doubt.",
        ["site", "finding", "arm", "shuffled weights", "other findings", "same peak"],
        rows,
    )


def _erased(content: Record) -> Table:
    lesions, borders = (
        {(r["arm"], r["model"], r["site"], r["finding"]): r for r in content.get(name, [])}
        for name in ("lesions", "borders")
    )
    records = [*content.get("lesions", []), *content.get("borders", [])]
    rows = []
    for site, arm, model in _arms(records):
        for finding in dict.fromkeys(r["finding"] for r in records if r["site"] == site):
            key = (arm, model, site, finding)
            lesion, border = lesions.get(key), borders.get(key)
            if lesion is not None or border is not None:
                rows.append(
                    [
                        _site(site),
                        finding_name(finding),
                        arm,
                        judge(lesion, border).text,
                        *_losses(lesion),
                        *_borders(border),
                    ]
                )
    return Table(
        "erased",
        "Disease or site?",
        "Parts of test films are erased, that is filled smoothly from around. Without lesions: how far the log-odds "
        "of the finding fall when its true boxes are erased, and when equal boxes at the mirrored place are; n films. "
        "A model that looks at the disease loses more with the lesions. Border alone: AUROC of films of which only "
        "the outer tenth of each side is left, against negatives of the site, or of the other sites (*) where it has "
        "those of too few patients: scores are then ranked across sites, each under the statistics and head rows of "
        "its site. An AUROC wholly below 0.5 tells as much, inverted. What is told there is told by who made the "
        "film, how and of whom, unless the film is tightly cropped: its border then holds some lung. The share, with "
        "its range, is how far the AUROC of the border, and the ends of its interval, are from 0.5, as a part of how "
        "far that of whole films is; it counts partly unless its lower end is half or more.",
        [
            "site",
            "finding",
            "arm",
            "verdict",
            "n",
            "lesions",
            "elsewhere",
            "difference",
            "p corrected",
            "whole AUROC",
            "border alone",
        ],
        rows,
    )


def _losses(record: Record | None) -> list[str]:
    if record is None:
        return [NONE] * 5
    falls = [_number(record[name]).replace("-", MINUS) for name in ("lesions", "control")]
    beyond = difference(record["value"], record["low"], record["high"])
    return [count(record["n"]), *falls, beyond, p_value(record.get("p_holm"))]


def _borders(record: Record | None) -> list[str]:
    if record is None:
        return [NONE] * 2
    mark = "*" if record["negatives_of"] == "others" else ""
    whole = score(record["whole"], record["whole_low"], record["whole_high"])
    return [whole + mark, score(record["value"], record["low"], record["high"]) + mark]


def _calibration(content: Record) -> Table:
    found = {(r["arm"], r["model"], r["site"], r["finding"], r["correction"]): r for r in content["calibration"]}
    rows = []
    for site, arm, model in _arms(content["calibration"]):
        cells = [_score(found.get((arm, model, site, MACRO, name))) for name in CORRECTIONS]
        if set(cells) != {NONE}:
            rows.append([_site(site), arm, *cells])
    return Table(
        "calibration",
        "Expected calibration error",
        "Mean over findings of the distance between probability and frequency, lower is better; few images make it too "
        "high, and the interval, which is corrected for that, may lie below it. Temperature: one slope a finding, "
        "fitted on validation patients of the hospitals that taught the model. Prior: and one shift a site, fitted on "
        "its own validation patients.",
        ["site", "arm", "as predicted", "temperature", "and prior of the site"],
        rows,
    )


def _tests(every: Sequence[Record], what: str, title: str) -> Table:
    records = [r for r in every if r["finding"] == MACRO]
    rows = [
        [
            _site(r["site"]),
            _pair(r),
            (MAP_COLUMNS | METRIC_NAMES).get(r["metric"], str(r["metric"])),
            difference(r["value"], r["low"], r["high"]),
            p_value(r.get("p_delong", r["p"])),
            p_value(r["p_holm"]),
        ]
        for r in records
    ]
    tests = max((r["tests"] for r in records), default=0)
    return Table(
        "tests",
        title,
        "Macro over findings, 95 % intervals of the patient bootstrap. p: DeLong's for AUROC at one site, else the "
        "bootstrap's; corrected (Holm) within one metric, sites and means over sites apart, over up to "
        f"{tests} tests. A macro of "
        "one finding has the p of that finding, corrected over all single ones, which are in evaluation.json.",
        ["site", what.lower(), "figure", "difference", "p", "p corrected"],
        rows,
    )


def _ranks(content: Record) -> Table:
    rows = [
        [
            METRIC_NAMES[r["metric"]],
            arm,
            f"{rank:.2f}",
            f"{r['critical_difference']:.2f}",
            p_value(r["p"]),
            count(r["seeds"]),
        ]
        for r in content["ranks"]
        for rank, arm in sorted(zip(r["ranks"], r["arms"], strict=True))
    ]
    return Table(
        "tests",
        "Mean ranks of the arms over the seeds",
        "1 is best. Two arms differ where their ranks are further apart than the critical difference (Nemenyi, 5 %). "
        "It speaks of how training varies, on these test patients; few seeds cannot show much.",
        ["figure", "arm", "mean rank", "critical difference", "p (Friedman)", "seeds"],
        rows,
    )


def _arms(records: Sequence[Record]) -> Iterator[tuple[str, str, str]]:
    """Yield (site, arm, model) of what a site would use: local is its own model."""
    for site in dict.fromkeys(r["site"] for r in records):
        for arm, model in dict.fromkeys((r["arm"], r["model"]) for r in records):
            if arm != "local" or model == site:
                yield site, arm, model


def _lead(records: Sequence[Record]) -> str:
    arms = [str(r["arm"]) for r in records]
    return "federated" if "federated" in arms else next(iter(arms), "")


def _key(record: Record) -> tuple[str, ...]:
    return tuple(str(record[k]) for k in ("arm", "model", "site", "finding", "metric"))


def _score(record: Record | None) -> str:
    if record is None:
        return NONE
    text = score(record["value"], record["low"], record["high"]).replace("-", MINUS)
    return f"{text} (too few)" if record["value"] is not None and record["low"] is None else text


def _value(record: Record | None) -> str:
    return NONE if record is None else _number(record["value"])


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def p_value(value: float | None) -> str:
    """Return a p value as text."""
    return NONE if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _threshold(record: Record) -> str:
    return "Otsu" if record["threshold"] == "otsu" else f"{record['threshold']:g} ({count(record['images'])})"


def _pair(record: Record) -> str:
    names = [record["arm"], record["against"]]
    if "against_model" in record and "model" not in record:
        return f"{names[0]} − {names[1]} {record['against_model']}"
    if "model" in record and names[0] == names[1] == "local":
        return f"local {record['model']}"
    return f"{names[0]} − {names[1]}" if names[0] != names[1] or "model" not in record else names[0]


def _site(name: str) -> str:
    return "mean over sites" if name == MACRO else name


def finding_name(name: str) -> str:
    """Return a finding as text.

    >>> finding_name("Pleural_Thickening")
    'Pleural Thickening'
    """
    return "Macro" if name == MACRO else name.replace("_", " ")


def _text(table: Table) -> str:
    widths = [max(len(row[k]) for row in [table.head, *table.rows]) for k in range(len(table.head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [table.head, *table.rows]]
    return "\n".join([f"{table.title}:", *lines])
