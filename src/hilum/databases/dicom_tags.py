"""What the header of a DICOM radiograph tells: the tags that are read, and what makes a file no chest radiograph.

Nothing outside ``TAGS`` is read, and the three identifiers only to be hashed.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from hilum.databases.dicom_elements import META_CLASS, DicomFile, Elements, Wanted, read_elements, text_of
from hilum.databases.layout import OLDEST_YEARS
from hilum.errors import ImageError

TAGS = {
    "SOPClassUID": 0x00080016,
    "Modality": 0x00080060,
    "PatientSex": 0x00100040,
    "PatientAge": 0x00101010,
    "BodyPartExamined": 0x00180015,
    "ImagerPixelSpacing": 0x00181164,
    "ShutterShape": 0x00181600,
    "ShutterLeftVerticalEdge": 0x00181602,
    "ShutterRightVerticalEdge": 0x00181604,
    "ShutterUpperHorizontalEdge": 0x00181606,
    "ShutterLowerHorizontalEdge": 0x00181608,
    "CenterOfCircularShutter": 0x00181610,
    "RadiusOfCircularShutter": 0x00181612,
    "VerticesOfThePolygonalShutter": 0x00181620,
    "CollimatorShape": 0x00181700,
    "CollimatorLeftVerticalEdge": 0x00181702,
    "CollimatorRightVerticalEdge": 0x00181704,
    "CollimatorUpperHorizontalEdge": 0x00181706,
    "CollimatorLowerHorizontalEdge": 0x00181708,
    "CenterOfCircularCollimator": 0x00181710,
    "RadiusOfCircularCollimator": 0x00181712,
    "VerticesOfThePolygonalCollimator": 0x00181720,
    "NominalScannedPixelSpacing": 0x00182010,
    "ViewPosition": 0x00185101,
    "PatientOrientation": 0x00200020,
    "Laterality": 0x00200060,
    "ImageLaterality": 0x00200062,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "VOILUTFunction": 0x00281056,
    "PresentationLUTShape": 0x20500020,
}
LUT_TAGS = {"LUTDescriptor": 0x00283002, "LUTData": 0x00283006}
SEQUENCES = {"ModalityLUTSequence": 0x00283000, "VOILUTSequence": 0x00283010, "ViewCodeSequence": 0x00540220}
CODE_VALUE = 0x00080100
IDENTIFIERS = {"SOPInstanceUID": 0x00080018, "PatientID": 0x00100020, "StudyInstanceUID": 0x0020000D}

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
MODALITIES = ("CR", "DX", "RG")
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CLASSES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1", CAPTURE)
OTHER_MODALITIES = (
    "AR BI BMD CT DOC ECG ES GM IO IVUS KER KO LS MG MR NM OAM OCT OP OT PR PT PX REG RF RTDOSE RTIMAGE RTPLAN "
    "RTRECORD RTSTRUCT RWV SC SEG SM SR TG US VA XA XC"
)
_CHEST = re.compile(r"CHEST|TH?ORAX|TORACE|LUNG|(?<![A-Z])RIBS?(?![A-Z])")
_VIEWS = {"PA": "PA", "AP": "AP"} | dict.fromkeys(("LL", "RL"), "LATERAL")
_VIEW_CODES = {
    **dict.fromkeys(("272479007", "R-10214", "R-40888"), "PA"),
    **dict.fromkeys(("399348003", "R-10206"), "AP"),
    **dict.fromkeys(("399033003", "R-10202"), "FRONTAL"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "R-102CD", "R-10232", "R-10236"), "LATERAL"),
}
_AGE = re.compile(r"(\d{1,3})([YMWD])")
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


@dataclass(frozen=True)
class Header:
    """The tags of one file, converted when they are asked for; a value that cannot be read counts as absent."""

    file: DicomFile

    def text(self, keyword: str) -> str:
        """Return the text of an element of ``TAGS`` in capitals, '' where it is absent."""
        return text_of(self.file.elements.get(TAGS[keyword], b"")).upper()

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the finite numbers of an element that is written as text, as pixel spacing is."""
        try:
            values = tuple(float(part) for part in self.text(keyword).split("\\") if part.strip())
        except ValueError:
            return ()
        return values if all(math.isfinite(value) for value in values) else ()

    def integer(self, keyword: str, signed: bool = False) -> int | None:
        """Return a binary integer of two bytes, None where it is absent."""
        value = self.file.elements.get(TAGS[keyword], b"")
        return self.integers(value, signed)[0] if isinstance(value, bytes) and len(value) >= 2 else None

    def integers(self, value: bytes, signed: bool = False) -> tuple[int, ...]:
        """Return bytes as integers of two bytes in the byte order of the file."""
        letter, count = ("h" if signed else "H"), len(value) // 2
        return struct.unpack(f"{'<' if self.file.little else '>'}{count}{letter}", value[: 2 * count])

    def items(self, keyword: str) -> Sequence[Elements]:
        """Return the items of a sequence."""
        value = self.file.elements.get(SEQUENCES[keyword], [])
        return value if isinstance(value, list) else []

    @property
    def signed(self) -> bool:
        """Whether the stored values are two's complement."""
        return self.integer("PixelRepresentation") == 1

    @property
    def view(self) -> str | None:
        """The view: stated by name or by code, or told from the directions of rows and columns."""
        if named := named_view(self.text("ViewPosition")):
            return named
        codes = (text_of(item.get(CODE_VALUE, b"")) for item in self.items("ViewCodeSequence"))
        if coded := next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), None):
            return coded
        directions = {part[:1] for part in self.orientation or ()}
        if directions <= set("HF") or not self.orientation:
            return None
        return "LATERAL" if directions & set("AP") else "FRONTAL"

    @property
    def laterality(self) -> str | None:
        """'L', 'R' or 'B' where it is stated."""
        stated = self.text("ImageLaterality") or self.text("Laterality")
        return stated if stated in ("L", "R", "B") else None

    @property
    def pixel_spacing(self) -> tuple[tuple[float, float], str] | None:
        """Mm between rows and between columns, and the tag that says so; only the first is at the patient's depth."""
        stated = ((self.numbers(keyword), keyword) for keyword in SPACINGS)
        return next((((n[0], n[1]), keyword) for n, keyword in stated if len(n) == 2 and min(n) > 0), None)

    @property
    def orientation(self) -> tuple[str, str] | None:
        """Where in the patient rows and columns lead, as ('L', 'F'), where it is stated."""
        parts = self.text("PatientOrientation").replace(" ", "").split("\\")
        stated = len(parts) == 2 and all(part and set(part) <= set("LRAPHF") for part in parts)
        return (parts[0], parts[1]) if stated else None

    @property
    def chest(self) -> bool:
        """Whether the body part is the chest, as in 'PORT CHEST' or 'RIBS LEFT', or not stated."""
        part = self.text("BodyPartExamined")
        return not part or _CHEST.search(part) is not None

    @property
    def age_years(self) -> float | None:
        """Age in years, None where it is absent, without its unit or above 120."""
        if not (match := _AGE.fullmatch(self.text("PatientAge"))):
            return None
        years = int(match[1]) * _YEARS[match[2]]
        return years if years <= OLDEST_YEARS else None

    @property
    def sex_male(self) -> float | None:
        """1 for male, 0 for female, None for another or none."""
        return {"M": 1.0, "F": 0.0}.get(self.text("PatientSex"))


