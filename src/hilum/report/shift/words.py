"""In words: what differs most between the sites, and what to expect of it. The same figures give the same words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hilum.report.numbers import MINUS, listing, percent, plural
from hilum.report.shift.read import KIND_NAMES, MEASURE_NAMES, ShiftFigures

LINEAR = "a_distance_linear"
FEW_PATIENTS = 50

PATIENTS = (
    ("age", 1.0, "Age: patients of {a} are {value:.0f} years older than those of {b}"),
    ("male", 100.0, "Sex: of the patients of {a}, {value:.0f} percentage points more are men than at {b}"),
)

Pair = tuple[str, str]


def lede(shift: ShiftFigures) -> str:
    """Return the answer in one sentence."""
    kind, pairs = shift.kinds[-1], shift.pairs
    clear = [pair for pair in pairs if shift.clear(kind, *pair)]
    beyond = "beyond what two halves of one site differ"
    alone = len(pairs) - len(shift.controlled(kind))
    if alone == len(pairs):
        return "No pair of sites has a control, for want of patients: whether their images differ cannot be told."
    if alone:
        lacking = plural(alone, "pair has no control", "pairs have no control")
        return (
            f"The images of {len(clear)} of {plural(len(pairs) - alone, 'pair')} of sites with a control can be told "
            f"apart, {beyond}; {lacking}."
        )
    if len(clear) == len(pairs):
        every = "every pair" if len(pairs) > 1 else "the pair"
        return f"The images of {every} of sites can be told apart, {beyond}."
    if clear:
        return f"The images of {len(clear)} of {plural(len(pairs), 'pair')} of sites can be told apart, {beyond}."
    return f"The images of no pair of sites can be told apart {beyond}."


def findings(shift: ShiftFigures) -> list[str]:
    """Return what differs, from the images to the patients; each sentence names its figures."""
    parts: list[Callable[[ShiftFigures], list[str]]] = [_farthest, _controls, _scanner, _beyond, _labels, _patients]
    return [sentence for part in parts for sentence in part(shift)]


def expectations(shift: ShiftFigures) -> list[str]:
    """Return what the figures let one expect, and what they cannot tell."""
    notes = [*_damage(shift)]
    if any(shift.clear(shift.kinds[-1], *pair) for pair in shift.pairs):
        notes.append(
            "Expect a model of one site to lose at another, and look at every site's own test figures, not at their "
            "mean. Where grey levels already differ, keep statistics of normalization at the sites "
            "(federation.normalization: site)."
        )
    notes.append(
        "A distance says that sites differ, not why: a disease that one site has more of darkens or brightens its "
        "images, too. Compare the columns: grey levels know exposure and processing, 16 × 16 cells add framing and "
        "anatomy, a trunk adds texture, markers and devices, labels know no image at all."
    )
    few = [s["name"] for s in shift.content["sites"] if s["drawn_patients"] < FEW_PATIENTS]
    if few:
        notes.append(f"Fewer than {FEW_PATIENTS} patients at {listing(few)}: those intervals are wide.")
    if shift.content["data"] != "real":
        notes.append("Some or all images are synthetic: the figures show that the software works, nothing of patients.")
    return notes


def _text(shift: ShiftFigures, kind: str, pair: Pair) -> str:
    figure = shift.of(kind, LINEAR, *pair)
    if figure.value is None:
        return "–"
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def by_distance(shift: ShiftFigures, kind: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that have an A-distance, the farthest first."""
    known = [pair for pair in pairs if shift.of(kind, LINEAR, *pair).value is not None]
    return sorted(known, key=lambda pair: (-(shift.of(kind, LINEAR, *pair).value or 0.0), pair))


def _name(pair: Pair) -> str:
    return f"{pair[0]} and {pair[1]}"


