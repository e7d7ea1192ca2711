"""A run directory, and perhaps another, → evaluation.json: every figure again, with what was fitted on validation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hilum.errors import RunError
from hilum.evaluation.bootstrap import LEVEL, MACRO
from hilum.evaluation.calibration import Correction
from hilum.evaluation.long_tail import tail_groups
from hilum.progress import progress
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.evaluation.calibration import calibrate
from hilum.study.evaluation.comparisons import (
    MeasuredMaps,
    against_chance,
    compare_groups,
    compare_maps,
    compare_scores,
    measure_maps,
    rank_arms,
    with_families,
)
from hilum.study.evaluation.erasing import border_records, lesion_records, with_corrected_lesions
from hilum.study.evaluation.localization import Localization
from hilum.study.evaluation.tuning import Tuned, tune
from hilum.study.figures import classify
from hilum.study.outcomes import Outcomes, Scores
from hilum.study.run import load_run_study

NAME = "evaluation.json"
Record = dict[str, Any]
Group = tuple[str, str]


@dataclass(frozen=True)
class Evaluated:
    """A run as it is evaluated: its models by (arm, model), a seed each, and what was tuned of each."""

    outcomes: Outcomes
    groups: dict[Group, list[ModelKey]]
    tuned: dict[Group, dict[str, Tuned]]

    @property
    def name(self) -> str:
        """Folder of the run."""
        return self.outcomes.run.root.name


def evaluate_run(root: Path, against: Path | None = None, out: Path | None = None) -> Path:
    """Write ``evaluation.json`` into the run, or into ``out``, and return its path.

    ``against``: another run of the same test patients, from which the first is compared arm by arm. Raises ``RunError``
    for a directory that is no finished run, or two runs that have no site, finding or arm in common.
    """
    run = read_evaluated(root)
    other = read_evaluated(against) if against is not None else None
    pairs = shared_groups(run, other) if other is not None else []
    outcomes = run.outcomes
    positives = training_positives(outcomes)
    content: dict[str, Any] = {
        "schema": 1,
        "study": outcomes.study.name,
        "resamples": outcomes.study.evaluation.resamples,
        "level": LEVEL,
        "groups": tail_groups(positives),
        "training_positives": positives,
        "erased": any(outcomes.erased(keys, s) is not None for keys in run.groups.values() for s in outcomes.sites),
        "validation": any(outcomes.holds(keys, s, "val") for keys in run.groups.values() for s in outcomes.training),
    }
    for name in ("thresholds", "classification", "localization", "checks", "lesions", "borders", "calibration"):
        content[name] = []
    localization = Localization(outcomes)
    with progress("evaluating", len(run.groups) + 1) as advance:
        for (arm, model), keys in run.groups.items():
            head = {"arm": arm, "model": model, "seeds": len(keys)}
            for name, records in _figures(run, (arm, model), localization, content["groups"]):
                content[name] += [{**head, **record} for record in records]
            advance(1, f"{arm}/{model}")
        content["lesions"] = with_corrected_lesions(content["lesions"])
        content["comparisons"] = with_families([*_within(run), *_over_sites(run, content["groups"])])
        content["ranks"] = list(rank_arms(outcomes, run.groups))
        if other is not None:
            content["against"] = other.name
            content["differences"] = with_families(list(_between(run, other, pairs)))
    target = RunDirectory(out) if out is not None else outcomes.run
    target.write_json(NAME, content)
    if not content["validation"] and outcomes.study.split.val:
        print(
            f"hilum: {outcomes.run.root} keeps nothing of validation patients: maps are cut by Otsu's method, and "
            f"probabilities are not corrected. 'hilum study {outcomes.run.study} --out {outcomes.run.root} --resume' "
            "adds them where the images are.",
            file=sys.stderr,
        )
    if not content["erased"] and outcomes.study.evaluation.erased:
        print(
            f"hilum: {outcomes.run.root} keeps no films with erased parts, which tell disease from site. 'hilum study "
            f"{outcomes.run.study} --out {outcomes.run.root} --resume' adds them where the images are.",
            file=sys.stderr,
        )
    return target.root / NAME


def read_tuned(run: RunDirectory, key: ModelKey) -> dict[str, Tuned]:
    """Return finding → what ``evaluate_run`` has tuned of an arm's models, all seeds together; nothing before it ran.

    Raises ``RunError`` where ``evaluation.json`` is damaged.
    """
    if not (run.root / NAME).is_file():
        return {}
    content = run.read_json(NAME)
    try:
        records = [r for r in content["thresholds"] if (r["arm"], r["model"]) == (key.arm, key.model)]
        return {
            r["finding"]: Tuned(
                r["threshold"],
                r["images"],
                float("nan") if r["call"] is None else r["call"],
                Correction(**r["box_score"]),
            )
            for r in records
        }
    except (KeyError, TypeError) as error:
        raise RunError(
            f"Expected thresholds of every model in {run.root / NAME}; the file is damaged ({error!r}). "
            f"Run 'hilum evaluate {run.root}' again."
        ) from None


def read_evaluated(root: Path) -> Evaluated:
    """Return a run with its models and what their validation patients say; raises ``RunError``."""
    run = RunDirectory(root)
    study = load_run_study(run)
    if run.read_json("run.json").get("finished") is None:
        raise RunError(
            f"Expected a finished run in {root}; it is not. Finish it with 'hilum study {run.study} --out {root} "
            "--resume'."
        )
    outcomes = Outcomes(study, run)
    training = [name for name, role in outcomes.roles.items() if role == "training"]
    groups = {
        (arm, model): [ModelKey(seed, arm, model) for seed in study.seeds]
        for arm in study.arms
        for model in (training if arm == "local" else [arm])
    }
    for keys in groups.values():
        for site in outcomes.sites:
            outcomes.scores(keys, site)
    return Evaluated(outcomes, groups, {group: tune(outcomes, keys) for group, keys in groups.items()})


def shared_groups(run: Evaluated, other: Evaluated) -> list[tuple[Group, Group]]:
    """Return the arms that two runs have in common, or the only arm of each; raises ``RunError`` for none."""
    same = [(group, group) for group in run.groups if group in other.groups]
    if not same and len(run.groups) == len(other.groups) == 1:
        same = [(next(iter(run.groups)), next(iter(other.groups)))]
    findings = [f for f in run.outcomes.study.findings if f in other.outcomes.study.findings]
    sites = [s for s in run.outcomes.sites if s in other.outcomes.sites]
    for kind, common, one, two in (
        ("an arm", same, run.outcomes.study.arms, other.outcomes.study.arms),
        ("a finding", findings, run.outcomes.study.findings, other.outcomes.study.findings),
        ("a site with test patients", sites, run.outcomes.sites, other.outcomes.sites),
    ):
        if not common:
            raise RunError(
                f"Expected {kind} that both runs have; found {', '.join(one)} in {run.name} and {', '.join(two)} in "
                f"{other.name}. Give another --against."
            )
    for site in sites:
        ours, theirs = (o.outcomes.table("labels", site)[["image_id", "patient"]] for o in (run, other))
        if not ours.equals(theirs):
            raise RunError(
                f"Expected the same test patients in both runs; found others in {other.name} at {site}. Compare runs "
                "of one split: the same databases, and the same 'split' in the study file."
            )
        for finding in findings:
            _require_same_truth(run, other, site, finding)
    return same


def _require_same_truth(run: Evaluated, other: Evaluated, site: str, finding: str) -> None:
    """Refuse to compare models that are measured by other labels or boxes; what one run does not know is no other."""
    known = [o.outcomes.table("labels", site)[finding].isin([0, 1]) for o in (run, other)]
    labels = [o.outcomes.table("labels", site)[finding][known[0] & known[1]] for o in (run, other)]
    boxes = [_boxes(o.outcomes, site, finding) for o in (run, other)]
    for what, differ, remedy in (
        ("labels", (labels[0] != labels[1]).any(), "the same 'label_policy' and 'closure'"),
        ("boxes", all(map(len, boxes)) and boxes[0] != boxes[1], "the same files of the database"),
    ):
        if differ:
            raise RunError(
                f"Expected the same {what} of the test images in both runs; found others of {finding} in {other.name} "
                f"at {site}. Compare runs of one truth: {remedy}."
            )


def _boxes(outcomes: Outcomes, site: str, finding: str) -> list[tuple[Any, ...]]:
    table = outcomes.table("boxes", site)
    chosen = table.loc[table["finding"] == finding, ["image_id", "x0", "y0", "x1", "y1"]]
    return sorted(chosen.round(6).itertuples(index=False, name=None))


def training_positives(outcomes: Outcomes) -> dict[str, int]:
    """Return finding → training images that show it, over all hospitals that train; raises ``RunError``."""
    entries = [e for e in outcomes.run.read_json("sites.json") if e["role"] == "training"]
    return {
        finding: sum(e["findings"].get(finding, {}).get("train", {}).get("positive", 0) for e in entries)
        for finding in outcomes.study.findings
    }


def _figures(
    run: Evaluated, group: Group, localization: Localization, groups: dict[str, list[str]]
) -> Iterator[tuple[str, list[Record]]]:
    outcomes, keys, tuned = run.outcomes, run.groups[group], run.tuned[group]
    chance = against_chance(outcomes, keys)
    yield "thresholds", [{"finding": finding, **asdict(one)} for finding, one in tuned.items()]
    yield (
        "classification",
        [
            {"site": site, "finding": finding, "metric": metric, **asdict(estimate)}
            | (chance.get((site, finding), {}) if metric == "auroc" else {})
            for site, table in classify(outcomes, keys, groups).items()
            for finding, metrics in table.items()
            for metric, estimate in metrics.items()
            if estimate.n
        ],
    )
    for site in outcomes.sites:
        found = outcomes.localized(keys, site)
        parts = {
            "calibration": calibrate(outcomes, keys, site),
            "lesions": lesion_records(outcomes, keys, site),
            "borders": border_records(outcomes, keys, site),
        }
        if found is not None:
            shuffled = outcomes.shuffled(keys, site)
            parts["localization"] = localization.figures(found, shuffled, site, tuned)
            parts["checks"] = localization.checks(found, shuffled)
        for name, records in parts.items():
            yield name, [{"site": site, **record} for record in records]


def _within(run: Evaluated) -> Iterator[Record]:
    """Yield the federated arm, or the first, minus every other, of scores and of maps; local is the site's own.

    At an outside site no local model is its own: each is compared, and named as ``against_model``.
    """
    study, outcomes = run.outcomes.study, run.outcomes
    lead = _lead(run)
    for site in outcomes.sites:
        models = [group for group in run.groups if _asked(group, site, outcomes)]
        ours = next((group for group in models if group[0] == lead), None)
        if ours is None or len(models) < 2 or (lead == "local" and site not in outcomes.training):
            continue
        measured = {group: _measured(run, group, site) for group in models}
        for group in models:
            if group == ours:
                continue
            head = {"arm": lead, "against": group[0], "site": site}
            head |= {} if group[1] in (group[0], site) else {"against_model": group[1]}
            first, second = (outcomes.scores(run.groups[one], site) for one in (ours, group))
            maps = compare_maps(outcomes, measured[ours], measured[group])
            for records in (compare_scores(outcomes, first, second, study.findings), maps):
                yield from ({**head, **record} for record in records)


def _asked(group: Group, site: str, outcomes: Outcomes) -> bool:
    """Tell whether a site asks a model: a hospital that trains has a local model of its own and no use of others'."""
    return group[0] != "local" or group[1] == site or site not in outcomes.training


