"""Two arms, or two runs, on the same patients; families of tests; ranks of all arms over the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.evaluation import METRICS
from hilum.evaluation.bootstrap import MACRO
from hilum.evaluation.comparison import paired_over_sites
from hilum.evaluation.delong import delong
from hilum.evaluation.localization import measure_findings, paired_localization
from hilum.evaluation.significance import friedman_nemenyi, holm
from hilum.study.directory import ModelKey
from hilum.study.evaluation.tuning import Tuned
from hilum.study.figures import paired
from hilum.study.outcomes import Outcomes, Scores

Record = dict[str, Any]
COMPARED_MAPS = ("pointing_game", "iou", "iobb", "iou_boxes>0.1", "iobb>0.1", "box_energy", "pixel_auprc")


def compare_scores(outcomes: Outcomes, ours: Scores, theirs: Scores, findings: Sequence[str]) -> Iterator[Record]:
    """Yield ours minus theirs at one site, per finding and macro: bootstrap of both metrics, DeLong of the AUROC.

    ``findings`` name the columns of both; their images are the same.
    """
    study = outcomes.study.model_copy(update={"findings": list(findings)})
    both = np.where(np.isnan(theirs.targets), np.nan, ours.targets)
    exact = delong(np.nan_to_num(ours.scores), both, ours.patients, findings, np.nan_to_num(theirs.scores))
    for finding, metrics in paired(study, ours, theirs).items():
        for metric, difference in metrics.items():
            if difference.n:
                p = {"p_delong": exact[finding].p} if metric == "auroc" else {}
                yield {"finding": finding, "metric": metric, **asdict(difference), **p}


def compare_groups(
    outcomes: Outcomes, ours: Sequence[Scores], theirs: Sequence[Scores], groups: Mapping[str, Sequence[str]]
) -> Iterator[Record]:
    """Yield ours minus theirs as means over the sites that train, a pair of scores each: macro and each group."""
    study = outcomes.study
    pairs = list(zip(ours, theirs, strict=True))
    table = paired_over_sites(
        np.nan_to_num(np.concatenate([a.scores for a in ours], axis=1)),
        np.nan_to_num(np.concatenate([b.scores for b in theirs], axis=1)),
        np.concatenate([np.where(np.isnan(b.targets), np.nan, a.targets) for a, b in pairs]),
        np.concatenate([a.patients for a in ours]),
        np.repeat(outcomes.training, [len(a.ids) for a in ours]),
        study.findings,
        groups,
        resamples=study.evaluation.resamples,
        seed=study.split.seed,
    )
    for name, metrics in table.items():
        for metric, difference in metrics.items():
            if difference.n and difference.findings > 1:  # a mean of one is that finding's own comparison
                yield {"finding": name, "metric": metric, **asdict(difference)}


@dataclass(frozen=True)
class MeasuredMaps:
    """Figures of maps of one site: values (S, n, K, C) of the n images with boxes, K figures, C findings."""

    ids: list[Any]
    patients: NDArray[np.int64]
    findings: list[str]
    names: list[str]
    values: NDArray[np.float64]

    def chosen(self, ids: Sequence[Any], findings: Sequence[str]) -> NDArray[np.float64]:
        """Return the values of these images and findings, in their order."""
        rows, columns = [self.ids.index(i) for i in ids], [self.findings.index(f) for f in findings]
        return self.values[:, rows][..., columns]


def measure_maps(
    outcomes: Outcomes, keys: Sequence[ModelKey], tuned: Mapping[str, Tuned], site: str
) -> MeasuredMaps | None:
    """Return the figures of an arm's maps at a site, each finding at its own threshold; None without boxes."""
    found = outcomes.localized(keys, site)
    if found is None:
        return None
    boxed = found.with_boxes()
    cuts = {f: tuned[f].threshold for f in boxed.boxes}
    names, values = measure_findings(boxed.maps.astype(np.float64), boxed.boxes, cuts)
    return MeasuredMaps(boxed.ids.tolist(), boxed.patients, [*boxed.boxes], names, values)


def compare_maps(outcomes: Outcomes, ours: MeasuredMaps | None, theirs: MeasuredMaps | None) -> Iterator[Record]:
    """Yield ours minus theirs of the maps' figures on the same images with boxes; resampled as ``outcomes`` says."""
    if ours is None or theirs is None:
        return
    findings = [f for f in ours.findings if f in theirs.findings]
    shared = set(theirs.ids)
    rows = [k for k, image in enumerate(ours.ids) if image in shared]
    if not findings or not rows:
        return
    ids = [ours.ids[k] for k in rows]
    study = outcomes.study
    table = paired_localization(
        ours.chosen(ids, findings),
        theirs.chosen(ids, findings),
        ours.patients[rows],
        resamples=study.evaluation.resamples,
        seed=study.split.seed,
    )
    for metric in COMPARED_MAPS:
        for finding, difference in zip((*findings, MACRO), table[ours.names.index(metric)], strict=True):
            if difference.n:
                fields = asdict(difference)
                del fields["positives"]
                yield {"finding": finding, "metric": metric, **fields}


