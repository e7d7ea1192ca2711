"""Run-length encoding of masks: one text form inside, and the forms in which databases publish theirs.

Inside, a mask (H, W) is the lengths of its runs, column by column from the top left, the first run of zeros
(possibly '0'), separated by spaces: the uncompressed form of COCO.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.errors import DataError


def encode(mask: NDArray[np.bool_]) -> str:
    """Return the runs of a mask (H, W).

    >>> encode(np.array([[False, True], [True, True]]))
    '1 3'
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], ends, [flat.size])))
    return " ".join(map(str, [0, *runs] if flat.size and flat[0] else runs))


def decode(runs: str, width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of its runs; raises ``DataError`` where they do not fill the frame."""
    lengths = np.array(runs.split(), np.int64)
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise DataError(
            f"Expected the runs of a mask to fill {width} × {height} px; found {int(lengths.sum())} px. "
            "Download the file of the masks again."
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def from_relative_pairs(pairs: str, width: int, height: int) -> str:
    """Return the runs of SIIM-ACR's form: pairs of (zeros since the last run, ones), column by column."""
    lengths = [int(number) for number in pairs.split()]
    return _filled(lengths, width * height)


def from_coco(counts: str, width: int, height: int) -> str:
    """Return the runs of COCO's compressed form: differences to the run before the last, five bits a character."""
    lengths: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        code = byte - 48
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return _filled(lengths, width * height)


def _filled(lengths: list[int], size: int) -> str:
    """Return alternating runs, the last made to reach ``size``; raises ``DataError`` where they pass it."""
    rest = size - sum(lengths)
    if rest < 0 or min(lengths, default=0) < 0:
        raise DataError(
            f"Expected the runs of a mask within {size} px; found {sum(lengths)} px. "
            "Download the file of the masks again."
        )
    if not rest:
        return " ".join(map(str, lengths))
    if len(lengths) % 2:
        return " ".join(map(str, [*lengths[:-1], lengths[-1] + rest]))
    return " ".join(map(str, [*lengths, rest]))
