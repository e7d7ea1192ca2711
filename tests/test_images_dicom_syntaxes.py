"""Every transfer syntax: what is encoded here is read back bit for bit, or within the tolerance of a lossy one."""

import base64
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_files import HTJ2K, compressed, content, dataset, film, wrap, written
from hilum.databases.dicom_tags import read_header
from hilum.errors import ImageError
from hilum.images import dicom_codestream
from hilum.images.decode import decode
from hilum.images.dicom_codestream import SYNTAXES
from hilum.images.dicom_pixels import stored_values

PLAIN = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian]
LOSSLESS = [
    *(uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEG2000Lossless),
]
BY_GDCM = {uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless}


def stored(data):
    return stored_values(read_header(BytesIO(data)))


def apart(values, data):
    return np.abs(stored(data).astype(np.int64) - values).max()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", PLAIN, ids=lambda s: s.name)
def test_plain_values_are_exact(syntax, bits, signed):
    values = film(bits, signed, shape=(33, 47))
    found = stored(written(values, bits, syntax))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
def test_lossless_values_are_exact(syntax, bits, signed):
    values = film(bits, signed)
    data = compressed(values, bits, syntax)
    assert len(data) < values.nbytes + 2000
    np.testing.assert_array_equal(stored(data), values)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_near_lossless_values_are_within_their_bound(bits):
    values = film(bits)
    assert 0 < apart(values, compressed(values, bits, uid.JPEGLSNearLossless, jls_error=3)) <= 3


@pytest.mark.parametrize(
    ("syntax", "bits", "tolerance"),
    [
        (uid.JPEGBaseline8Bit, 8, 7),
        (uid.JPEGExtended12Bit, 8, 2),
        (uid.JPEGExtended12Bit, 12, 8),
        (uid.JPEG2000, 8, 3),
        (uid.JPEG2000, 12, 8),
        (uid.JPEG2000, 16, 66),
    ],
)
def test_lossy_values_are_within_their_tolerance(syntax, bits, tolerance):
    values = film(bits)
    values.flat[:2] = values.flat[2]
    assert 0 < apart(values, compressed(values, bits, syntax)) <= tolerance


@pytest.mark.parametrize("name", ["HTJ2KLossless", "HTJ2KLosslessRPCL", "HTJ2K"])
def test_high_throughput_jpeg_2000_is_exact(name):
    rows, columns = np.mgrid[:24, :32]
    values = ((40 * rows + 97 * columns) % 4096).astype(np.uint16)
    data = wrap(dataset(values, 12), base64.b64decode(HTJ2K), getattr(uid, name))
    np.testing.assert_array_equal(stored(content(data)), values)


def test_the_byte_order_of_eight_bits_in_words_is_undone():
    values = film(8, shape=(33, 47))
    data = dataset(values, 8)
    swapped = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    data.PixelData, data["PixelData"].VR = swapped, "OW"
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    np.testing.assert_array_equal(stored(buffer.getvalue()), values)


@pytest.mark.parametrize("signed", [False, True])
def test_a_high_bit_at_the_top_is_shifted_and_overlays_are_masked(signed):
    values = film(12, signed)
    upper = (values.astype(np.int64) << 4).astype(values.dtype)
    data = written(upper | values.dtype.type(0b1010), HighBit=15)
    np.testing.assert_array_equal(stored(data), values)
    marked = (values.astype(np.int64) & 0x0FFF | 0x5000).astype(np.uint16).view(values.dtype)
    np.testing.assert_array_equal(stored(written(marked)), values)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless], ids=lambda s: s.name)
def test_a_stream_of_more_bits_than_the_header_says_is_believed(syntax, signed):
    values = film(16, signed)
    data = dcmread(BytesIO(compressed(values, 16, syntax)))
    data.BitsStored, data.HighBit = 12, 11
    np.testing.assert_array_equal(stored(content(data)), values)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.RLELossless], ids=lambda s: s.name)
def test_an_overlay_in_the_upper_bits_of_compressed_cells_is_masked(syntax):
    values = film(12)
    data = dcmread(BytesIO(compressed(values | 0x5000, 16, syntax)))
    data.BitsStored, data.HighBit = 12, 11
    np.testing.assert_array_equal(stored(content(data)), values)


def test_a_stream_in_several_fragments_is_joined():
    values = film(12)
    stream = dicom_stream(values)
    data = wrap(dataset(values), stream, uid.JPEG2000Lossless)
    data.PixelData = b"".join(_item(part) for part in (b"", stream[:100], stream[100:200], stream[200:]))
    np.testing.assert_array_equal(stored(content(data)), values)


def dicom_stream(values):
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True)
    stream = buffer.getvalue()
    return stream + b"\0" * (len(stream) % 2)


def _item(part):
    return b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part


def test_a_stream_of_another_size_is_refused_before_it_is_decoded(monkeypatch):
    data = wrap(dataset(film(12)), dicom_stream(film(12, shape=(48, 56))), uid.JPEG2000Lossless)
    monkeypatch.setattr(dicom_codestream.Jpeg2KImagePlugin, "Jpeg2KImageFile", None)
    with pytest.raises(ImageError, match=r"truncated or damaged: expected a compressed image of 56 × 40.*56 × 48"):
        stored(content(data))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.94"])
def test_a_coding_that_is_not_of_images_is_refused(syntax):
    data = wrap(dataset(film(12)), b"\0\0\1\xb3" * 20, uid.UID(syntax))
    with pytest.raises(ImageError, match=r"^unsupported coding: expected JPEG.*found another coding"):
        stored(content(data))


WITHOUT_DECODERS = """
import sys
from importlib import util
found = util.find_spec
util.find_spec = lambda name, *rest: None if name in ("gdcm", "jpeg_ls", "openjpeg") else found(name, *rest)
from hilum.images.decode import decode
from hilum.errors import ImageError
try:
    print(decode(sys.stdin.buffer.read()).shape)
except ImageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [
        (uid.RLELossless, 12),
        (uid.JPEGBaseline8Bit, 8),
        (uid.JPEGExtended12Bit, 8),
        (uid.JPEGExtended12Bit, 12),
        (uid.JPEGLossless, 12),
        (uid.JPEGLosslessSV1, 12),
        (uid.JPEGLSLossless, 12),
        (uid.JPEGLSNearLossless, 12),
        (uid.JPEG2000Lossless, 12),
        (uid.JPEG2000, 12),
    ],
)
def test_without_the_extra_some_are_read_and_others_name_it(syntax, bits):
    data = compressed(film(bits), bits, syntax)
    needs = syntax in BY_GDCM or (syntax, bits) == (uid.JPEGExtended12Bit, 12)
    run = subprocess.run([sys.executable, "-c", WITHOUT_DECODERS], input=data, capture_output=True, check=True)
    said = run.stdout.decode().strip()
    if needs:
        assert said.startswith("decoder absent: ")
        assert said.endswith("needs the extra: pip install 'hilum[dicom]'")
    else:
        assert said == "(40, 56)"
    assert run.stderr == b""


def test_a_decoder_that_does_not_end_is_stopped(monkeypatch):
    data = compressed(film(12), 12, uid.JPEGLosslessSV1)
    monkeypatch.setattr(dicom_codestream, "SECONDS", 0.0)
    with pytest.raises(ImageError, match=r"truncated or damaged: JPEG Lossless was not decoded in 0 s"):
        decode(data)


def test_every_syntax_has_its_name_in_pydicom():
    for syntax in SYNTAXES:
        assert uid.UID(syntax).is_transfer_syntax
        assert uid.UID(syntax).is_encapsulated
