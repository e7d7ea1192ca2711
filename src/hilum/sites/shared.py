"""A small set that every site may see, beside its own images (Zhao et al. 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.randomness import numpy_generator
from hilum.sites.examples import Examples
from hilum.sites.site import Site


def balanced_rows(targets: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return ``count`` rows of ``targets`` (N, C), ascending, in which the classes are as equal as they can be.

    The classes are the positives of every finding, and the images that are positive of none. One image after the other
    is drawn from the class of which there are fewest yet. Images without a known label are never drawn.
    """
    known = np.asarray(~np.isnan(targets).all(1))
    positive = targets == 1
    member = np.column_stack([positive, ~positive.any(1)]) & known[:, None]
    order = rng.permutation(len(targets))
    waiting = [order[member[order, k]] for k in range(member.shape[1])]
    taken, have, place = np.zeros(len(targets), bool), np.zeros(len(waiting), np.int64), np.zeros(len(waiting), int)
    for _ in range(min(count, int(known.sum()))):
        for k, rows in enumerate(waiting):
            while place[k] < len(rows) and taken[rows[place[k]]]:
                place[k] += 1
        left = [k for k, rows in enumerate(waiting) if place[k] < len(rows)]
        scarcest = min(left, key=lambda k: have[k])
        row = waiting[scarcest][place[scarcest]]
        taken[row] = True
        have += member[row]
    return np.flatnonzero(taken)


def shared_examples(site: Site, rows: NDArray[np.int64], portion: float, seed: int, name: str) -> Examples:
    """Return the part of the shared images ``rows`` of ``site`` that the site ``name`` gets: ``portion`` of them."""
    count = max(1, round(portion * len(rows)))
    chosen = numpy_generator(seed, name, "shared").choice(rows, count, replace=False)
    return Examples(((site, np.sort(chosen)),))
