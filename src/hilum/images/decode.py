"""Radiographs from files: PNG, JPEG and DICOM to greyscale in [0, 1].

Every decoder takes the bytes of a file and returns greyscale; another format is one line in ``DECODERS``
and one in ``SIGNATURES``.
"""

from __future__ import annotations

import stat
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from hilum.databases.dicom_elements import DICOM_HEAD, is_dicom
from hilum.errors import ImageError
from hilum.registry import Registry

DECODERS = Registry(
    "image format",
    {
        ".png": "hilum.images.decode:decode_png",
        ".jpg": "hilum.images.decode:decode_jpeg",
        ".jpeg": "hilum.images.decode:decode_jpeg",
        ".dcm": "hilum.images.dicom:decode_dicom",
    },
)
SIGNATURES = ((".png", 0, b"\x89PNG\r\n\x1a\n"), (".jpg", 0, b"\xff\xd8\xff"), (".dcm", 128, b"DICM"))

FAULTS = (
    "absent",
    "unreadable",
    "empty file",
    "wrong format",
    "truncated or damaged",
    "too small",
    "too large",
    "constant image",
    "not a radiograph",
    "lateral view",
    "multi-frame",
    "colour",
    "no photometric interpretation",
    "unsupported coding",
    "decoder absent",
)
"""How the reason of an unusable image begins, before the colon."""
MIN_SIDE = 16
MAX_PIXELS = 100_000_000
MAX_BYTES = 512 * 2**20
MAX_SCANS = 200
PNG_END = b"IEND\xaeB`\x82"
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)


def read_image(path: Path) -> NDArray[np.float32]:
    """Read a radiograph as greyscale (H, W) in [0, 1].

    The format is told from the content, not from the suffix. Colour becomes luminance (ITU-R BT.601),
    transparency is laid on black, 16-bit grey is divided by 65535; DICOM is read as ``hilum.images.dicom`` does.
    Raises ``ImageError`` with the path and the reason: absent, empty, wrong format, truncated, too small
    (a side under 16 px), too large (over 100 million pixels or 512 MiB), or another of ``FAULTS``.
    """
    try:
        return decode(read_bytes(path))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; raises ``ImageError`` with the reason alone."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ImageError("unreadable: it is no file")
        if found.st_size > MAX_BYTES:
            raise ImageError(f"too large: expected a file of at most {MAX_BYTES // 2**20} MiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("absent: there is no such file") from None
    except OSError as error:
        raise ImageError(f"unreadable: {error.strerror or error}") from None


def decode(data: bytes) -> NDArray[np.float32]:
    """Decode the bytes of an image file to greyscale (H, W) in [0, 1]; raises ``ImageError``.

    NaN where a DICOM file says that there is no image: it is shown black and does not count in the intensity.
    """
    image: NDArray[np.float32] = DECODERS.load(detect_format(data))(data)
    return image


def detect_format(data: bytes) -> str:
    """Return the suffix in ``DECODERS`` that the content calls for; raises ``ImageError``."""
    if not data:
        raise ImageError("empty file")
    found = next((s for s, at, magic in SIGNATURES if data[at : at + len(magic)] == magic), "another")
    found = ".dcm" if found == "another" and is_dicom(data[:DICOM_HEAD]) else found
    if found not in DECODERS:
        raise ImageError(f"wrong format: expected content of {', '.join(DECODERS)}; found {found}")
    return found


def decode_png(data: bytes) -> NDArray[np.float32]:
    """PNG of 1 to 16 bits, grey, palette or colour; 16-bit colour is read at 8 bits."""
    if PNG_END not in data:
        raise ImageError("truncated or damaged: the PNG has no end")
    return _decode(PngImagePlugin.PngImageFile, data)


def decode_jpeg(data: bytes) -> NDArray[np.float32]:
    """JPEG, grey, colour or CMYK."""
    check_scans(data)
    return _decode(JpegImagePlugin.JpegImageFile, data)


def _decode(opener: type[Image.Image], data: bytes) -> NDArray[np.float32]:
    try:
        with opener(BytesIO(data)) as image:  # type: ignore[call-arg]
            check_size(*image.size)
            image.draft("L", image.size)
            image.load()
            return _greyscale(image)
    except ImageError:
        raise
    except BROKEN as error:
        raise ImageError(f"truncated or damaged: {error}") from None


def check_size(width: int, height: int) -> None:
    """Raise ``ImageError`` for an image that is too small or too large to be decoded."""
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"too small: expected at least {MIN_SIDE} px a side; found {width} × {height}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"too large: expected at most {MAX_PIXELS:,} px; found {width} × {height}")


def check_scans(jpeg: bytes) -> None:
    """Raise ``ImageError`` for a JPEG that passes over the image so often that decoding would not end."""
    if (scans := jpeg.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageError(f"truncated or damaged: expected at most {MAX_SCANS} scans in the JPEG; found {scans}")


def _greyscale(image: Image.Image) -> NDArray[np.float32]:
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.float32) / np.float32(65535)
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.composite(rgba, Image.new("RGBA", rgba.size, "black"), rgba.getchannel("A"))
    return np.asarray(image.convert("L"), np.float32) / np.float32(255)