def _lead(run: Evaluated) -> str:
    arms = run.outcomes.study.arms
    return "federated" if "federated" in arms else arms[0]


def _over_sites(run: Evaluated, groups: dict[str, list[str]]) -> Iterator[Record]:
    """Yield the same as means over the sites that train, of all findings and of each group of the long tail."""
    outcomes, lead = run.outcomes, _lead(run)

    def said(arm: str) -> list[Scores]:
        return [outcomes.scores(run.groups[arm, s if arm == "local" else arm], s) for s in outcomes.training]

    for arm in outcomes.study.arms:
        if arm != lead and outcomes.training:
            head = {"arm": lead, "against": arm, "site": MACRO}
            yield from ({**head, **one} for one in compare_groups(outcomes, said(lead), said(arm), groups))


def _between(run: Evaluated, other: Evaluated, pairs: Sequence[tuple[Group, Group]]) -> Iterator[Record]:
    a, b = run.outcomes, other.outcomes
    findings = [f for f in a.study.findings if f in b.study.findings]
    mine, theirs = ([o.study.findings.index(f) for f in findings] for o in (a, b))
    for one, two in pairs:
        for site in (s for s in a.sites if s in b.sites):
            head = {"arm": one[0], "model": one[1], "against": two[0], "against_model": two[1], "site": site}
            scores = a.scores(run.groups[one], site).of(mine), b.scores(_by_seed(other, two, run), site).of(theirs)
            maps = compare_maps(a, _measured(run, one, site), _measured(other, two, site))
            for records in (compare_scores(a, *scores, findings), maps):
                yield from ({**head, **record, **_spread(record, run, other)} for record in records)


def _by_seed(run: Evaluated, group: Group, other: Evaluated) -> list[ModelKey]:
    """Return the models of a run in the order of another's seeds, as far as it has them."""
    seeds = other.outcomes.study.seeds
    return sorted(run.groups[group], key=lambda key: seeds.index(key.seed) if key.seed in seeds else len(seeds))


def _spread(record: Record, run: Evaluated, other: Evaluated) -> Record:
    """Return that there is no spread between seeds where two runs have others."""
    paired = sorted(run.outcomes.study.seeds) == sorted(other.outcomes.study.seeds)
    return {} if paired or "sd" not in record else {"sd": float("nan")}


def _measured(run: Evaluated, group: Group, site: str) -> MeasuredMaps | None:
    return measure_maps(run.outcomes, run.groups[group], run.tuned[group], site)
