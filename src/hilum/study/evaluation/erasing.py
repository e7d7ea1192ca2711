"""Disease or site, from what a run keeps of films with erased parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.evaluation.bootstrap import FEWEST_OF_CLASS
from hilum.evaluation.erasing import border_effect, lesion_effect
from hilum.evaluation.significance import holm
from hilum.study.directory import ModelKey
from hilum.study.erasures import CONTROL, LESIONS, MIDDLE_PART, NOTHING
from hilum.study.outcomes import Erased, Outcomes

Record = dict[str, Any]


def lesion_records(outcomes: Outcomes, keys: Sequence[ModelKey], site: str) -> Iterator[Record]:
    """Yield for each finding with boxes at a site what its score loses with the lesions."""
    found = outcomes.erased(keys, site)
    if found is None:
        return
    boxes = outcomes.table("boxes", site)
    for c, finding in enumerate(outcomes.study.findings):
        lesions, control = (found.rows(part, finding) for part in (LESIONS, CONTROL))
        whole = _whole(found, lesions)
        if not len(whole) or np.isnan(found.odds[:, whole, c]).any():
            continue
        effect = lesion_effect(
            found.odds[:, whole, c],
            found.odds[:, lesions, c],
            found.odds[:, control, c],
            found.patients[whole],
            resamples=outcomes.study.evaluation.resamples,
            seed=outcomes.study.split.seed,
        )
        yield {
            "finding": finding,
            "n": len(whole),
            "boxed": int(boxes.loc[boxes["finding"] == finding, "image_id"].nunique()),
            "lesions": effect.lesions.value,
            "control": effect.control.value,
            "value": effect.difference.value,
            "low": effect.difference.low,
            "high": effect.difference.high,
            "p": effect.p,
        }


def with_corrected_lesions(records: Sequence[Record]) -> list[Record]:
    """Return the records of all models and sites with ``p_holm``, corrected for their number."""
    corrected = holm([record["p"] for record in records])
    return [{**record, "p_holm": float(p)} for record, p in zip(records, corrected, strict=True)]


def border_records(outcomes: Outcomes, keys: Sequence[ModelKey], site: str) -> Iterator[Record]:
    """Yield for each finding with positives at a site how well films without their middle are told apart.

    Negatives are the site's own; where it has them of fewer than ``FEWEST_OF_CLASS`` patients, those of the other
    sites. Here alone scores of different sites are ranked against each other, each under the statistics and head rows
    that the model keeps there: an AUROC below 0.5 then tells the site as well. A local model is asked at its own
    hospital only.
    """
    if keys[0].arm == "local" and keys[0].model != site:
        return
    every = {name: found for name in outcomes.sites if (found := outcomes.erased(keys, name)) is not None}
    if site not in every:
        return
    for c, finding in enumerate(outcomes.study.findings):
        positives = _films(every[site], c, 1)
        if not len(positives) or np.isnan(every[site].odds[:, :, c]).all():
            continue
        own = _films(every[site], c, 0)
        others = [(name, _films(found, c, 0)) for name, found in every.items() if name != site]
        enough = len(np.unique(every[site].patients[own])) >= FEWEST_OF_CLASS
        chosen = [(site, own)] if enough else others
        parts = [(site, positives, 1.0), *((name, rows, 0.0) for name, rows in chosen if len(rows))]
        if len(parts) < 2:
            continue
        pairs = [_pair(every[name], rows, c) for name, rows, _ in parts]
        named = zip(parts, pairs, strict=True)
        patients = np.array([f"{name} {patient}" for (name, _, _), pair in named for patient in pair[2]])
        effect = border_effect(
            np.concatenate([pair[0] for pair in pairs], axis=1),
            np.concatenate([pair[1] for pair in pairs], axis=1),
            np.repeat([target for _, _, target in parts], [len(rows) for _, rows, _ in parts]),
            patients,
            resamples=outcomes.study.evaluation.resamples,
            seed=outcomes.study.split.seed,
        )
        yield {
            "finding": finding,
            "positives": len(positives),
            "n": len(patients),
            "negatives_of": "own" if enough else "others",
            "whole": effect.whole.value,
            "whole_low": effect.whole.low,
            "whole_high": effect.whole.high,
            "value": effect.border.value,
            "low": effect.border.low,
            "high": effect.border.high,
            "odds": effect.odds,
            "border_odds": effect.border_odds,
        }


def _films(found: Erased, column: int, target: int) -> NDArray[np.intp]:
    rows = found.rows(MIDDLE_PART, "")
    return np.asarray(rows[found.targets[rows, column] == target])


def _pair(found: Erased, rows: NDArray[np.intp], column: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Return the log-odds (S, n) of whole films and of the same without their middle, and their patients (n,)."""
    return found.odds[:, _whole(found, rows), column], found.odds[:, rows, column], found.patients[rows]


def _whole(found: Erased, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the rows of the same films with nothing erased."""
    whole = {found.ids[row]: row for row in np.flatnonzero(found.erased == NOTHING)}
    return np.array([whole[found.ids[row]] for row in rows], dtype=np.intp)
