"""Label policies: what an uncertain label (-1) becomes when a site is loaded.

Raw labels are 1 positive, 0 negative, -1 uncertain, NaN unknown. A policy returns targets in which
NaN means unknown: masked out of loss and metric, never a negative.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hilum.errors import UnknownName

Labels = NDArray[np.float32]


def _uncertain_as(value: float) -> Callable[[Labels], Labels]:
    def apply(raw: Labels) -> Labels:
        return np.where(raw == -1, np.float32(value), raw).astype(np.float32)

    return apply


LABEL_POLICIES: dict[str, Callable[[Labels], Labels]] = {
    "ignore": _uncertain_as(np.nan),
    "zeros": _uncertain_as(0.0),
    "ones": _uncertain_as(1.0),
}


def apply_policy(name: str, raw: Labels) -> Labels:
    """Return the targets of raw labels under a named policy.

    Shapes: ``raw`` (N, C) in {1, 0, -1, NaN} → (N, C) in {1, 0, NaN}. Names follow Irvin et al. 2019
    (U-Ignore, U-Zeros, U-Ones). Raises ``UnknownName``.

    >>> apply_policy("ones", np.array([[1, 0, -1]], np.float32)).tolist()
    [[1.0, 0.0, 1.0]]
    """
    if name not in LABEL_POLICIES:
        raise UnknownName("label policy", name, LABEL_POLICIES)
    return LABEL_POLICIES[name](raw)
