"""How close the figures that move no image come to those that do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from hilum.study.shift.damage import rank_correlation

EXACT_OF = {
    "federated_a_distance": "a_distance_linear",
    "federated_emd": "emd",
    "federated_mmd": "mmd",
    "private_a_distance": "a_distance_linear",
    "private_emd": "emd",
    "private_mmd": "mmd",
}

Records = Sequence[Mapping[str, Any]]


def closeness(records: Records, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each kind and measure without images, its differences from the exact figure over the pairs.

    ``largest`` and ``mean`` absolute difference, ``rank``: Spearman's correlation of both (null where one side does
    not vary), ``bytes``: most that a site sends for a pair, ``epsilon``: what each site spends.
    """
    values = {(r["kind"], r["measure"], r["a"], r["b"]): r for r in records if r["a"] != r["b"]}
    found = []
    for kind, (measure, exact) in product(kinds, EXACT_OF.items()):
        own = [r for (k, m, _, _), r in values.items() if (k, m) == (kind, measure) and r["value"] is not None]
        both = [(values[kind, exact, r["a"], r["b"]]["value"], r["value"]) for r in own]
        pairs = np.array([pair for pair in both if pair[0] is not None], np.float64).reshape(-1, 2)
        if len(pairs):
            gaps = np.abs(pairs[:, 1] - pairs[:, 0])
            found.append(
                {
                    "kind": kind,
                    "measure": measure,
                    "exact": exact,
                    "n": len(pairs),
                    "largest": float(gaps.max()),
                    "mean": float(gaps.mean()),
                    "rank": rank_correlation(pairs[:, 0], pairs[:, 1]) if len(pairs) > 2 else None,
                    "bytes": max(r["bytes"] for r in own),
                    "epsilon": own[0]["epsilon"],
                }
            )
    return found
