"""Radiographs from DICOM, as a clinician would see them.

In order: refuse what is no grey single-frame radiograph; decode; modality LUT; VOI LUT or window, or else the range of
what is exposed; the sense of black and white; nothing where there is padding or a shutter; turn to the display in
which the patient's right is on the viewer's left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilum.databases.dicom_tags import Header, read_header, require_frontal, require_radiograph
from hilum.errors import ImageError
from hilum.images.decode import BROKEN, read_bytes
from hilum.images.dicom_border import inside_black_border
from hilum.images.dicom_grey import to_grey
from hilum.images.dicom_pixels import stored_values
from hilum.images.dicom_shutter import left_open, overlap

TRANSPOSED, MIRRORED, UPSIDE_DOWN = "transposed", "mirrored", "upside down"
FLIPPED_AXIS = {MIRRORED: -1, UPSIDE_DOWN: -2}


@dataclass(frozen=True)
class Radiograph:
    """One radiograph as displayed; nothing in it names the patient.

    ``pixels``: float32 (H, W) in [0, 1], bright is dense; NaN, which is shown black and does not count in the
    intensity, where there is padding or a shutter; ``window``: how they were windowed, such as 'window 1 of 2',
    'VOI LUT 1 of 1' or 'full range'; ``view``: 'PA', 'AP', 'FRONTAL', 'LATERAL', None where it is not stated;
    ``turned``: what was undone, in this order, of 'transposed', 'mirrored', 'upside down'; ``laterality``: 'L', 'R',
    'B' or None; ``pixel_spacing``: mm between rows and between columns of ``pixels``, from the tag ``spacing_from``.
    """

    pixels: NDArray[np.float32]
    window: str
    view: str | None
    turned: tuple[str, ...]
    laterality: str | None
    pixel_spacing: tuple[float, float] | None
    spacing_from: str | None

    def exposed(self) -> NDArray[np.float32]:
        """Return the pixels with NaN in burnt-in black borders too, so that they do not count in the intensity."""
        return np.where(inside_black_border(self.pixels), self.pixels, np.float32(np.nan))


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
    return read_dicom(data, allow_lateral=True).exposed()


def turn(image: NDArray[np.floating], turns: Iterable[str]) -> NDArray[np.floating]:
    """Turn an image or a stack of maps (…, H, W); each turn undoes itself, so ``reversed(turns)`` is the way back."""
    for name in turns:
        image = image.swapaxes(-1, -2) if name == TRANSPOSED else np.flip(image, FLIPPED_AXIS[name])
    return np.ascontiguousarray(image)


def _radiograph(header: Header, window: int | Literal["full"]) -> Radiograph:
    values = stored_values(header)
    rows, columns = values.shape
    shutter, collimator = (left_open(header, device, (rows, columns)) for device in ("Shutter", "Collimator"))
    exposed = overlap([mask for mask in (shutter, collimator) if mask is not None])
    pixels, windowed = to_grey(values, header, window, exposed)
    if shutter is not None:
        pixels[~shutter] = np.nan
    view = header.view
    turns = () if view == "LATERAL" else _turns(header)
    spacing, source = header.pixel_spacing or (None, None)
    if spacing and TRANSPOSED in turns:
        spacing = spacing[::-1]
    return Radiograph(turn(pixels, turns), windowed, view, turns, header.laterality, spacing, source)


def _turns(header: Header) -> tuple[str, ...]:
    """Return what makes the rows of a frontal image lead to the patient's left and its columns to the feet."""
    if header.orientation is None:
        return ()
    across, down = header.orientation
    turns = []
    if across[0] in "HF" and down[0] in "LR":
        turns.append(TRANSPOSED)
        across, down = down, across
    if across[0] == "R":
        turns.append(MIRRORED)
    if down[0] == "H":
        turns.append(UPSIDE_DOWN)
    return tuple(turns)
