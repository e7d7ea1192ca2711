"""DICOM files for tests: made of arrays here, in every transfer syntax that an encoder at hand writes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from jpeg12 import encode

DX = "1.2.840.10008.5.1.4.1.1.1.1"
COMPRESSED_BY_GDCM = {
    uid.JPEGExtended12Bit: "JPEGExtendedProcess2_4",
    uid.JPEGLossless: "JPEGLosslessProcess14",
    uid.JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    uid.JPEG2000Lossless: "JPEG2000Lossless",
}


def film(bits=12, signed=False, shape=(40, 56), seed=0):
    """A smooth image with noise that uses all bits."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    wave = 0.5 + 0.4 * np.sin(rows / 9) * np.cos(columns / 7) + draws.normal(0, 0.01, shape)
    values = np.clip(np.rint(wave * (2**bits - 1)), 0, 2**bits - 1).astype(np.int64)
    values.flat[:2] = 0, 2**bits - 1
    values -= 2 ** (bits - 1) if signed else 0
    return values.astype(("i" if signed else "u") + ("1" if bits <= 8 else "2"))


def dataset(values, bits=12, **tags):
    """A DX image of explicit VR; a tag of None is removed."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = DX
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = DX, "1.2.3"
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.4", "1.2.5"
    data.Modality, data.ViewPosition = "DX", "PA"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.Rows, data.Columns = values.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * values.dtype.itemsize, bits, bits - 1
    data.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    data["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    with disable_value_validation():
        for keyword, value in tags.items():
            if keyword in data:
                delattr(data, keyword)
            if value is not None:
                setattr(data, keyword, value)
    return data


def content(data, syntax=uid.ExplicitVRLittleEndian):
    """The bytes of a file in an uncompressed syntax, or of a compressed data set as it is."""
    buffer = BytesIO()
    if syntax == uid.ExplicitVRLittleEndian and data.file_meta.TransferSyntaxUID.is_encapsulated:
        data.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        cells = np.frombuffer(data.PixelData, f"<u{data.BitsAllocated // 8}")
        data.PixelData = cells.astype(cells.dtype.newbyteorder(">")).tobytes()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def written(values, bits=12, syntax=uid.ExplicitVRLittleEndian, **tags):
    """The bytes of a DX image in an uncompressed syntax."""
    return content(dataset(values, bits, **tags), syntax)


def compressed(values, bits, syntax, **options):
    """The bytes of a DX image in a compressed syntax; skips the test where its encoder is not installed."""
    data = dataset(values, bits)
    if syntax == uid.RLELossless:
        data.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax in uid.JPEGLSTransferSyntaxes:
        pytest.importorskip("jpeg_ls")
        data.compress(syntax, encoding_plugin="pyjpegls", generate_instance_uid=False, **options)
    elif syntax == uid.JPEGExtended12Bit and bits == 12:
        wrap(data, encode(values), syntax)
    elif syntax in COMPRESSED_BY_GDCM:
        data = _by_gdcm(data, COMPRESSED_BY_GDCM[syntax])
    else:
        wrap(data, _by_pillow(values, syntax), syntax)
    return content(data)


def wrap(data, stream, syntax):
    """Put a compressed stream into a data set."""
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([stream])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return data


def _by_pillow(values, syntax):
    buffer = BytesIO()
    if syntax == uid.JPEGBaseline8Bit:
        Image.fromarray(values).save(buffer, "JPEG", quality=95)
    else:
        assert syntax == uid.JPEG2000
        image = Image.fromarray(values.astype(np.uint16) if values.dtype.itemsize == 2 else values)
        image.save(buffer, "JPEG2000", no_jp2=True, irreversible=True, quality_mode="rates", quality_layers=[2])
    return buffer.getvalue()


def _by_gdcm(data, name):
    gdcm = pytest.importorskip("gdcm")
    with TemporaryDirectory() as folder:
        plain, coded = Path(folder) / "plain.dcm", Path(folder) / "coded.dcm"
        plain.write_bytes(content(data))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(coded))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return dcmread(BytesIO(coded.read_bytes()))


# 24 × 32 px of 12 bits, (40 r + 97 c) % 4096, written once by OpenJPH: no encoder of HTJ2K is among the test tools.
HTJ2K = (
    "/0//UQApQAAAAAAgAAAAGAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAAABDwEB/1AACAACAAAADP9SAAwAAgABAAUEBEAB/1wAEyCQmJigmJig"
    "mJigmJiYkJCY/2QAFwABT3BlbkpQSCBWZXIgMC4xNC4wLv+QAAoAAAAAAMAAAf+TwAATAHn2BQd0AMAACaAABMDa/QMHdABa/QKHdADAAAng"
    "AATA7LL7AoJ0AG37AAI0AMAACqgAAVZ06dL9oIIyAnYAbNmyZfvAMYG+tgDAAArYAAFpALKysrKysueKenGCdwCyMplMJpPJ/voIQHv2IQHs"
    "ugDAABa0AAF0AEAgEAgEAoFAIBD4+f4Kenp6enECewBOx3Ecx3Ecx3Ecx3H+/3GAQge/YQge/YQge/YQgeyzAf/Z"
)
