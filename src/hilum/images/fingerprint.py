"""A perceptual hash: the same radiograph at another size, bit depth, exposure or polarity has nearly the same bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
FREQUENCIES = 16
BITS = FREQUENCIES**2 - 1
NEAR = 28
"""Bits in which two copies of an image differ at most; see docs/reference/leakage.md for how it was found."""
CHUNK = 4096


def perceptual_hash(squares: NDArray[np.uint8], frames: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return the hash (N, 255) of letterboxed images (N, S, S) whose content lies in ``frames`` (N, 4).

    The content is reduced to 64 × 64, its grey values to their ranks, so that no monotone change of exposure counts,
    and the signs of its 16 × 16 lowest cosine frequencies but the mean are the bits (after Zauner 2010, with ranks).
    """
    from scipy.fft import dctn
    from scipy.stats import rankdata

    bits = np.empty((len(squares), BITS), bool)
    for start in range(0, len(squares), CHUNK):
        part = slice(start, start + CHUNK)
        small = np.stack([_content(s, f) for s, f in zip(squares[part], frames[part], strict=True)])
        ranks = rankdata(small.reshape(len(small), -1), axis=1).reshape(small.shape).astype(np.float32)
        waves = dctn(ranks, axes=(1, 2))[:, :FREQUENCIES, :FREQUENCIES]
        bits[part] = waves.reshape(len(small), -1)[:, 1:] > 0
    return bits


def near_pairs(a: NDArray[np.bool_], b: NDArray[np.bool_], distance: int = NEAR) -> NDArray[np.int64]:
    """Return the pairs (P, 2) of rows of ``a`` and ``b`` that differ in at most ``distance`` bits, or in all but those.

    The latter are images of opposite polarity: an inversion turns every bit.
    """
    signs = np.where(b, np.float32(1), np.float32(-1)).T
    found = []
    for start in range(0, len(a), CHUNK):
        agreement = np.where(a[start : start + CHUNK], np.float32(1), np.float32(-1)) @ signs
        rows, columns = np.nonzero(np.abs(agreement) >= BITS - 2 * distance)
        found.append(np.column_stack([rows + start, columns]))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _content(square: NDArray[np.uint8], frame: NDArray[np.floating]) -> NDArray[np.uint8]:
    left, top, right, bottom = np.rint(np.asarray(frame) * len(square)).astype(int)
    image = Image.fromarray(square[top:bottom, left:right])
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
