"""Decoding: every format and bit depth against arrays, every defect against its reason."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hilum.errors import ImageError
from hilum.images import decode as module
from hilum.images.decode import DECODERS, SIGNATURES, decode, read_image

HEIGHT, WIDTH = 24, 32
GREY = np.add.outer(np.arange(HEIGHT) * 5, np.arange(WIDTH) * 4).astype(np.uint8)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png(samples, depth, colour, palette=b""):
    """Write a PNG of any bit depth and colour type from the standard alone: an oracle beside Pillow."""
    height, width = samples.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in samples]
    else:
        bits = (samples.reshape(height, width, 1) >> np.arange(depth)[::-1]) & 1
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits.astype(np.uint8)]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        *([(b"PLTE", palette)] if palette else []),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def saved(image, file_format, **options):
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_png_of_every_depth_is_exact(depth):
    top = 2**depth - 1
    samples = np.random.default_rng(depth).integers(0, top + 1, (HEIGHT, WIDTH))
    decoded = decode(png(samples, depth, 0))
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, samples / top, atol=1e-7)


def test_sixteen_bits_are_not_cut_to_eight():
    samples = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) + 1000
    assert len(np.unique(decode(png(samples, 16, 0)))) == HEIGHT * WIDTH


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour", [2, 4, 6])
def test_colour_becomes_luminance_on_black(depth, colour):
    top = 2**depth - 1
    shape = (HEIGHT, WIDTH, CHANNELS[colour])
    samples = np.random.default_rng(colour).integers(0, top + 1, shape)
    unit = samples / top
    alpha = unit[..., -1] if colour in (4, 6) else 1.0
    luminance = unit[..., 0] if colour == 4 else unit[..., :3] @ [0.299, 0.587, 0.114]
    # Pillow keeps the high byte of 16-bit colour.
    np.testing.assert_allclose(
        decode(png(samples, depth, colour)), luminance * alpha, atol=(2.5 if depth == 16 else 1.6) / 255
    )


def test_palette_png_is_looked_up():
    palette = np.random.default_rng(0).integers(0, 256, (256, 3))
    decoded = decode(png(GREY, 8, 3, palette.astype(np.uint8).tobytes()))
    np.testing.assert_allclose(decoded, palette[GREY] @ [0.299, 0.587, 0.114] / 255, atol=1 / 255)


def test_transparent_palette_entry_is_black():
    image = Image.fromarray(GREY).convert("P")
    assert decode(saved(image, "PNG", transparency=int(GREY[3, 5])))[3, 5] == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_near_its_source(mode, progressive):
    data = saved(Image.fromarray(GREY).convert(mode), "JPEG", quality=98, progressive=progressive)
    np.testing.assert_allclose(decode(data), GREY / 255, atol=4 / 255)


def test_colour_jpeg_becomes_luminance():
    colour = np.zeros((32, 32, 3), np.uint8)
    colour[:] = (200, 30, 90)
    data = saved(Image.fromarray(colour), "JPEG", quality=98)
    np.testing.assert_allclose(decode(data), (200 * 0.299 + 30 * 0.587 + 90 * 0.114) / 255, atol=2 / 255)


def test_content_decides_and_not_the_suffix(tmp_path):
    (tmp_path / "really_a_png.jpg").write_bytes(png(GREY, 8, 0))
    np.testing.assert_array_equal(read_image(tmp_path / "really_a_png.jpg"), GREY.astype(np.float32) / 255)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@given(data=st.data())
def test_every_truncation_is_refused(image_format, data):
    whole = saved(Image.fromarray(GREY), image_format)
    with pytest.raises(ImageError, match=r"truncated|empty|wrong format"):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@given(places=st.lists(st.tuples(st.integers(8, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_never_escapes_as_another_error(image_format, places):
    damaged = bytearray(saved(Image.fromarray(GREY), image_format))
    for at, value in places:
        damaged[at % len(damaged)] = value
    try:
        decoded = decode(bytes(damaged))
    except ImageError:
        return
    assert decoded.ndim == 2
    assert 0 <= decoded.min() <= decoded.max() <= 1


DEFECTS = {
    "empty file": b"",
    "wrong format": b"patient,finding\n1,Effusion\n" * 10,
    "expected content of .png": saved(Image.fromarray(GREY), "BMP"),
    "expected a DICOM image": bytes(128) + b"DICM" + bytes(100),
    "truncated": png(GREY, 8, 0)[:-40],
    "too small": png(GREY[:15], 8, 0),
    "found 32 × 15": png(GREY[:15], 8, 0),
}


@pytest.mark.parametrize("reason", DEFECTS)
def test_each_defect_is_named_with_the_file(tmp_path, reason):
    path = tmp_path / "scan.png"
    path.write_bytes(DEFECTS[reason])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


def test_an_absent_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: absent"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="unreadable"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = png(GREY, 8, 0)
    bomb = bomb[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + bomb[33:]
    with pytest.raises(ImageError, match="too large"):
        decode(bomb)


def test_registry_resolves_and_every_decoder_has_a_signature():
    assert all(callable(DECODERS.load(name)) and DECODERS.summary(name) for name in DECODERS)
    assert {DECODERS[suffix] for suffix, _, _ in SIGNATURES if suffix in DECODERS} == set(DECODERS.values())


def test_another_format_needs_one_line_in_the_registry(monkeypatch):
    monkeypatch.setattr(module, "DECODERS", type(DECODERS)("image format", {".dcm": f"{__name__}:as_dicom"}))
    assert decode(bytes(128) + b"DICM").shape == (1, 132)


def as_dicom(data):
    """Stand in for a decoder."""
    return np.zeros((1, len(data)), np.float32)


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.real
@pytest.mark.parametrize("database", ["kermany", "hannover", "nih", "shenzhen", "tbx11k"])
def test_real_radiographs_decode(database):
    if not (DATA / database).is_dir():
        pytest.skip(f"needs the real radiographs in ../shared/data/{database}")
    files = sorted(p for p in (DATA / database).rglob("*") if p.suffix in DECODERS)[:3]
    assert files
    for path in files:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("L"), np.float32) / 255
        np.testing.assert_allclose(read_image(path), expected, atol=2 / 255)
