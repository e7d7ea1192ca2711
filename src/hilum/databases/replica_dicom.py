"""Made-up radiographs in DICOM, for the replicas of databases that come in DICOM."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hilum.databases.replica import Corners, draw_radiograph

if TYPE_CHECKING:
    from pydicom.uid import UID


def save_dicom_radiograph(
    path: Path,
    size: tuple[int, int] = (96, 96),
    lesions: tuple[Corners, ...] = (),
    view: str = "PA",
    sex: str = "F",
    age: str = "045Y",
    **tags: object,
) -> None:
    """Draw a made-up radiograph named after its file and save it as DICOM: 12 bit, MONOCHROME2, explicit VR.

    ``size`` is (width, height) in px, ``lesions`` are corners as fractions [0, 1]. ``tags``: further elements by
    their keyword, which replace those written here. The identifiers are a hash of the file name, so that the file is
    the same byte for byte.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    film = np.asarray(draw_radiograph(path.name, size, lesions), np.uint16) << 4
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid(path.name, "image")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = _uid("hilum", "implementation"), "HILUM"
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = _uid(path.name, "study"), _uid(path.name, "series")
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", view
    data.PatientSex, data.PatientAge, data.PatientID = sex, age, ""
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = film.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = film.astype("<u2").tobytes()
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def _uid(*keys: str) -> UID:
    """Return an identifier in the form 2.25.<128 bits> made of the keys."""
    from pydicom.uid import UID

    return UID(f"2.25.{int.from_bytes(hashlib.sha256('/'.join(keys).encode()).digest()[:16], 'big')}")