def named_view(position: str) -> str | None:
    """Return the view that a View Position in capitals names, such as 'PA', 'LL' or 'XTABLE LATERAL'.

    None for a lateral decubitus: the patient lies on the side, and the film is frontal.
    """
    return _VIEWS.get(position) or ("LATERAL" if "LAT" in position and "DECUB" not in position else None)


def read_header(source: BinaryIO, identifiers: Sequence[str] = ()) -> Header:
    """Read the header of an open DICOM file up to its pixels; raises ``ImageError``.

    ``identifiers``: keywords of ``IDENTIFIERS`` to read as well; they are to be hashed by the caller.
    """
    lut: Wanted = dict.fromkeys(LUT_TAGS.values())
    wanted: dict[int, Wanted | None] = dict.fromkeys(TAGS.values())
    wanted |= {SEQUENCES["ModalityLUTSequence"]: lut, SEQUENCES["VOILUTSequence"]: lut}
    wanted[SEQUENCES["ViewCodeSequence"]] = {CODE_VALUE: None}
    wanted |= dict.fromkeys(IDENTIFIERS[keyword] for keyword in identifiers)
    return Header(read_elements(source, wanted))


def identifier(header: Header, keyword: str) -> str:
    """Return an identifier byte for byte (Latin-1 loses none), to be hashed at once."""
    value = header.file.elements.get(IDENTIFIERS[keyword], b"")
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def require_radiograph(header: Header) -> None:
    """Raise ``ImageError`` unless the file is one grey radiograph: CR, DX or RG, one frame, one sample a pixel.

    Secondary captures are taken where their modality says that they are radiographs. The reason holds no value of a
    tag but the names of modalities and numbers.
    """
    modality, stated = header.text("Modality"), header.text("SOPClassUID")
    stated = stated or text_of(header.file.elements.get(META_CLASS, b""))
    if not modality and not stated:
        raise ImageError("wrong format: expected a DICOM image; found neither its class nor its modality")
    if modality and modality not in MODALITIES:
        found = modality if modality in OTHER_MODALITIES.split() else "another"
        raise ImageError(f"not a radiograph: expected the modality {', '.join(MODALITIES)}; found {found}")
    if stated and stated not in CLASSES:
        raise ImageError("not a radiograph: expected a class of CR, DX or secondary capture; found another")
    if stated == CAPTURE and not modality:
        raise ImageError("not a radiograph: expected a modality of the secondary capture; found none")
    if header.file.pixels is None:
        raise ImageError("truncated or damaged: expected pixel data; found none")
    _require_grey(header)


def require_frontal(header: Header) -> None:
    """Raise ``ImageError`` for a radiograph that is stated to be lateral."""
    if header.view == "LATERAL":
        raise ImageError("lateral view: expected a frontal radiograph")


def _require_grey(header: Header) -> None:
    frames = header.numbers("NumberOfFrames")
    if frames and frames[0] > 1:
        raise ImageError(f"multi-frame: expected one frame; found {frames[0]:.0f}")
    samples = header.integer("SamplesPerPixel")
    if samples not in (None, 1):
        raise ImageError(f"colour: expected one sample a pixel; found {samples}")
    interpretation = header.text("PhotometricInterpretation")
    if not interpretation:
        raise ImageError("no photometric interpretation: expected MONOCHROME1 or MONOCHROME2; found none")
    if interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError("colour: expected MONOCHROME1 or MONOCHROME2; found another")
