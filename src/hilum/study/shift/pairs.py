"""Every measure of every pair of sites, kept as it is done: a measure of a kind of features at a time.

The private ones are measured together, from one noisy summary a site, and once: what was drawn is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

import hilum
from hilum.errors import RunError
from hilum.shift.emd import Signature, emd, signature
from hilum.shift.measures import EXACT, FEDERATED, PRIVATE
from hilum.shift.pairs import pairwise
from hilum.shift.privacy import DELTA
from hilum.shift.summary import Moments
from hilum.study.directory import RunDirectory
from hilum.study.shift.features import Features, digest_of
from hilum.study.shift.sample import Sample

MEASURES = tuple(EXACT)
FOLDS, PERMUTATIONS, CLUSTERS = 5, 500, 16
VERSION = 1  # of what is kept; raise it where the same features would give other figures
PACKAGES = ("numpy", "scipy", "scikit-learn")
SMALLEST_FLOW = 1e-9


@dataclass(frozen=True)
class PairPlan:
    """How pairs are measured: images a site at most, seed, and ε of the noisy figures (None: there are none)."""

    images: int
    seed: int
    epsilon: float | None = None

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Measures by the file that keeps them: one of each, and one of all that share a noisy summary."""
        alone = {measure: (measure,) for measure in (*MEASURES, *FEDERATED)}
        return alone | ({"private": tuple(PRIVATE)} if self.epsilon else {})


def pair_records(
    kind: str,
    features: Sequence[Features],
    samples: Sequence[Sample],
    digests: Sequence[str],
    plan: PairPlan,
    out: RunDirectory,
    noise: np.random.Generator | None = None,
) -> list[dict[str, Any]]:
    """Return a record a measure and pair of sites, and a measure and site for its two halves (``a`` = ``b``).

    What ``out`` holds of the same features, patients and plan is not computed again. Private figures have no halves;
    ``noise``: the system's entropy if not given.
    """
    records: list[dict[str, Any]] = []
    by_site = {sample.site.name: x for sample, x in zip(samples, features, strict=True)}
    patients = {sample.site.name: sample.patients for sample in samples}
    of_sites = sorted((s.site.name, d, _grouping(s)) for s, d in zip(samples, digests, strict=True))
    settings = VERSION, hilum.__version__, *map(version, PACKAGES), FOLDS, PERMUTATIONS, CLUSTERS, DELTA
    for name, measures in plan.groups.items():
        file = f"figures/{kind}/{name}.json"
        key = digest_of(kind, of_sites, measures, asdict(plan), settings)
        kept = _kept(out, file, key)
        if kept is None:
            kept = _measured(measures, by_site, patients, plan, kind, noise)
            out.write_json(file, {"key": key, "records": kept})
        records += [{"kind": kind, **record} for record in kept]
    return records


def _grouping(sample: Sample) -> str:
    return digest_of(*sample.patients.tolist())


def feature_flows(
    kind: str, features: Sequence[Features], samples: Sequence[Sample], seed: int
) -> list[dict[str, Any]]:
    """Return, for every pair, the flow behind the ``emd`` of the records: between clusters of standardized features."""
    by_site = {sample.site.name: x for sample, x in zip(samples, features, strict=True)}
    frame = Moments.pool([Moments.of(by_site[name]) for name in sorted(by_site)])
    scaled = {name: frame.standardize(x.astype(np.float64)) for name, x in by_site.items()}
    return _flows(kind, {name: signature(x, CLUSTERS, seed) for name, x in scaled.items()})


def intensity_flows(histograms: Sequence[Features], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return, for every pair, the EMD of the mean intensity histograms in units of the grey range.

    Of the flows of least cost the one whose paths do not cross: it is optimal on a line (north-west corner rule).
    ``partial``: the same where each site weighs its number of images, so that only the smaller one's mass must move.
    """
    bins = (np.arange(histograms[0].shape[1])[:, None] + 0.5) / histograms[0].shape[1]
    by_site = {sample.site.name: x.astype(np.float64) for sample, x in zip(samples, histograms, strict=True)}
    flows = _flows("intensity", {name: Signature(bins, x.mean(axis=0)) for name, x in by_site.items()})
    counted = {name: Signature(bins, x.sum(axis=0)) for name, x in by_site.items()}
    return [
        flow
        | {
            "flow": _monotone(flow["weights_a"], flow["weights_b"]),
            "partial": emd(counted[flow["a"]], counted[flow["b"]]).cost,
        }
        for flow in flows
    ]


def _monotone(a: Sequence[float], b: Sequence[float]) -> list[list[float]]:
    ends = np.cumsum(a), np.cumsum(b)
    edges = np.unique(np.concatenate([[0.0], *ends]))
    middle = (edges[1:] + edges[:-1]) / 2
    i, j = (np.minimum(np.searchsorted(end, middle), len(end) - 1) for end in ends)
    moved = zip(i, j, np.diff(edges), strict=True)
    return [[int(x), int(y), float(mass)] for x, y, mass in moved if mass > SMALLEST_FLOW]


def matrix_of(records: Sequence[Mapping[str, Any]], kind: str, measure: str, names: Sequence[str]) -> np.ndarray:
    """Return a measure (K, K) of all pairs, 0 on the diagonal, NaN where it does not exist."""
    place, values = {name: k for k, name in enumerate(names)}, np.zeros((len(names),) * 2)
    for record in records:
        if (record["kind"], record["measure"]) == (kind, measure) and record["a"] != record["b"]:
            i, j = place[record["a"]], place[record["b"]]
            values[i, j] = values[j, i] = np.nan if record["value"] is None else record["value"]
    return values


def _measured(
    measures: tuple[str, ...],
    features: Mapping[str, Features],
    patients: Mapping[str, Any],
    plan: PairPlan,
    kind: str,
    noise: np.random.Generator | None,
) -> list[dict[str, Any]]:
    table = pairwise(
        features,
        patients,
        measures=measures,
        max_images=plan.images,
        folds=FOLDS,
        permutations=PERMUTATIONS,
        k=CLUSTERS,
        seed=plan.seed,
        epsilon=plan.epsilon if set(measures) & set(PRIVATE) else None,
        noise=noise,
        label=f"{kind}: {measures[0] if len(measures) == 1 else 'private'}",
    )
    rows = [asdict(record) for record in table.records]
    named = [{"a": row.pop("site_a"), "b": row.pop("site_b"), **row} for row in rows]
    return [{name: _known(value) for name, value in row.items()} for row in named]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _kept(out: RunDirectory, file: str, key: str) -> list[dict[str, Any]] | None:
    try:
        kept = out.read_json(file)
        return list(kept["records"]) if kept["key"] == key else None
    except (RunError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _flows(kind: str, signatures: Mapping[str, Signature]) -> list[dict[str, Any]]:
    names, flows = list(signatures), []
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            found = emd(signatures[a], signatures[b])
            moved = np.argwhere(found.flow > SMALLEST_FLOW)
            flows.append(
                {
                    "kind": kind,
                    "a": a,
                    "b": b,
                    "value": found.cost,
                    "weights_a": signatures[a].weights.tolist(),
                    "weights_b": signatures[b].weights.tolist(),
                    "flow": [[int(i), int(j), float(found.flow[i, j])] for i, j in moved],
                }
            )
    return flows
