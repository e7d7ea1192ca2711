"""A perceptual hash: the same radiograph at another size, exposure or polarity, or padded, has nearly the same bits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
FREQUENCIES = 16
BITS = FREQUENCIES**2 - 1
NEAR = 28
"""Bits in which two copies of an image differ at most; see docs/reference/leakage.md for how it was found."""
CHUNK = 1024
"""Images that are held at once."""
CELLS = 2**25
"""Pairs of hashes that are compared at once."""
BORDER = 20
"""Grey values by which the pixels of a line of a uniform border differ at most: JPEG adds noise to it."""


def perceptual_hash(squares: NDArray[np.uint8], frames: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return two hashes (N, 2, 255) of letterboxed images (N, S, S) whose content lies in ``frames`` (N, 4).

    The first is of the whole image, the second of what lies inside a uniform border, without one the same. The content
    is reduced to 64 × 64, its grey values to their ranks, so that no monotone change of exposure counts, and the signs
    of its 16 × 16 lowest cosine frequencies but the mean are the bits (after Zauner 2010, with ranks).
    """
    from scipy.fft import dctn
    from scipy.stats import rankdata

    bits = np.empty((len(squares), 2, BITS), bool)
    for start in range(0, len(squares), CHUNK):
        part = slice(start, start + CHUNK)
        small = np.stack([_contents(s, f) for s, f in zip(squares[part], frames[part], strict=True)])
        ranks = rankdata(small.reshape(len(small), 2, -1), axis=2).reshape(small.shape).astype(np.float32)
        waves = dctn(ranks, axes=(2, 3))[:, :, :FREQUENCIES, :FREQUENCIES]
        bits[part] = waves.reshape(len(small), 2, -1)[:, :, 1:] > 0
    return bits


def near_pairs(a: NDArray[np.bool_], b: NDArray[np.bool_], distance: int = NEAR) -> NDArray[np.int64]:
    """Return the pairs (P, 2) of rows of ``a`` and ``b`` that differ in at most ``distance`` bits, or in all but those.

    The latter are images of opposite polarity: an inversion turns every bit. Of the four distances between two images,
    with and without their borders, the least counts.
    """
    (of_a, bits_a), (of_b, bits_b) = _distinct(a), _distinct(b)
    signs = np.where(bits_b, np.float32(1), np.float32(-1)).T
    found = [np.empty((0, 2), np.int64)]
    step = max(1, CELLS // max(1, len(bits_b)))
    for start in range(0, len(bits_a), step):
        agreement = np.where(bits_a[start : start + step], np.float32(1), np.float32(-1)) @ signs
        rows, columns = np.nonzero(np.abs(agreement) >= BITS - 2 * distance)
        found.append(np.column_stack([of_a[rows + start], of_b[columns]]))
    return np.unique(np.concatenate(found), axis=0)


def _distinct(hashes: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the image of each hash and the hash, the second of an image only where it differs from its first."""
    whole, inner = hashes[:, 0], hashes[:, 1]
    bordered = np.flatnonzero((whole != inner).any(axis=1))
    return np.concatenate([np.arange(len(hashes)), bordered]), np.concatenate([whole, inner[bordered]])


def _contents(square: NDArray[np.uint8], frame: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the content of a square, and the content inside its border, reduced (2, 64, 64)."""
    left, top, right, bottom = np.rint(np.asarray(frame) * len(square)).astype(int)
    content = square[top:bottom, left:right]
    image = Image.fromarray(content)
    boxes = (None, _inside(content))
    return np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, box)) for box in boxes])


def _inside(content: NDArray[np.uint8]) -> tuple[float, float, float, float] | None:
    """Return what lies inside a uniform border (left, top, right, bottom) in px; None where next to nothing does."""
    top, bottom = _span(content)
    if bottom - top < FREQUENCIES:
        return None
    left, right = _span(content[int(top) : math.ceil(bottom)].T)
    return (left, top, right, bottom) if right - left >= FREQUENCIES else None


def _span(lines: NDArray[np.uint8]) -> tuple[float, float]:
    return _start(lines), len(lines) - _start(lines[::-1])


def _start(lines: NDArray[np.uint8]) -> float:
    """Return where lines (n, m) leave the grey of the first, in fractions of a line.

    Resizing blends border and content: a line counts as content by its difference from the border, as a share of that
    of a line further in.
    """
    apart = np.abs(lines - np.median(lines[0]))
    first = int(np.argmax(apart.max(axis=1) > BORDER))
    if first == 0:
        return 0.0
    inner = min(first + 2, len(lines) - 1)
    blended = apart[first - 1 : inner].mean(axis=1) / max(1, apart[inner].mean())
    return float(inner - np.minimum(1, blended).sum())
