"""The first screen: what was compared, the main result and what to bear in mind, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from hilum.report.cohorts import label_spaces, one_class_sites, unlabelled_sites
from hilum.report.numbers import count, listing, plural, score
from hilum.report.read import MACRO, RunDirectory, SiteFacts
from hilum.report.results import METRICS, Figure, Results, above_controls, mean_over
from hilum.report.rows import BETTER, FEDERATED, POINTING, WORSE, in_words, mean_against, word_of

FEW_POSITIVES = 20
NAMED_ARMS = ("local", "pooled", "federated")
MOST_NAMED = 4
ADJUSTED = {
    "none": "",
    "sites": ", by models that average over the training sites (evaluation.adjust)",
    "images": ", by models with statistics of its images (evaluation.adjust)",
}


@dataclass(frozen=True)
class Headline:
    """One arm's row of the first table, by metric; ``against`` is federated minus this arm, empty for federated.

    ``p``: of these differences, corrected for the number of comparisons, where the run was evaluated.
    """

    arm: str
    means: Mapping[str, Figure]
    against: Mapping[str, Figure]
    p: Mapping[str, float]
    pointing: list[Figure]


@dataclass(frozen=True)
class Summary:
    """What the first screen shows."""

    compared: list[str]
    results: list[str]
    rows: list[Headline]
    sites: list[str]
    boxed: list[str]
    controls: tuple[list[Figure], list[Figure]]
    cautions: list[str]


def summarise(run: RunDirectory, results: Results) -> Summary:
    """Return the first screen: figures of ``metrics.json``, their means over sites, tests of the evaluation."""
    shared = results.shared
    boxed = [s for s in run.sites if any(_pointing(results, arm, s).n for arm in run.run.arms)]
    rows = [_headline(run, arm, shared, boxed, results) for arm in run.run.arms]
    best = {s.name: _pointing(results, _lead(run), s) for s in boxed}
    controls = tuple([_control(best[s.name], i) for s in boxed] for i in (0, 1))
    sentences = [*_scores(run, rows, shared), *_outside(run, results), *_localized(run, boxed, best)]
    return Summary(
        _compared(run, results),
        sentences,
        rows,
        [s.name for s in shared],
        [s.name for s in boxed],
        (controls[0], controls[1]),
        _cautions(run, results),
    )


def _control(figure: Figure, which: int) -> Figure:
    value = figure.controls[which]
    return Figure(value, n=figure.n, reason="not computed" if value is None else "")


def _headline(
    run: RunDirectory, arm: str, shared: list[SiteFacts], boxed: list[SiteFacts], results: Results
) -> Headline:
    means = {m: results.mean(arm, m) for m in METRICS}
    pointing = [_pointing(results, arm, s) for s in boxed]
    if arm == FEDERATED:
        return Headline(arm, means, {}, {}, pointing)
    every = {m: mean_against(run, arm, MACRO, run.run.findings, m) for m in METRICS}
    tested = {m: r for m, r in every.items() if r is not None}
    against = {
        m: Figure(r["value"], r["low"], r["high"])
        if (r := tested.get(m)) is not None
        else _mean_difference(arm, shared, results, m)
        for m in METRICS
    }
    p = {m: r["p_holm"] for m, r in tested.items() if r["p_holm"] is not None}
    return Headline(arm, means, against, p, pointing)


def _mean_difference(arm: str, shared: list[SiteFacts], results: Results, metric: str) -> Figure:
    parts = [results.difference(arm, s.name, MACRO, metric) for s in shared]
    complete = bool(parts) and all(p.value is not None for p in parts)
    return mean_over(parts) if complete else Figure(reason="not computed at every site")


def _pointing(results: Results, arm: str, site: SiteFacts) -> Figure:
    return results.of_arm(arm, site, MACRO, POINTING)


def _lead(run: RunDirectory) -> str:
    return FEDERATED if FEDERATED in run.run.arms else run.run.arms[0]


def _compared(run: RunDirectory, results: Results) -> list[str]:
    facts, unlabelled = run.run, unlabelled_sites(run)
    outside = [s for s in run.sites if s.outside and s not in unlabelled]
    ways = {
        "local": "local (each hospital trains alone, on its own images)",
        "pooled": "pooled (all images in one place, which hospitals may not be able to do)",
        "federated": "federated (images stay where they are; only model updates travel)",
    }
    many = len(facts.findings) > MOST_NAMED
    findings = plural(len(facts.findings), "finding") if many else listing(facts.findings)
    first = (
        f"One model for {findings} was trained in {plural(len(facts.arms), 'way')}: "
        f"{'; '.join([ways[arm] for arm in facts.arms if arm in ways] + _further_named(facts.arms))}."
    )
    where = f"Training used {plural(len(results.training), 'site')} ({listing([s.name for s in results.training])})"
    if outside:
        were = "was" if len(outside) == 1 else "were"
        where += (
            f"; {listing([s.name for s in outside])} {were} never trained on and only tested{ADJUSTED[facts.adjust]}"
        )
    if unlabelled:
        label = "labels" if len(unlabelled) == 1 else "label"
        where += (
            f"; {listing([s.name for s in unlabelled])} {label} none of the findings, so that nothing there is tested"
        )
    where += "." if outside or unlabelled else "; no site was kept outside."
    seeds = f"Everything was repeated with {plural(len(facts.seeds), 'random seed')}."
    return [first, f"{where} {seeds} Every figure below is on test patients that no model was trained on."]


def _further(arms: Sequence[str]) -> list[str]:
    """Return the federations beside the three arms that every study may have."""
    return [arm for arm in arms if arm not in NAMED_ARMS]


def _further_named(arms: Sequence[str]) -> list[str]:
    further = _further(arms)
    return [f"{plural(len(further), 'further federation')} ({listing(further)})"] if further else []


def _scores(run: RunDirectory, rows: list[Headline], shared: list[SiteFacts]) -> list[str]:
    if not shared:
        return ["No training site has a macro figure under every arm, so the arms have no common mean."]
    names = {"local": "each site's own local model", "pooled": "the pooled model"}
    named = [r for r in _federated_first(rows) if r.arm in NAMED_ARMS]
    where = f"{plural(len(shared), 'training site')} where every arm has one ({listing([s.name for s in shared])})"
    sentences = []
    for metric, name in METRICS.items():
        parts = [f"{names.get(r.arm, f'the {r.arm} model')} {_text(r.means[metric])}" for r in named]
        sentences.append(f"Macro {name}, mean over the {where}: {', '.join(parts)}.")
        where = "same sites"
    for row in named:
        parts = [f"{METRICS[m]} {in_words(d, row.p.get(m))}" for m, d in row.against.items() if d.value is not None]
        if parts:
            sentences.append(f"Federated minus {row.arm}, on the same patients: {'; '.join(parts)}.")
    return sentences + _against_further([r for r in rows if r.arm not in NAMED_ARMS])


def _against_further(rows: list[Headline]) -> list[str]:
    """Say in one sentence whom the federated arm beats, and who beats it, of the further federations."""
    main = next(iter(METRICS))
    words = {
        row.arm: word_of(d.low, d.high, row.p.get(main))
        for row in rows
        if (d := row.against.get(main)) is not None and d.low is not None and d.high is not None
    }
    if not words:
        return []
    parts = [
        f"{word} than {listing(arms)}"
        for word in (BETTER, WORSE)
        if (arms := [arm for arm, said in words.items() if said == word])
    ]
    rest = sum(word not in (BETTER, WORSE) for word in words.values())
    parts += [f"no difference shown from {'the other ' if parts else ''}{rest}"] if rest else []
    how = "p is" if any(row.p for row in rows) else "the intervals are not"
    return [
        f"Federated beside {plural(len(words), 'further federation')}, by macro {METRICS[main]} on the same patients: "
        f"{'; '.join(parts)}. The table has the figures; {how} corrected for their number."
    ]


def _federated_first(rows: list[Headline]) -> list[Headline]:
    order = {"federated": 0, "pooled": 1, "local": 2}
    return sorted(rows, key=lambda r: order.get(r.arm, 3))


def _outside(run: RunDirectory, results: Results) -> list[str]:
    sentences = []
    for site in (s for s in run.sites if s.outside):
        named = [arm for arm in run.run.arms if arm in NAMED_ARMS] or run.run.arms
        said, why = [], "not computed"
        for metric, name in METRICS.items():
            figures = {arm: results.of_arm(arm, site, MACRO, metric) for arm in named}
            parts = [f"{arm} {_text(f)}" for arm, f in figures.items() if f.value is not None]
            why = next((f.reason for f in figures.values() if f.reason), why)
            said += [f"macro {name} {', '.join(parts)}"] if parts else []
        sentences.append(f"At the outside site {site.name}: {'; '.join(said) or f'no macro figure ({why})'}.")
    return sentences


def _localized(run: RunDirectory, boxed: list[SiteFacts], best: dict[str, Figure]) -> list[str]:
    known = [(s, f) for s in boxed if (f := best[s.name]).value is not None]
    if not known:
        return ["No test image has a true box with a heat map, so localization could not be measured."]
    parts = []
    for site, figure in known:
        names = ("random_map", "centre_prior")
        controls = {name: c for name, c in zip(names, figure.controls, strict=True) if c is not None}
        verdict = ""
        if controls and figure.low is not None:
            above = above_controls(figure.low, figure.excess_low, controls)
            verdict = f", {'' if above else 'not shown to be '}above every control, the middle of the image among them"
        parts.append(
            f"{score(figure.value, figure.low, figure.high)} at {site.name} "
            f"(n {count(figure.n)}; random map {score(figure.controls[0])}, "
            f"centre prior {score(figure.controls[1])}{verdict})"
        )
    return [
        f"Pointing game, the share of images whose hottest map point lies in a true box, "
        f"{_lead(run)} model: {'; '.join(parts)}."
    ]


def _cautions(run: RunDirectory, results: Results) -> list[str]:
    notes = []
    if run.run.data != "real":
        what = "All images are" if run.run.data == "phantom" else "Some sites hold images that are"
        notes.append(f"{what} synthetic. Their figures show that the software works, nothing about patients.")
    field, size = run.run.model.get("receptive_field"), run.run.input_size
    if field is not None and field >= size:
        notes.append(
            f"A cell of a heat map sees {count(field)} px and the network's square has {count(size)} px: every cell "
            "may draw on the whole image, so that a hot cell does not prove that the finding lies there."
        )
    if FEDERATED in run.run.arms and yaml.safe_load(run.study).get("federation", {}).get("head") == "site":
        notes.append(
            "In the federated arm a hospital keeps head rows of its own: its figures there are of a personalized "
            "model, which the pooled arm is not. An image from elsewhere meets the rows of the hospitals that it looks "
            "like, so how strong its map is depends on the whole image."
        )
    if len(run.run.seeds) < 3:
        notes.append(f"Only {plural(len(run.run.seeds), 'seed')}: how much training itself varies is hardly covered.")
    if FEDERATED not in run.run.arms:
        notes.append("No federated arm: this run does not say whether one model of all hospitals tells and finds.")
    one_class = one_class_sites(run)
    if one_class:
        notes.append(
            f"{listing([s.name for s in one_class])} {'hold' if len(one_class) > 1 else 'holds'} positives "
            "only. No average precision or AUROC exists there, and a pooled figure could be won by telling hospitals "
            "apart."
        )
    blank = sum(not cell.known for row in label_spaces(run).values() for cell in row)
    if blank:
        total = len(run.run.findings) * len(run.sites)
        notes.append(
            f"{count(blank)} of {plural(total, 'pair')} of site and finding are unlabelled. Unknown is not "
            "negative: those images neither train nor test that finding."
        )
    few = [s.name for s in run.sites if _has_few(results, s)]
    if few:
        notes.append(f"Fewer than {FEW_POSITIVES} positives or negatives in a test at {listing(few)}.")
    return [*notes, "A research result. Not a medical device, not for decisions about patients."]


def _has_few(results: Results, site: SiteFacts) -> bool:
    records = [s for s in results.run.scores if s.site == site.name and s.finding != MACRO and s.value is not None]
    return any(r.positives is not None and min(r.positives, r.n - r.positives) < FEW_POSITIVES for r in records)


def _text(figure: Figure) -> str:
    if figure.spread:
        return (
            f"{score(figure.value)} (mean of {plural(len(figure.spread), 'model')}, "
            f"{min(figure.spread):.2f} to {max(figure.spread):.2f})"
        )
    return score(figure.value, figure.low, figure.high)
