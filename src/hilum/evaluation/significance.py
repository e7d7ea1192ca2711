"""Many tests at once: Holm's correction, and the Friedman test of many arms with Nemenyi's pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from hilum.errors import DataError
from hilum.evaluation.classification import Floats


@dataclass(frozen=True)
class Ranks:
    """Mean ranks (1 is best) of K arms over ``blocks``, and how far apart they must be to differ.

    ``p`` is Friedman's over all arms; ``pairs`` (K, K) are Nemenyi's p values of two arms, 1 on the diagonal.
    """

    names: tuple[str, ...]
    ranks: Floats
    blocks: int
    p: float
    critical_difference: float
    pairs: Floats


def holm(p: ArrayLike) -> Floats:
    """Return the p values of one family of tests, corrected for their number; NaN ones are no tests and stay NaN.

    The chance of any false finding in the family stays below the level at which they are read (Holm 1979).

    >>> holm([0.01, 0.04, 0.03, float("nan")]).round(2)
    array([0.03, 0.06, 0.06,  nan])
    """
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    stepped = values[order] * np.arange(len(order), 0, -1)
    corrected = np.full(values.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def friedman_nemenyi(values: ArrayLike, names: Sequence[str], level: float = 0.05) -> Ranks:
    """Rank K arms in each block, such as a training seed, and test whether their mean ranks differ.

    ``values`` (blocks, K), higher is better. Friedman 1937; Nemenyi 1963: two arms differ where their mean ranks are
    at least q √(K (K + 1) / (6 blocks)) apart (Demšar 2006, section 3.2.2). Friedman's p is NaN where all arms tie
    everywhere. Raises ``DataError`` for fewer than three arms or two blocks, or a value that is not finite.
    """
    v = np.asarray(values, dtype=np.float64)
    if v.ndim != 2 or v.shape[1] != len(names) or len(names) < 3 or len(v) < 2 or not np.isfinite(v).all():
        raise DataError(
            f"Expected finite values (blocks, arms) of at least 2 blocks and 3 arms, one name each; found {v.shape} "
            f"and {len(names)} names."
        )
    blocks, arms = v.shape
    ranks = rankdata(-v, axis=1).mean(axis=0)
    unit = np.sqrt(arms * (arms + 1) / (6 * blocks))
    apart = np.abs(ranks[:, None] - ranks) / unit * np.sqrt(2)
    tied = (v == v[:, :1]).all()
    p = float("nan") if tied else float(friedmanchisquare(*v.T).pvalue)
    critical = float(studentized_range.ppf(1 - level, arms, np.inf) / np.sqrt(2) * unit)
    pairs = np.asarray(studentized_range.sf(apart, arms, np.inf), dtype=np.float64).clip(0, 1)
    np.fill_diagonal(pairs, 1)
    return Ranks(tuple(names), ranks, blocks, p, critical, pairs)
