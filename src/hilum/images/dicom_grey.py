"""From stored values to grey: modality LUT, VOI LUT or window, padding, and the sense of black and white.

All of it depends on the stored value alone, so it is worked out once for every value that occurs, in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilum.databases.dicom_elements import Elements
from hilum.databases.dicom_tags import LUT_TAGS, Header
from hilum.errors import ImageError
from hilum.images.dicom_pixels import Stored
from hilum.images.dicom_shutter import Mask

BLOCK_PIXELS = 2**20
FULL_RANGE = "full range"
Curve = NDArray[np.float64]


class LookUp(NamedTuple):
    """A look-up table: the first value that it maps, its bits, and what it maps to."""

    first: int
    bits: int
    data: Curve

    def __call__(self, values: Curve) -> Curve:
        """Look values up; those outside the table take its ends."""
        at = np.clip(np.floor(values) - self.first, 0, len(self.data) - 1)
        return self.data[at.astype(np.int64)]


def to_grey(
    values: Stored, header: Header, window: int | Literal["full"], exposed: Mask | None
) -> tuple[NDArray[np.float32], str]:
    """Return grey (H, W) in [0, 1], bright is dense, NaN where there is padding, and how it was windowed.

    ``exposed``: the pixels (H, W) that count where there is no window, all of them if None: their least and greatest
    value become 0 and 1. Raises ``ImageError`` where there are windows but not this one.
    """
    least = int(values.min())
    stored = np.arange(least, int(values.max()) + 1, dtype=np.float64)
    padding = _padding(stored, header)
    modality = _modality(stored, header)
    used = _occurring(values, exposed, least, len(stored)) & ~padding
    unit, name = _windowed(modality, used if used.any() else ~padding, header, window)
    if _inverse(header):
        unit = 1 - unit
    unit[padding] = np.nan
    return _looked_up(unit.astype(np.float32), values, least), name


def choices(header: Header) -> list[tuple[str, Callable[[Curve], Curve]]]:
    """Return the VOI LUTs and then the windows of a file, each with its name."""
    signed = _may_be_negative(header)
    tables = [t for t in (_table(item, header, signed) for item in header.items("VOILUTSequence")) if t]
    found: list[tuple[str, Callable[[Curve], Curve]]] = [("VOI LUT", _unit(table)) for table in tables]
    pairs = zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False)
    shape = header.text("VOILUTFunction") or "LINEAR"
    found += [("window", _window(c, w, shape)) for c, w in pairs if w > 0 and (w >= 1 or shape != "LINEAR")]
    return found


def _windowed(
    modality: Curve, used: NDArray[np.bool_], header: Header, window: int | Literal["full"]
) -> tuple[Curve, str]:
    """Return the curve in [0, 1]; a window in which all values that occur are one grey is not used."""
    known = choices(header)
    if window != "full" and known:
        if not 0 <= window < len(known):
            raise ImageError(f"no such window: expected 0 to {len(known) - 1}; found {window}")
        name, curve = known[window]
        unit = curve(modality)
        if not used.any() or np.ptp(unit[used]) > 0:
            return unit, f"{name} {window + 1} of {len(known)}"
    range_of = modality[used] if used.any() else modality
    low, high = (float(range_of.min()), float(range_of.max()))
    return np.clip((modality - low) / ((high - low) or 1.0), 0, 1), FULL_RANGE


def _modality(stored: Curve, header: Header) -> Curve:
    items = header.items("ModalityLUTSequence")
    table = next((t for t in (_table(item, header, header.signed) for item in items) if t), None)
    if table:
        return table(stored)
    slope, intercept = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    return stored * (slope[0] if slope and slope[0] else 1.0) + (intercept[0] if intercept else 0.0)


def _may_be_negative(header: Header) -> bool:
    """Tell whether the modality step can give a negative value, which makes VOI LUTs signed (PS3.3 C.11.2.1.1)."""
    bits = header.integer("BitsStored") or header.integer("BitsAllocated") or 16
    least = -(2.0 ** (bits - 1)) if header.signed else 0.0
    return bool(_modality(np.array([least, least + 2.0**bits - 1]), header).min() < 0)


def _window(centre: float, width: float, shape: str) -> Callable[[Curve], Curve]:
    """Return the function of DICOM PS3.3 C.11.2.1.2 that maps a window to [0, 1]."""

    def linear(x: Curve) -> Curve:
        if width == 1:
            return (x > centre - 0.5).astype(np.float64)
        return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)

    def exact(x: Curve) -> Curve:
        return np.clip((x - centre) / width + 0.5, 0, 1)

    def sigmoid(x: Curve) -> Curve:
        return 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))

    return {"LINEAR_EXACT": exact, "SIGMOID": sigmoid}.get(shape, linear)


def _unit(table: LookUp) -> Callable[[Curve], Curve]:
    top = max(2.0**table.bits - 1, float(table.data.max()))
    return lambda values: table(values) / top


def _table(item: Elements, header: Header, signed: bool) -> LookUp | None:
    """Read a look-up table of 8 or 16 bits an entry; None where it is damaged.

    ``signed``: whether the values that are looked up, and with them the first value mapped, may be negative.
    """
    descriptor, data = item.get(LUT_TAGS["LUTDescriptor"]), item.get(LUT_TAGS["LUTData"])
    if not isinstance(descriptor, bytes) or not isinstance(data, bytes) or len(descriptor) < 6:
        return None
    entries, first, bits = header.integers(descriptor[:6])
    entries = entries or 2**16
    first = header.integers(descriptor[2:4], signed=True)[0] if signed else first
    values = data[:entries] if bits <= 8 and len(data) < 2 * entries else header.integers(data[: 2 * entries])
    if not 1 <= bits <= 16 or len(values) < entries:
        return None
    return LookUp(first, bits, np.array(list(values), np.float64))


def _padding(stored: Curve, header: Header) -> NDArray[np.bool_]:
    value = header.integer("PixelPaddingValue", header.signed)
    limit = header.integer("PixelPaddingRangeLimit", header.signed)
    if value is None:
        return np.zeros(len(stored), bool)
    limit = value if limit is None else limit
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _inverse(header: Header) -> bool:
    """MONOCHROME1 and the presentation LUT INVERSE say the same; a file of both is inverted once."""
    return header.text("PhotometricInterpretation") == "MONOCHROME1" or header.text("PresentationLUTShape") == "INVERSE"


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_PIXELS // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


def _occurring(values: Stored, exposed: Mask | None, least: int, count: int) -> NDArray[np.bool_]:
    """Return which of ``count`` values from ``least`` on are exposed, in blocks, for indices take 8 bytes a pixel."""
    found = np.zeros(count, bool)
    for block in _blocks(*values.shape):
        seen = values[block] if exposed is None else values[block][exposed[block]]
        found[seen.astype(np.int64) - least] = True
    return found


def _looked_up(curve: NDArray[np.float32], values: Stored, least: int) -> NDArray[np.float32]:
    grey = np.empty(values.shape, np.float32)
    for block in _blocks(*values.shape):
        grey[block] = curve[values[block].astype(np.int64) - least]
    return grey
