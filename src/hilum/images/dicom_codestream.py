"""Compressed pixel data of DICOM: what the stream says of itself, and the decoder that reads it.

The size in the stream is compared with that of the header first, so that no decoder meets a size that nobody checked.
Pillow decodes JPEG of 8 bits and JPEG 2000. JPEG Lossless, JPEG-LS and JPEG of 12 bits need GDCM, which damaged data
can bring down or hold up, so that it works in a process of its own (``dicom_child``).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Jpeg2KImagePlugin, JpegImagePlugin

from hilum.errors import ImageError
from hilum.images.decode import BROKEN, check_scans

JPEG, JPEG2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
LOSSLESS, LS, SIZE_2000 = 0xC3, 0xF7, 0x51
SECONDS, SECONDS_A_PIXEL = 20.0, 4e-6
SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K Lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K Lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
EXTENDED_12 = "1.2.840.10008.1.2.4.51"
BY_GDCM = {LOSSLESS: "1.2.840.10008.1.2.4.57", LS: "1.2.840.10008.1.2.4.80"}

Decoded = tuple[NDArray[np.integer], "Frame"]


class Frame(NamedTuple):
    """What a stream says of itself: marker of its process, bits, height, width, components, whether it is signed."""

    marker: int
    precision: int
    height: int
    width: int
    components: int
    signed: bool = False


def decode_codestream(data: bytes, syntax: str, rows: int, columns: int) -> Decoded:
    """Return the cells (H, W), which are values already where the stream is signed, and what the stream says.

    Raises ``ImageError`` for data that are damaged, of another size than ``rows`` × ``columns``, or whose decoder is
    not installed.
    """
    name = SYNTAXES.get(syntax, "another coding")
    if (start := data.find(JPEG2000, 0, 1024)) >= 0:
        return _jpeg2000(data[start:], rows, columns)
    if data[:2] != JPEG:
        raise ImageError(f"unsupported coding: expected JPEG, JPEG-LS, JPEG 2000 or RLE; found {name}")
    frame = jpeg_frame(data)
    _check(frame, rows, columns)
    if frame.marker in BY_GDCM and 2 <= frame.precision <= 16:
        return _gdcm(data, BY_GDCM[frame.marker], frame), frame
    if frame.precision == 8 and frame.marker < LOSSLESS:
        return _jpeg(data), frame
    if frame.precision == 12 and frame.marker < LOSSLESS:
        return _gdcm(data, EXTENDED_12, frame), frame
    raise ImageError(f"unsupported coding: expected 8, 12 or lossless bits in JPEG; found {frame.precision} in {name}")


def jpeg_frame(data: bytes) -> Frame:
    """Read the frame header of JPEG or JPEG-LS; raises ``ImageError`` where there is none."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in SIZE_MARKERS:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            return Frame(marker, data[at + 4], height, width, data[at + 9])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ImageError("truncated or damaged: the compressed image has no header")


def _jpeg2000_frame(data: bytes) -> Frame:
    """Read the size marker that follows the first marker of a JPEG 2000 stream."""
    if len(data) < 43:
        raise ImageError("truncated or damaged: the compressed image has no header")
    right, bottom, left, top = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16, 20))
    components = int.from_bytes(data[40:42], "big")
    return Frame(SIZE_2000, (data[42] & 0x7F) + 1, bottom - top, right - left, components, data[42] > 0x7F)


def _check(frame: Frame, rows: int, columns: int) -> None:
    if frame.components != 1:
        raise ImageError(f"colour: expected one component in the compressed image; found {frame.components}")
    if (frame.height, frame.width) != (rows, columns):
        raise ImageError(
            f"truncated or damaged: expected a compressed image of {columns} × {rows}, as in the header; "
            f"found {frame.width} × {frame.height}"
        )


def _jpeg(data: bytes) -> NDArray[np.integer]:
    check_scans(data)
    try:
        with JpegImagePlugin.JpegImageFile(BytesIO(data)) as image:
            return np.array(image)
    except BROKEN as error:
        raise ImageError(f"truncated or damaged: {error}") from None


def _jpeg2000(data: bytes, rows: int, columns: int) -> Decoded:
    """Pillow spreads the bits over 8 or 16 and adds half the range to signed values; both are undone here."""
    frame = _jpeg2000_frame(data)
    _check(frame, rows, columns)
    if frame.precision > 16:
        raise ImageError(f"unsupported coding: expected up to 16 bits in JPEG 2000; found {frame.precision}")
    try:
        with Jpeg2KImagePlugin.Jpeg2KImageFile(BytesIO(data)) as image:
            cells = np.array(image)
    except BROKEN as error:
        raise ImageError(f"truncated or damaged: {error}") from None
    cells = cells >> (8 * cells.dtype.itemsize - frame.precision)
    if frame.signed:
        cells = cells.astype(np.int32) - 2 ** (frame.precision - 1)
        return cells.astype(np.int16), frame
    return cells, frame


def _gdcm(data: bytes, syntax: str, frame: Frame) -> NDArray[np.integer]:
    """Decode in a process of its own, which is stopped when it takes too long."""
    if find_spec("gdcm") is None:
        raise ImageError(f"decoder absent: {SYNTAXES[syntax]} needs the extra: pip install 'hilum[dicom]'")
    numbers = [str(n) for n in (frame.height, frame.width, frame.precision)]
    command = [sys.executable, "-P", "-m", "hilum.images.dicom_child", syntax, *numbers]
    seconds = SECONDS + SECONDS_A_PIXEL * frame.height * frame.width
    try:
        child = subprocess.run(command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ImageError(f"truncated or damaged: {SYNTAXES[syntax]} was not decoded in {seconds:.0f} s") from None
    if child.returncode:
        raise ImageError(f"truncated or damaged: {SYNTAXES[syntax]} data that cannot be decoded")
    return _cells(child.stdout, frame)


def _cells(data: bytes, frame: Frame) -> NDArray[np.integer]:
    """Return decoded bytes as cells of 8 bits, or of 16 where the precision asks for them."""
    cell = 1 if frame.precision <= 8 else 2
    if len(data) != frame.height * frame.width * cell:
        raise ImageError("truncated or damaged: the compressed image is shorter than its header says")
    return np.frombuffer(data, f"<u{cell}").astype(f"u{cell}").reshape(frame.height, frame.width)
