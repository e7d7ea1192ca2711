"""The answer to the first question, in words made of a run's own figures: does one federated model tell and find?"""

from __future__ import annotations

from dataclasses import dataclass

from hilum.evaluation.bootstrap import FEWEST, FEWEST_OF_CLASS
from hilum.report.evaluation import finding_name
from hilum.report.evidence import classified, compared, failures, localized, tail, verdicts
from hilum.report.numbers import listing, plural, score
from hilum.report.read import RunDirectory
from hilum.report.results import METRICS, Results
from hilum.report.rows import DECIDED, FEDERATED, FOUND, IN_DOUBT, Row, figure_text, rows_of

OTHERS = {
    "local": "whether hospitals gain by joining",
    "pooled": "what is lost by leaving images where they are",
}


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
    rows = list(rows_of(run, results, arms))
    evidence = [
        ("Classification", classified(rows)),
        *((f"Federated against {arm}", compared(run, results, arm)) for arm in arms),
        ("Localization", localized(run, rows, arms)),
        ("Where localization fails", failures(run, rows)),
        ("Disease or site", verdicts(run)),
        ("Long tail", tail(run)),
    ]
    return Answer(
        _short(run, results, rows), [(title, said) for title, said in evidence if said], arms, rows, _missing(run, rows)
    )


def _short(run: RunDirectory, results: Results, rows: list[Row]) -> str:
    told = {row.finding for row in rows if row.told}
    asked = [f for f in run.run.findings if any(r.finding == f and r.told is not None for r in rows)]
    boxed = [f for f in run.run.findings if any(r.finding == f and r.found in DECIDED for r in rows)]
    found = {row.finding for row in rows if row.is_found}
    sure = {row.finding for row in rows if row.found == FOUND}
    start = {"phantom": "On phantoms: ", "mixed": "Partly on phantoms: "}.get(run.run.data, "")
    if not asked:
        return f"{start}Not answered: no finding has enough test patients of both classes."
    means = _means(run, results)
    if not boxed:
        what = f"{len(told)} of {plural(len(asked), 'finding')} told better than chance somewhere"
        few = f"no finding has boxes on {FEWEST} test images of {FEWEST_OF_CLASS} patients to say where"
        return " ".join([f"{start}Half answered: {what}, but {few}.", *means, *_limits(rows)])
    both, limits = [f for f in boxed if f in told and f in found], _limits(rows)
    measured, shown = [r for r in rows if r.told is not None], [r for r in rows if r.found in DECIDED]
    everywhere = all(row.told for row in measured) and all(row.is_found for row in shown)
    whole = both == boxed and len(told) == len(asked) and everywhere and not limits
    word = "Yes" if whole else "In part" if both else "Not shown"
    doubtful = len(found - sure)
    said = (
        f"{start}{word}. The federated model tells {len(told)} of {plural(len(asked), 'finding')} better than chance "
        f"at some site, and its maps find {len([f for f in boxed if f in found])} of the {len(boxed)} with enough boxes"
        f"{f' ({doubtful} in doubt)' if doubtful else ''}. "
        f"Both: {'; '.join(_both(rows, f) for f in both) or 'none'}. Of pairs of finding and site, "
        f"{sum(bool(row.told) for row in measured)} of {len(measured)} are told, and in "
        f"{sum(row.is_found for row in shown)} of {len(shown)} with enough boxes lesions are found."
    )
    return " ".join([said, *means, *limits])


def _means(run: RunDirectory, results: Results) -> list[str]:
    """Return a sentence of the macro figures over the training sites, of the federated arm and the others."""
    shared, parts = results.shared, []
    for metric, name in METRICS.items():
        means = {arm: results.mean(arm, metric) for arm in (FEDERATED, *OTHERS) if arm in run.run.arms}
        if means[FEDERATED].value is not None:
            beside = ", ".join(f"{arm} {score(mean.value)}" for arm, mean in means.items() if arm != FEDERATED)
            parts.append(f"{name} {figure_text(means[FEDERATED])}" + (f" ({beside})" if beside else ""))
    return [f"Macro, mean over {plural(len(shared), 'training site')}: {'; '.join(parts)}."] if parts else []


def _limits(rows: list[Row]) -> list[str]:
    """Return what forbids a plain yes: ranked the wrong way round, perhaps the site that is told, maps in doubt."""
    found = {row.finding for row in rows if row.is_found}
    below = [f"{row.place} ({figure_text(row.auroc)})" for row in rows if row.below]
    seen = [row for row in rows if row.finding in found or row.told]
    blind = [f"{row.place} ({row.verdict})" for row in seen if row.verdict.startswith(("partly", "border", "site"))]
    joint = ("disease, partly", "disease and")
    both = [f"{row.place} ({row.verdict})" for row in seen if row.verdict.startswith(joint)]
    half = [row.place for row in seen if row.verdict == "disease, border not tested"]
    untold = [row.place for row in seen if row.is_found and row.verdict.startswith(("open", "not known"))]
    untested = [row.place for row in seen if row.is_found and not row.verdict]
    doubted = [f"{row.place}, {' and '.join(row.likeness)}" for row in rows if row.found == IN_DOUBT]
    said = [f"Below 0.5: {'; '.join(below)}."] if below else []
    said += [f"Found, but in doubt: {'; '.join(doubted)}."] if doubted else []
    if blind:
        said.append(f"Told at least in part by the border of the film, lesions not shown to count: {'; '.join(blind)}.")
    if both:
        said.append(f"Lesions count, and so does the border of the film: {'; '.join(both)}.")
    if half:
        said.append(f"Lesions count; whether the border of the film does too could not be tested: {'; '.join(half)}.")
    if untold:
        said.append(f"Neither lesions nor the border of the film are shown to count: {'; '.join(untold)}.")
    if untested:
        where = f": {'; '.join(untested)}" if any(row.verdict for row in rows) else ""
        said.append(f"Not tested whether it is the disease or the site{where}.")
    return said


def _both(rows: list[Row], finding: str) -> str:
    told = [row.site for row in rows if row.finding == finding and row.told]
    found = [row.site for row in rows if row.finding == finding and row.is_found]
    return f"{finding_name(finding)} (told at {listing(told)}, found at {listing(found)})"


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
    if facts.donor == "unknown":
        said.append("No run tells all that the donor of the first weights has seen: test patients may be among it.")
    if run.evaluation is None:
        said.append(
            "Not evaluated: 'hilum evaluate' adds the tail, more controls, p values corrected for the number of "
            "comparisons, and the tests of disease or site."
        )
        return said
    if not run.evaluation.get("erased"):
        said.append("No films with erased parts: whether the disease was learnt or the site is not tested.")
    if not run.evaluation.get("validation"):
        said.append(
            "Nothing of validation patients: maps are cut by Otsu's method, and probabilities and the scores of boxes "
            "are as they come."
        )
    return said
