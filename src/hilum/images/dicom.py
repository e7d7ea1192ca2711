"""Radiographs from DICOM, as a clinician would see them.

In order: refuse what is no grey single-frame radiograph; decode; modality LUT; VOI LUT or window, or else the range of
what is exposed; the sense of black and white; padding and what the shutter covers to black; turn to the display in
which the patient's right is on the viewer's left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilum.databases.dicom_tags import Header, read_header, require_frontal, require_radiograph
from hilum.errors import ImageError
from hilum.images.decode import BROKEN, read_bytes
from hilum.images.dicom_border import black_border
from hilum.images.dicom_grey import to_grey
from hilum.images.dicom_pixels import stored_values
from hilum.images.letterbox import Frame

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
EDGES = ("LeftVerticalEdge", "UpperHorizontalEdge", "RightVerticalEdge", "LowerHorizontalEdge")
TRANSPOSED, MIRRORED, UPSIDE_DOWN = "transposed", "mirrored", "upside down"
WHOLE = Frame(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Radiograph:
    """One radiograph, and what its file says of it; nothing in it names the patient.

    ``pixels``: float32 (H, W) in [0, 1], bright is dense; ``window``: how they were windowed, such as 'window 1 of
    2', 'VOI LUT 1 of 1' or 'full range'; ``view``: 'PA', 'AP', 'FRONTAL', 'LATERAL'; ``laterality``: 'L', 'R', 'B';
    ``orientation``: where in the patient rows and columns lead, after turning; ``turned``: what was undone, of
    'transposed', 'mirrored', 'upside down'; ``pixel_spacing``: mm between rows and between columns, from the tag
    ``spacing_from``; ``collimation``: the part of the image that shutter and collimator leave, as fractions of width
    and height. None: not stated.
    """

    pixels: NDArray[np.float32]
    window: str
    view: str | None
    laterality: str | None
    orientation: tuple[str, str] | None
    turned: tuple[str, ...]
    pixel_spacing: tuple[float, float] | None
    spacing_from: str | None
    age_years: float | None
    sex_male: float | None
    collimation: Frame | None

    def exposed(self) -> Frame:
        """Return the part of the image inside the stated collimation and inside black borders."""
        stated, found = self.collimation or WHOLE, black_border(self.pixels)
        both = Frame(*np.maximum(stated[:2], found[:2]), *np.minimum(stated[2:], found[2:]))
        return both if both.x0 < both.x1 and both.y0 < both.y1 else stated


def read_dicom(data: bytes | Path, *, window: int | Literal["full"] = 0, allow_lateral: bool = False) -> Radiograph:
    """Read a radiograph from the bytes of a DICOM file or from its path.

    ``window``: which of the file's VOI LUTs and then windows, from 0, or 'full' for the whole range of values, which
    is also taken where there is none, or where it would make all one grey. Raises ``ImageError``: the kinds of
    ``hilum.images.decode.FAULTS``; a lateral view is refused unless ``allow_lateral``. No reason holds patient data.
    """
    if isinstance(data, Path):
        try:
            return read_dicom(read_bytes(data), window=window, allow_lateral=allow_lateral)
        except ImageError as error:
            raise ImageError(f"{data}: {error}") from None
    try:
        header = read_header(BytesIO(data))
        require_radiograph(header)
        if not allow_lateral:
            require_frontal(header)
        return _radiograph(header, window)
    except BROKEN as error:
        raise ImageError(f"truncated or damaged: {type(error).__name__} in the header") from None


def decode_dicom(data: bytes) -> NDArray[np.float32]:
    """DICOM of CR, DX and secondary captures of both, as displayed; views are not filtered."""
    return read_dicom(data, allow_lateral=True).pixels


def _radiograph(header: Header, window: int | Literal["full"]) -> Radiograph:
    values = stored_values(header)
    shutter, collimator = (_box(header, name, *values.shape) for name in ("Shutter", "Collimator"))
    exposed = _both(shutter, collimator)
    pixels, windowed = to_grey(values, header, window, _slices(exposed or WHOLE, *values.shape))
    if shutter:
        visible = np.zeros_like(pixels)
        inside = _slices(shutter, *pixels.shape)
        visible[inside] = pixels[inside]
        pixels = visible
    spacing, source = _spacing(header)
    read = Radiograph(
        pixels=pixels,
        window=windowed,
        view=header.view,
        laterality=header.laterality,
        orientation=header.orientation,
        turned=(),
        pixel_spacing=spacing,
        spacing_from=source,
        age_years=header.age_years,
        sex_male=header.sex_male,
        collimation=exposed,
    )
    return read if read.view == "LATERAL" else _turned(read)


def _spacing(header: Header) -> tuple[tuple[float, float] | None, str | None]:
    for keyword in SPACINGS:
        numbers = header.numbers(keyword)
        if len(numbers) == 2 and min(numbers) > 0:
            return (numbers[0], numbers[1]), keyword
    return None, None


def _box(header: Header, name: str, height: int, width: int) -> Frame | None:
    """Return a rectangular shutter or collimator; its edges are pixels counted from 1."""
    edges = [header.numbers(f"{name}{edge}") for edge in EDGES]
    if "RECTANGULAR" not in header.text(f"{name}Shape") or not all(edges):
        return None
    left, top, right, bottom = (edge[0] for edge in edges)
    x0, x1 = np.clip(((left - 1) / width, right / width), 0, 1)
    y0, y1 = np.clip(((top - 1) / height, bottom / height), 0, 1)
    return Frame(float(x0), float(y0), float(x1), float(y1)) if x0 < x1 and y0 < y1 else None


def _both(first: Frame | None, second: Frame | None) -> Frame | None:
    if first is None or second is None:
        return first or second
    x0, y0, x1, y1 = (*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:]))
    return Frame(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else first


def _slices(frame: Frame, height: int, width: int) -> tuple[slice, slice]:
    x0, x1 = round(frame.x0 * width), round(frame.x1 * width)
    y0, y1 = round(frame.y0 * height), round(frame.y1 * height)
    return slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))


def _turned(read: Radiograph) -> Radiograph:
    """Turn a frontal image so that its rows lead to the patient's left and its columns to the feet."""
    if read.orientation is None:
        return read
    across, down = read.orientation
    if across[0] in "HF" and down[0] in "LR":
        read, (across, down) = _transposed(read), (down, across)
    if across[0] == "R":
        read, across = _flipped(read, 1, MIRRORED), "L"
    if down[0] == "H":
        read, down = _flipped(read, 0, UPSIDE_DOWN), "F"
    return replace(read, orientation=(across, down))


def _transposed(read: Radiograph) -> Radiograph:
    box, spacing = read.collimation, read.pixel_spacing
    return replace(
        read,
        pixels=np.ascontiguousarray(read.pixels.T),
        turned=(*read.turned, TRANSPOSED),
        collimation=box and Frame(box.y0, box.x0, box.y1, box.x1),
        pixel_spacing=spacing and (spacing[1], spacing[0]),
    )


def _flipped(read: Radiograph, axis: int, name: str) -> Radiograph:
    box = read.collimation
    if box:
        box = Frame(1 - box.x1, box.y0, 1 - box.x0, box.y1) if axis else Frame(box.x0, 1 - box.y1, box.x1, 1 - box.y0)
    pixels = np.ascontiguousarray(np.flip(read.pixels, axis))
    return replace(read, pixels=pixels, turned=(*read.turned, name), collimation=box)
