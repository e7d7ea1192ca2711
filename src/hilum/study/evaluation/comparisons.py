"""Two arms, or two runs, on the same patients; families of tests; ranks of all arms over the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hilum.evaluation import METRICS
from hilum.evaluation.bootstrap import MACRO
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


def compare_maps(
    ours: Outcomes,
    our_keys: Sequence[ModelKey],
    our_tuned: Mapping[str, Tuned],
    theirs: Outcomes,
    their_keys: Sequence[ModelKey],
    their_tuned: Mapping[str, Tuned],
    site: str,
) -> Iterator[Record]:
    """Yield ours minus theirs of the maps' figures on the same images with boxes, each at its own threshold."""
    a, b = ours.localized(our_keys, site), theirs.localized(their_keys, site)
    if a is None or b is None:
        return
    names = [f for f in a.boxes if f in b.boxes]
    a, b = a.with_boxes(), b.with_boxes()
    row = {image: k for k, image in enumerate(b.ids.tolist())}
    mine = [k for k, image in enumerate(a.ids.tolist()) if image in row]
    if not names or not mine:
        return
    boxes = {f: [a.boxes[f][k] for k in mine] for f in names}
    sides = ((a, mine, our_tuned), (b, [row[a.ids[k]] for k in mine], their_tuned))
    measured = [
        measure_findings(
            one.maps[:, rows][:, :, [[*one.boxes].index(f) for f in names]].astype(np.float64),
            boxes,
            {f: tuned[f].threshold for f in names},
        )
        for one, rows, tuned in sides
    ]
    figures = measured[0][0]
    study = ours.study
    table = paired_localization(
        measured[0][1],
        measured[1][1],
        a.patients[mine],
        resamples=study.evaluation.resamples,
        seed=study.split.seed,
    )
    for metric in COMPARED_MAPS:
        for finding, difference in zip((*names, MACRO), table[figures.index(metric)], strict=True):
            if difference.n:
                fields = asdict(difference)
                del fields["positives"]
                yield {"finding": finding, "metric": metric, **fields}


def with_families(records: Sequence[Record]) -> list[Record]:
    """Return the records with ``p_holm``, corrected within a family: one metric, single findings or macros.

    The p value that enters is DeLong's where there is one: the bootstrap's cannot be below 2 / (resamples + 1).
    """
    families: dict[tuple[str, bool], list[int]] = {}
    for k, record in enumerate(records):
        families.setdefault((record["metric"], record["finding"] == MACRO), []).append(k)
    made = [dict(record) for record in records]
    for members in families.values():
        entered = np.array([records[k].get("p_delong", records[k]["p"]) for k in members], dtype=np.float64)
        for k, p in zip(members, holm(entered), strict=True):
            made[k] |= {"p_holm": float(p), "tests": int((~np.isnan(entered)).sum())}
    return made


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
