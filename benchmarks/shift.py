"""Time the distances of sites against POT at equal exactness, and the whole table of five sites.

Run ``python benchmarks/shift.py [--threads 2] [--repeats 5]``; the ways alternate, their values must agree.
``--closeness`` prints instead how close the figures that move no image come to the exact ones on synthetic sites.
POT has no MMD: there its squared distances and a loop over the permutations stand beside ``mmd``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
from threadpoolctl import threadpool_limits

from hilum.shift.emd import emd, emd_1d, emd_samples, signature
from hilum.shift.mmd import mmd
from hilum.shift.pairs import pairwise
from hilum.shift.samples import halves

PERMUTATIONS = 500


def clock(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def uniform(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def pot_samples(a: np.ndarray, b: np.ndarray) -> float:
    return float(ot.emd2(uniform(len(a)), uniform(len(b)), ot.dist(a, b, "euclidean"), numItermax=10**8))


def pot_mmd(a: np.ndarray, b: np.ndarray, sigma: float) -> tuple[float, float]:
    x, n, m = np.vstack([a, b]), len(a), len(b)
    kernel = np.exp(-ot.dist(x, x, "sqeuclidean") / (2 * sigma**2))
    np.fill_diagonal(kernel, 0)
    rng, values = np.random.default_rng(0), []
    order = np.arange(n + m)
    for _ in range(PERMUTATIONS + 1):
        first, second = order[:n], order[n:]
        aa, bb = (kernel[np.ix_(i, i)].sum() / (len(i) * (len(i) - 1)) for i in (first, second))
        values.append(aa + bb - 2 * kernel[np.ix_(first, second)].mean())
        order = rng.permutation(n + m)
    return values[0], (1 + sum(v >= values[0] for v in values[1:])) / (1 + PERMUTATIONS)


def cases() -> list[tuple[str, Callable[[], float], Callable[[], float]]]:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1000, 256))
    b += 0.1
    p, q = signature(a), signature(b)
    u, v = rng.normal(size=(2, 100_000))
    who = np.arange(1000)
    sigma = mmd(a, b, who, who, permutations=0).bandwidth

    def pot_signatures() -> float:
        return float(ot.emd2(p.weights, q.weights, ot.dist(p.centers, q.centers, "euclidean")))

    return [
        ("EMD of signatures of 16", lambda: emd(p, q).cost, pot_signatures),
        ("EMD on the line, 100,000 values", lambda: emd_1d(u, v), lambda: float(ot.wasserstein_1d(u, v))),
        ("EMD of 1,000 and 1,000 images", lambda: emd_samples(a, b), lambda: pot_samples(a, b)),
        ("EMD of 1,000 and 800 images", lambda: emd_samples(a, b[:800]), lambda: pot_samples(a, b[:800])),
        (
            f"MMD of 1,000 and 1,000 images, {PERMUTATIONS} permutations",
            lambda: mmd(a, b, who, who, permutations=PERMUTATIONS, bandwidth=sigma).value,
            lambda: pot_mmd(a, b, sigma)[0],
        ),
    ]


def compare(repeats: int) -> None:
    print("| 256 features | hilum, s | POT, s | ratio, median (least – most) | difference |")
    print("|---|---:|---:|---:|---:|")
    for name, ours, theirs in cases():
        ours(), theirs()
        rounds = [(clock(ours), clock(theirs)) for _ in range(repeats)]
        ratios = [other[0] / own[0] for own, other in rounds]
        gap = abs(rounds[0][0][1] - rounds[0][1][1])
        assert gap < 1e-9, f"{name}: the two ways differ by {gap}"
        own, other = (statistics.median(r[k][0] for r in rounds) for k in (0, 1))
        print(
            f"| {name} | {own:.4f} | {other:.4f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} – {max(ratios):.2f}) | {gap:.0e} |"
        )


def synthetic_sites(shifts: dict[str, float], width: int = 256) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return features of 1,000 images a site, their first ten means shifted before they are mixed, and patients."""
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(width, width)) * np.exp(-np.arange(width) / 20)[:, None]
    moved = np.arange(width) < 10
    features = {site: (rng.normal(size=(1000, width)) + shift * moved) @ mix for site, shift in shifts.items()}
    return features, {site: rng.integers(700, size=1000) for site in shifts}


def closeness(draws: int = 20) -> None:
    """Print exact, federated and private figures of sites and of their halves; of private ones the median draw."""
    for width in (256, 8):
        features, patients = synthetic_sites({"a": 0.0, "b": 0.1, "c": 0.3, "d": 1.2}, width)
        print(f"\n| {width} features | 0.1 | 0.3 | 1.2 | control |\n|---|---:|---:|---:|---:|")
        for name in ("a_distance_linear", "federated_a_distance", "emd", "federated_emd", "mmd", "federated_mmd"):
            table = pairwise(features, patients, measures=[name])
            control = np.mean([half.value for half in table.controls(name).values()])
            print(f"| {name} | {' | '.join(f'{v:.4f}' for v in (*table.matrix(name)[0, 1:], control))} |")
        parts = {site: halves(who, np.random.default_rng(2)) for site, who in patients.items()}
        half_features = {f"{s}{k}": features[s][rows] for s, two in parts.items() for k, rows in enumerate(two)}
        half_patients = {f"{s}{k}": patients[s][rows] for s, two in parts.items() for k, rows in enumerate(two)}
        for name in ("private_a_distance", "private_emd", "private_mmd"):
            for epsilon in (1.0, 4.0, 8.0):
                noise = np.random.default_rng(3)
                figures = []
                for _ in range(draws):
                    settings: dict[str, Any] = {"measures": [name], "epsilon": epsilon, "noise": noise}
                    between = pairwise(features, patients, **settings).matrix(name)[0, 1:]
                    within = pairwise(half_features, half_patients, **settings).matrix(name)
                    figures.append([*between, np.mean([within[2 * k, 2 * k + 1] for k in range(len(features))])])
                low, median, high = np.quantile(figures, (0, 0.5, 1), axis=0)
                cells = (f"{m:.3f} ({a:.3f} – {b:.3f})" for a, m, b in zip(low, median, high, strict=True))
                print(f"| {name}, ε = {epsilon:g} | {' | '.join(cells)} |", flush=True)


def whole_table() -> None:
    shifts = {"a": 0.0, "b": 0.1, "c": 0.3, "d": 0.6, "e": 1.2}
    features, patients = synthetic_sites(shifts)
    total = 0.0
    for measure in ("a_distance_linear", "a_distance_network", "emd", "emd_samples", "mmd"):
        seconds, _ = clock(lambda m=measure: pairwise(features, patients, measures=[m]))
        total += seconds
        print(f"{measure}: {seconds:.1f} s")
    print(f"five sites of 1,000 images, 256 features, 10 pairs and 5 controls, all exact measures: {total:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--closeness", action="store_true")
    arguments = parser.parse_args()
    with threadpool_limits(arguments.threads):
        if arguments.closeness:
            closeness()
        else:
            compare(arguments.repeats)
            whole_table()


if __name__ == "__main__":
    main()