def _farthest(shift: ShiftFigures) -> list[str]:
    kind = shift.kinds[-1]
    order = by_distance(shift, kind, shift.pairs)
    if not order:
        return []
    first, last = order[0], order[-1]
    error = (2 - (shift.of(kind, LINEAR, *first).value or 0.0)) / 4
    sentence = (
        f"Farthest apart on the {KIND_NAMES[kind].lower()}: {_name(first)}, A-distance {_text(shift, kind, first)} of "
        f"at most 2. A linear classifier that has not seen the patients takes {100 * error:.1f} % of their images for "
        "the other site's."
    )
    nearest = f"Nearest: {_name(last)}, {_text(shift, kind, last)}."
    return [f"{sentence} {nearest}" if len(order) > 1 else sentence]


def _controls(shift: ShiftFigures) -> list[str]:
    kind = shift.kinds[-1]
    halves = [(shift.of(kind, LINEAR, site, site), site) for site in shift.sites]
    known = [(half.value, site) for half, site in halves if half.value is not None]
    absent = [site for half, site in halves if half.value is None]
    sentences = []
    if known:
        value, site = max(known)
        sentences = [
            f"What no shift looks like: two halves of one site's patients differ by {value:.2f} at most ({site})."
        ]
    if absent:
        sentences.append(f"Too few patients to halve: {listing(absent)}.")
    return sentences


def _scanner(shift: ShiftFigures) -> list[str]:
    if "histogram" not in shift.kinds:
        return []
    controlled = shift.controlled("histogram")
    clear = [pair for pair in controlled if shift.clear("histogram", *pair)]
    if not controlled:
        return []
    if not clear:
        return ["Grey levels alone do not tell any pair apart beyond what two halves of one site differ."]
    order = by_distance(shift, "histogram", clear)
    least = f", least {_name(order[-1])}, {_text(shift, 'histogram', order[-1])}" if len(order) > 1 else ""
    return [
        f"Scanner and processing: grey levels alone, without any shape, tell {len(clear)} of "
        f"{plural(len(controlled), 'pair')} apart (most {_name(order[0])}, "
        f"{_text(shift, 'histogram', order[0])}{least})."
    ]


def _beyond(shift: ShiftFigures) -> list[str]:
    """Return where a kind separates sites beyond what the kind before it does."""
    steps = (
        ("pixels", "histogram", "Framing and anatomy: the image on 16 × 16 cells tells", "grey levels"),
        (
            shift.kinds[-1],
            "pixels",
            f"Texture, markers, devices: the {KIND_NAMES[shift.kinds[-1]].lower()} tells",
            "the cells",
        ),
    )
    sentences = []
    for kind, before, what, than in steps:
        if kind == before or kind not in shift.kinds or before not in shift.kinds:
            continue
        more = [pair for pair in shift.pairs if _exceeds(shift, kind, before, pair)]
        tail = ""
        if more:
            best = max(more, key=lambda p: _value(shift, kind, p) - _value(shift, before, p))
            tail = f", most so {_name(best)} ({_value(shift, before, best):.2f} → {_value(shift, kind, best):.2f})"
        sentences.append(f"{what} {len(more)} of {plural(len(shift.pairs), 'pair')} apart better than {than} do{tail}.")
    return sentences


def _value(shift: ShiftFigures, kind: str, pair: Pair) -> float:
    return shift.of(kind, LINEAR, *pair).value or 0.0


def _exceeds(shift: ShiftFigures, kind: str, before: str, pair: Pair) -> bool:
    now, then = shift.of(kind, LINEAR, *pair), shift.of(before, LINEAR, *pair)
    return now.low is not None and then.high is not None and now.low > then.high


def _labels(shift: ShiftFigures) -> list[str]:
    shared = [pair for pair in shift.pairs if (shift.matrix("shared", *pair) or 0) > 0]
    sentences = []
    if shared:
        far = max(shared, key=lambda pair: (shift.matrix("bernoulli", *pair) or 0.0, pair))
        sentences.append(
            f"Labels: the prevalences of {_name(far)} differ most, Bernoulli distance "
            f"{shift.matrix('bernoulli', *far) or 0.0:.2f} of at most 2 over "
            f"{plural(int(shift.matrix('shared', *far) or 0), 'finding')} that both label{_ratio(shift, far)}."
        )
    alone = len(shift.pairs) - len(shared)
    if alone:
        sentences.append(f"{plural(alone, 'pair shares', 'pairs share')} no finding that both label.")
    return sentences


