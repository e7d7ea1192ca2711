"""The transportation problem, solved exactly: by HiGHS, over few columns at a time where there are many."""

from __future__ import annotations

from typing import Any

import numpy as np

from hilum.errors import DataError
from hilum.shift.samples import Floats, Ints

WHOLE = 50_000
"""Number of pairs up to which all columns enter at once."""
NEIGHBOURS = 8
TOLERANCE = 1e-10


def transport(cost: Floats, supply: Floats, demand: Floats) -> Floats:
    """Return the cheapest flow (n, m) of min(Σ supply, Σ demand) from n suppliers to m consumers.

    cost: (n, m) ≥ 0; supply (n,), demand (m,) ≥ 0: nothing sends or receives more than it has. Above ``WHOLE``
    pairs, columns are generated: the linear program over some pairs is solved, and all pairs that its dual
    values price below 0 are added, until there is none, which proves the flow optimal among all pairs.
    """
    if supply.sum() < demand.sum():
        return transport(cost.T, demand, supply).T
    unit, mass = float(cost.max()) or 1.0, float(demand.sum())
    if not mass > 0:
        raise DataError("Expected weights with a sum above 0 on both sides; found none.")
    c, a, b = cost / unit, supply / mass, demand / mass
    active = np.ones(c.shape, bool) if c.size <= WHOLE else _first_columns(c, a, b)
    while True:
        rows, columns = np.nonzero(active)
        solution = _linear_program(c, a, b, rows, columns)
        reduced = c - solution.ineqlin.marginals[:, None] - solution.eqlin.marginals
        missing = (reduced < -TOLERANCE) & ~active
        if not missing.any():
            flow = np.zeros(c.shape)
            flow[rows, columns] = np.maximum(solution.x, 0) * mass
            return flow
        active |= missing & (reduced <= _nth_lowest(reduced, NEIGHBOURS))


def _linear_program(c: Floats, a: Floats, b: Floats, rows: Ints, columns: Ints) -> Any:
    """Minimize over the given pairs: every demand is met, no supply is exceeded."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    pairs, ones = np.arange(len(rows)), np.ones(len(rows))
    sent = csr_array((ones, (rows, pairs)), shape=(len(a), len(rows)))
    received = csr_array((ones, (columns, pairs)), shape=(len(b), len(rows)))
    options = {"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE}
    # The slack allows for the rounding of two sums that should be equal.
    found = linprog(c[rows, columns], sent, a * (1 + 1e-12) + 1e-15, received, b, method="highs", options=options)
    if found.status != 0:
        raise DataError(f"Expected a flow between the weights; the linear program found none: {found.message}")
    return found


def _first_columns(c: Floats, a: Floats, b: Floats) -> np.ndarray:
    """Return pairs (n, m) that allow a flow (the north-west corner rule), and everyone's nearest."""
    active = (c <= _nth_lowest(c, NEIGHBOURS)) | (c <= _nth_lowest(c.T, NEIGHBOURS).T)
    edges = np.unique(np.concatenate([[0.0], np.cumsum(a), np.cumsum(b)]))
    middle = (edges[1:] + edges[:-1]) / 2
    middle = middle[middle < min(a.sum(), b.sum())]
    rows = np.minimum(np.searchsorted(np.cumsum(a), middle), len(a) - 1)
    columns = np.minimum(np.searchsorted(np.cumsum(b), middle), len(b) - 1)
    active[rows, columns] = True
    return active


def _nth_lowest(values: Floats, n: int) -> Floats:
    """Return the n-th lowest value of each row, (rows, 1)."""
    n = min(n, values.shape[1])
    return np.partition(values, n - 1, axis=1)[:, n - 1 : n]
