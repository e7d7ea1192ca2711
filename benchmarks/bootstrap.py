"""Time 1,000 patient resamples of AUROC and average precision against scikit-learn in a loop.

Run ``python benchmarks/bootstrap.py``; set OMP_NUM_THREADS=1 for one thread. scikit-learn is timed on a few
resamples of the same weights and its time is scaled up; both give the same values, which is checked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from hilum.evaluation.bootstrap import evaluate_classification, patient_weights
from hilum.evaluation.classification import auroc, average_precision

PAIRS = ((auroc, roc_auc_score), (average_precision, average_precision_score))


def clock(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def scikit_learn(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    columns = range(scores.shape[1])
    return np.array(
        [
            [[oracle(targets[:, c], scores[:, c], sample_weight=w) for c in columns] for w in weights]
            for _, oracle in PAIRS
        ]
    )


def compare(findings: int, predictions: int, resamples: int, loop: int) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((predictions, findings)) < 0.1).astype(float)
    scores = rng.normal(size=targets.shape) + targets
    patients = rng.integers(predictions * 6 // 10, size=predictions)
    names = [f"finding {k}" for k in range(findings)]
    ours, _ = clock(lambda: evaluate_classification(scores, targets, patients, names, resamples=resamples))
    weights = patient_weights(patients, loop, rng)
    theirs, values = clock(lambda: scikit_learn(scores, targets, weights))
    np.testing.assert_allclose([metric(scores, targets, weights) for metric, _ in PAIRS], values, atol=1e-10)
    theirs *= resamples / loop
    print(
        f"{findings:2d} findings x {predictions} predictions x {resamples} resamples, both metrics: "
        f"hilum {ours:.2f} s, scikit-learn {theirs:.1f} s (scaled from {loop} resamples), ratio {theirs / ours:.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=20, help="resamples that scikit-learn is timed on")
    arguments = parser.parse_args()
    for findings in (1, 14):
        compare(findings, arguments.predictions, arguments.resamples, arguments.loop)


if __name__ == "__main__":
    main()