def _ratio(shift: ShiftFigures, pair: Pair) -> str:
    ratios = [r for r in shift.content["labels"]["ratios"] if {r["a"], r["b"]} == set(pair) and r["value"] is not None]
    known = [r for r in ratios if r["value"] > 0]
    if not known:
        return ""
    far = max(known, key=lambda r: (max(r["value"], 1 / r["value"]), r["finding"]))
    high = f"{far['high']:.2f}" if far["high"] is not None else "∞"
    return (
        f"; {far['finding'].replace('_', ' ')} is {far['value']:.2f} [{far['low']:.2f}, {high}] times as frequent at "
        f"{far['a']} as at {far['b']}"
    )


def _patients(shift: ShiftFigures) -> list[str]:
    rows: list[dict[str, Any]] = list(shift.content["demographics"])
    sentences = []
    for part, unit, phrase in PATIENTS:
        known = [row for row in rows if row[part]["value"] is not None and row[part]["low"] is not None]
        if known:
            far = max(known, key=lambda row: (abs(row[part]["value"]), row["a"], row["b"]))
            sentences.append(_difference(far, part, unit, phrase))
            continue
        both = any(row[part]["n_a"] and row[part]["n_b"] for row in rows)
        why = "too few patients, or too like each other, for an interval" if both else "no two sites record it"
        sentences.append(f"{phrase.partition(':')[0]} cannot be compared: {why}.")
    views = [(abs(v["value"]), name, row) for row in rows for name, v in row["views"].items() if v["value"] is not None]
    if views:
        _, name, row = max(views, key=lambda one: (one[0], one[1]))
        shares = row["views"][name]
        sentences.append(
            f"Views differ most between {row['a']} and {row['b']}: {percent(shares['a'], 1)} and "
            f"{percent(shares['b'], 1)} of their images with a stated view are {name}."
        )
    return sentences


def _difference(row: dict[str, Any], part: str, unit: float, phrase: str) -> str:
    a, b = row["a"], row["b"]
    value, low, high = (unit * row[part][end] for end in ("value", "low", "high"))
    if value < 0:
        a, b, value, low, high = b, a, -value, -high, -low
    beyond = "" if low > 0 else ", an interval that includes no difference"
    return f"{phrase.format(value=value, a=a, b=b)} [{low:.0f}, {high:.0f}]{beyond}.".replace("[-", f"[{MINUS}")


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)


def _damage(shift: ShiftFigures) -> list[str]:
    damage = shift.content["damage"]
    if damage is None:
        return []
    n = len(damage["losses"])
    pairs = len({frozenset((loss["trained"], loss["tested"])) for loss in damage["losses"]})
    where = f"{plural(n, 'direction')} of {plural(pairs, 'pair')} of sites"
    known = [c for c in damage["correlations"] if c["value"] is not None]
    if not known:
        return [
            f"Whether distance predicts damage cannot be told of this study: only {where} have an AUROC of one finding "
            "at both ends."
        ]
    best = [c for c in known if (c["kind"], c["measure"]) == (shift.kinds[-1], LINEAR)] or known[:1]
    one = best[0]
    shown = one["p"] is not None and one["p"] < 0.05
    features, measure = KIND_NAMES.get(one["kind"], "Labels").lower(), MEASURE_NAMES.get(one["measure"], "")
    return [
        f"Does distance predict damage? Rank correlation of {measure} ({features}) and loss of AUROC "
        f"{_signed(one['value'])} [{_signed(one['low'])}, {_signed(one['high'])}], p {one['p']:.3f} over {where}: "
        f"{'in this study it does' if shown else 'this study does not show that it does'}."
    ]