def against_chance(outcomes: Outcomes, keys: Sequence[ModelKey]) -> dict[tuple[str, str], Record]:
    """Return (site, finding) → DeLong's p of the AUROC against 0.5, and Holm's of all that the models tell."""
    study = outcomes.study
    p: dict[tuple[str, str], float] = {}
    for site in outcomes.sites:
        said = outcomes.scores(keys, site)
        tests = delong(np.nan_to_num(said.scores), said.targets, said.patients, study.findings)
        p |= {(site, finding): tests[finding].p for finding in study.findings}
    corrected = holm([*p.values()])
    return {place: {"p": p[place], "p_holm": float(one)} for place, one in zip(p, corrected, strict=True)}


def with_families(records: Sequence[Record]) -> list[Record]:
    """Return the records with ``p_holm``, corrected within a family: one metric, of single findings, macros, or means
    over sites.

    The p value that enters is DeLong's where there is one, else the bootstrap's. A macro of one finding is no test of
    its own and has the ``p_holm`` of that finding.
    """
    families: dict[tuple[str, bool, bool], list[int]] = {}
    repeated = {k: one for k, record in enumerate(records) if (one := _single(records, record)) is not None}
    for k, record in enumerate(records):
        if k not in repeated:
            over_sites = record.get("site") == MACRO
            family = (record["metric"], over_sites or record["finding"] == MACRO, over_sites)
            families.setdefault(family, []).append(k)
    made = [dict(record) for record in records]
    for members in families.values():
        entered = np.array([_entered(records[k]) for k in members], dtype=np.float64)
        for k, p in zip(members, holm(entered), strict=True):
            made[k] |= {"p_holm": float(p), "tests": int((~np.isnan(entered)).sum())}
    for k, one in repeated.items():
        made[k] |= {name: made[one][name] for name in ("p_holm", "tests")}
    return made


def _entered(record: Record) -> float:
    exact = float(record.get("p_delong", np.nan))
    return float(record["p"]) if np.isnan(exact) else exact


def _single(records: Sequence[Record], macro: Record) -> int | None:
    """Return which record a macro of one finding repeats; None for another."""
    if macro["finding"] != MACRO or macro.get("findings") != 1:
        return None
    same = ("arm", "model", "against", "against_model", "site", "metric")
    singles = [
        k
        for k, record in enumerate(records)
        if record["finding"] != MACRO and all(record.get(name) == macro.get(name) for name in same)
    ]
    for bound in ("p", "low", "value"):  # a macro takes what has them, or all that exist where none has
        known = [k for k in singles if not np.isnan(records[k].get(bound, np.nan))]
        if known:
            return known[0]
    return None


def rank_arms(outcomes: Outcomes, groups: Mapping[tuple[str, str], Sequence[ModelKey]]) -> Iterator[Record]:
    """Yield the Friedman test of the arms over the seeds, with Nemenyi's pairs: an arm's value is the mean over sites.

    A site's value is the macro over the findings that every arm was taught; local means the site's own model. There
    is none for fewer than three arms or two seeds.
    """
    study = outcomes.study
    if len(study.arms) < 3 or len(study.seeds) < 2:
        return
    for metric in METRICS:
        blocks = np.full((len(study.seeds), len(outcomes.training), len(study.arms)), np.nan)
        for k, site in enumerate(outcomes.training):
            said = [outcomes.scores(groups[arm, site if arm == "local" else arm], site) for arm in study.arms]
            targets = np.where(np.isnan([s.targets for s in said]).any(axis=0), np.nan, said[0].targets)
            for a, one in enumerate(said):
                values = np.stack([METRICS.load(metric)(s, targets) for s in np.nan_to_num(one.scores)])
                known = ~np.isnan(values).all(axis=0)
                if known.any():
                    blocks[:, k, a] = values[:, known].mean(axis=1)
        sites = ~np.isnan(blocks).any(axis=(0, 2))
        if not sites.any():
            continue
        ranks = friedman_nemenyi(blocks[:, sites].mean(axis=1), study.arms)
        yield {
            "metric": metric,
            "sites": [s for s, used in zip(outcomes.training, sites, strict=True) if used],
            "seeds": ranks.blocks,
            "arms": list(ranks.names),
            "ranks": ranks.ranks.tolist(),
            "p": ranks.p,
            "critical_difference": ranks.critical_difference,
            "pairs": ranks.pairs.tolist(),
        }
