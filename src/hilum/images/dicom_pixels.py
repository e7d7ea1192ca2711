"""The stored values of a DICOM radiograph, before anything is made of them: plain, run-length coded or compressed."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilum.databases.dicom_elements import UNDEFINED, read_fragments
from hilum.databases.dicom_tags import Header
from hilum.errors import ImageError
from hilum.images.decode import check_size
from hilum.images.dicom_codestream import LS, SIZE_2000, Frame, decode_codestream

Stored = NDArray[np.integer]
RLE = "1.2.840.10008.1.2.5"


class Grid(NamedTuple):
    """Size in px, and where in a cell of 8 or 16 bits a value lies."""

    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: bool


def stored_values(header: Header) -> Stored:
    """Return the values (H, W) as they were stored, uint8 to int16; raises ``ImageError``.

    The size is checked before anything is decoded; bits that do not belong to the value are masked. JPEG 2000 and
    JPEG-LS streams of more bits than the header says are believed.
    """
    grid = _grid(header)
    assert header.file.pixels is not None
    if header.file.pixels.length != UNDEFINED:
        return _values(_plain(header, grid), grid, grid.allocated)
    fragments = read_fragments(header.file)
    if header.file.syntax == RLE:
        return _values(_run_lengths(b"".join(fragments), grid), grid, grid.allocated)
    raw, frame = decode_codestream(b"".join(fragments), header.file.syntax, grid.rows, grid.columns)
    return raw if frame.signed else _values(raw, _as_coded(grid, frame), frame.precision)


def _as_coded(grid: Grid, frame: Frame) -> Grid:
    """Widen the values to the bits of a stream that codes values; other streams code cells, overlays and all."""
    if frame.marker not in (LS, SIZE_2000) or grid.high >= grid.stored or frame.precision <= grid.stored:
        return grid
    return grid._replace(stored=frame.precision, high=frame.precision - 1)


def _grid(header: Header) -> Grid:
    rows, columns = header.integer("Rows"), header.integer("Columns")
    if rows is None or columns is None:
        raise ImageError("truncated or damaged: the header does not state rows and columns")
    check_size(columns, rows)
    allocated, stored = header.integer("BitsAllocated"), header.integer("BitsStored")
    stored = allocated if stored is None else stored
    if allocated not in (8, 16) or stored is None or not 1 <= stored <= allocated:
        raise ImageError(f"unsupported coding: expected 1 to 16 bits in 8 or 16; found {stored} in {allocated}")
    high = header.integer("HighBit")
    high = high if high is not None and stored <= high + 1 <= allocated else stored - 1
    return Grid(rows, columns, allocated, stored, high, header.signed)


def _values(raw: Stored, grid: Grid, precision: int) -> Stored:
    """Shift, mask and sign-extend cells in which ``precision`` bits count."""
    cell = 8 * raw.dtype.itemsize
    stored = min(grid.stored, cell)
    top = min(precision, grid.high + 1, cell)
    if not grid.signed:
        shifted = raw >> max(0, top - stored)
        return shifted & raw.dtype.type(2**stored - 1)
    upwards = raw << (cell - max(top, stored))
    return upwards.view(f"i{raw.dtype.itemsize}") >> (cell - stored)


def _plain(header: Header, grid: Grid) -> Stored:
    place, source = header.file.pixels, header.file.source
    assert place is not None
    size = grid.rows * grid.columns * grid.allocated // 8
    source.seek(place.start)
    data = source.read(min(place.length, size + size % 2))
    if len(data) < size:
        raise ImageError(f"truncated or damaged: expected {size:,} bytes of pixels; found {len(data):,}")
    order = "<" if header.file.little else ">"
    if grid.allocated == 8 and order == ">" and place.vr == b"OW":
        data = np.frombuffer(data.ljust(size + size % 2, b"\0"), ">u2").astype("<u2").tobytes()
    cells = np.frombuffer(data[:size], f"{order}u{grid.allocated // 8}")
    return cells.astype(cells.dtype.newbyteorder("=")).reshape(grid.rows, grid.columns)


def _run_lengths(data: bytes, grid: Grid) -> Stored:
    """Decode RLE Lossless: one run-length coded plane a byte of the cell, the high byte first."""
    planes = grid.allocated // 8
    if len(data) < 64 or struct.unpack("<I", data[:4])[0] != planes:
        raise ImageError(f"truncated or damaged: expected {planes} run-length coded planes; found another number")
    bounds = [*struct.unpack(f"<{planes}I", data[4 : 4 + 4 * planes]), len(data)]
    pixels = grid.rows * grid.columns
    cells = np.zeros(pixels, f"u{planes}")
    for start, stop in pairwise(bounds):
        plane = _unpack(data[start:stop], pixels)
        if len(plane) < pixels:
            raise ImageError("truncated or damaged: the run-length coded pixels end early")
        cells = (cells << 8 if planes > 1 else cells) | np.frombuffer(plane, np.uint8, pixels)
    return cells.astype(f"u{planes}").reshape(grid.rows, grid.columns)


def _unpack(coded: bytes, length: int) -> bytearray:
    """Undo PackBits up to ``length`` bytes; more than twice as many coded bytes are not looked at."""
    coded = coded[: 2 * length + 64]
    plane, at, end = bytearray(), 0, len(coded) - 1
    while at < end and len(plane) < length:
        head = coded[at]
        if head < 128:
            plane += coded[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:
            plane += coded[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    return plane
