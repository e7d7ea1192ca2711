"""Does the distance predict the damage? Distances of sites against what a model loses between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.errors import RunError
from hilum.randomness import numpy_generator
from hilum.sites.site import Site
from hilum.study.describe import images_digest
from hilum.study.directory import RunDirectory
from hilum.study.run import load_run_study
from hilum.study.spec import Study

SAME_IMAGES = ("size", "low", "high")
SAME = ("findings", "sites", "split", "label_policy", "closure", "overlap")
FEWEST_PAIRS = 3
RESAMPLES = 2000
MOST_PERMUTATIONS = 5040

Losses = list[dict[str, Any]]


def require_same_study(study: Study, run: RunDirectory) -> None:
    """Raise ``RunError`` unless ``run`` is a finished run of the same sites, labels, split and image settings."""
    other = load_run_study(run)
    changed = [name for name in SAME if getattr(study, name) != getattr(other, name)]
    changed += [f"images.{key}" for key in SAME_IMAGES if getattr(study.images, key) != getattr(other.images, key)]
    if changed:
        raise RunError(
            f"Expected a run of the same study in {run.root}; found other values in: {', '.join(changed)}. "
            "Name a run of this study with --run, or leave --run out."
        )
    if run.read_json("run.json").get("finished") is None:
        raise RunError(f"Expected a finished run in {run.root}; it is not. Finish it with 'hilum study … --resume'.")


def require_same_images(sites: Sequence[Site], run: RunDirectory) -> None:
    """Raise ``RunError`` where the run was of other image files; its sites may stand in another order."""
    content, ordered = {site.name: site.content for site in sites}, list(run.roles())
    digest = images_digest(content.get(name, ()) for name in ordered)
    if set(content) != set(ordered) or run.fact("images_sha256") != digest:
        raise RunError(
            f"Expected the images that the run {run.root} was made of; some have changed, come or gone since. "
            "Restore them, run the study again, or leave --run out."
        )


def cross_site_losses(run: RunDirectory) -> Losses:
    """Return, for every ordered pair of sites, AUROC of the first one's own model at home minus at the second.

    Mean over the findings that have an AUROC at both (over all seeds); pairs without such a finding are left out.
    """
    seeds = run.fact("seeds")
    wanted = "all" if len(seeds) > 1 else seeds[0]
    scores = {
        (r["model"], r["site"], r["finding"]): r["value"]
        for r in run.read_json("metrics.json")["classification"]
        if r["arm"] == "local" and r["metric"] == "auroc" and r["seed"] in (wanted, "all") and r["value"] is not None
    }
    findings, sites = run.fact("findings"), list(run.roles())
    losses: Losses = []
    for a in (site for site, role in run.roles().items() if role == "training"):
        for b in sites:
            shared = [f for f in findings if (a, a, f) in scores and (a, b, f) in scores]
            if a != b and shared:
                loss = float(np.mean([scores[a, a, f] - scores[a, b, f] for f in shared]))
                losses.append({"trained": a, "tested": b, "value": loss, "findings": shared})
    return losses


def correlations(
    losses: Losses, distances: Mapping[tuple[str, str], NDArray[np.float64]], names: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return, for each (kind, measure) of distances (K, K), Spearman's rank correlation with the losses.

    ``p``: one-sided, the share of all permutations of the *sites* (a Mantel test: pairs that share a site are not
    independent) whose correlation is as large; exact up to 7 sites. Sites change places only where that leaves the
    unknown distances in theirs. Interval: 95 %, both directions of a pair are drawn together. All null below
    ``FEWEST_PAIRS`` pairs of sites, or where distances or losses do not differ.
    """
    place = {name: k for k, name in enumerate(names)}
    rows, columns = (np.array([place[loss[end]] for loss in losses], int) for end in ("trained", "tested"))
    values = np.array([loss["value"] for loss in losses])
    found = []
    for (kind, measure), matrix in distances.items():
        usable = ~np.isnan(matrix[rows, columns]) if len(values) else np.zeros(0, bool)
        one = _correlation(matrix, rows[usable], columns[usable], values[usable], seed)
        found.append({"kind": kind, "measure": measure, **one})
    return found


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, NaN where one side does not vary.

    >>> rank_correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 9]))
    1.0
    """
    from scipy.stats import rankdata

    a, b = (rankdata(side) - (len(side) + 1) / 2 for side in (x, y))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def _correlation(
    matrix: NDArray[np.float64], rows: NDArray[Any], columns: NDArray[Any], losses: NDArray[np.float64], seed: int
) -> dict[str, Any]:
    couples = len({frozenset(pair) for pair in zip(rows.tolist(), columns.tolist(), strict=True)})
    figures = {"n": len(losses), "pairs": couples, "value": None, "low": None, "high": None, "p": None}
    if couples < FEWEST_PAIRS:
        return {**figures, "permutations": 0}
    rho = rank_correlation(matrix[rows, columns], losses)
    if math.isnan(rho):
        return {**figures, "permutations": 0}
    low, high = _bootstrap(matrix[rows, columns], losses, rows, columns, seed)
    p, count = _mantel(matrix, rows, columns, losses, rho, seed)
    return {**figures, "value": rho, "low": low, "high": high, "p": p, "permutations": count}


def _bootstrap(
    x: NDArray[np.float64], y: NDArray[np.float64], rows: NDArray[Any], columns: NDArray[Any], seed: int
) -> tuple[float, float]:
    members: dict[frozenset[int], list[int]] = {}
    for k, pair in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        members.setdefault(frozenset(pair), []).append(k)
    groups, rng = list(members.values()), numpy_generator(seed, "damage", "bootstrap")
    draws = [np.sort(rng.integers(len(groups), size=len(groups))) for _ in range(RESAMPLES)]
    distinct, times = np.unique(draws, axis=0, return_counts=True)  # few, where there are few pairs
    chosen = [[k for g in draw for k in groups[g]] for draw in distinct]
    values = np.repeat([rank_correlation(x[drawn], y[drawn]) for drawn in chosen], times)
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def _mantel(
    matrix: NDArray[np.float64],
    rows: NDArray[Any],
    columns: NDArray[Any],
    losses: NDArray[np.float64],
    found: float,
    seed: int,
) -> tuple[float, int]:
    sites = len(matrix)
    exact = math.factorial(sites) <= MOST_PERMUTATIONS
    rng = numpy_generator(seed, "damage", "permutations")
    orders = permutations(range(sites)) if exact else (rng.permutation(sites) for _ in range(MOST_PERMUTATIONS))
    values, unknown = [], np.isnan(matrix)
    for order in orders:
        moved = np.asarray(order)
        if (unknown[moved][:, moved] == unknown).all():
            values.append(rank_correlation(matrix[moved[rows], moved[columns]], losses))
    beyond = sum(value >= found - 1e-12 for value in values)
    return (beyond / len(values) if exact else (beyond + 1) / (len(values) + 1)), len(values)
