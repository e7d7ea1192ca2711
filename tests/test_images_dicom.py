"""DICOM: from stored values to what a clinician sees, what is refused, and that no identifier is kept."""

import contextlib
import tracemalloc
import warnings
import zlib
from dataclasses import asdict
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence

from dicom_files import DX, content, dataset, film, written
from hilum.databases.dicom_tags import IDENTIFIERS, LUT_TAGS, SEQUENCES, SPACINGS, TAGS, read_header
from hilum.databases.replica import draw_radiograph
from hilum.errors import ImageError
from hilum.images.cache import CacheSpec, build_cache
from hilum.images.check import unreadable
from hilum.images.decode import FAULTS, decode
from hilum.images.dicom import Radiograph, decode_dicom, read_dicom
from hilum.images.dicom_border import inside_black_border
from hilum.images.dicom_pixels import stored_values
from hilum.images.intensity import normalize

VALUES = film(12)
NUMBERS = VALUES.astype(np.float64)


def lut(first, data, bits, signed=False):
    item = Dataset()
    item.add_new(0x00283002, "SS" if signed else "US", [len(data) % 65536, first, bits])
    item.LUTData = np.asarray(data, "<u2").tobytes()
    return item


def item(**tags):
    made = Dataset()
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


# Grey


def test_without_a_window_the_range_of_values_becomes_zero_to_one():
    read = read_dicom(written(VALUES))
    assert (read.pixels.dtype, read.window) == (np.float32, "full range")
    np.testing.assert_allclose(read.pixels, NUMBERS / 4095, atol=1e-6)


def test_monochrome1_and_the_inverse_presentation_are_one_inversion():
    plain = read_dicom(written(VALUES)).pixels
    for tags in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ):
        np.testing.assert_allclose(read_dicom(written(VALUES, **tags)).pixels, 1 - plain, atol=1e-6)


def seen_by_pydicom(data, index=0):
    """The oracle: pydicom's tables, scaled to [0, 1] by the range that the window writes to."""
    read = dcmread(BytesIO(data))
    values = apply_modality_lut(pixel_array(read, raw=True), read)
    shown = apply_voi_lut(values.astype(np.int64) if "VOILUTSequence" in read else values, read, index)
    if "VOILUTSequence" in read and index < len(read.VOILUTSequence):
        return shown / (2.0 ** read.VOILUTSequence[index].LUTDescriptor[2] - 1)
    ends = np.array([-1e9, 1e9]) if read.get("VOILUTFunction") != "SIGMOID" else np.array([-1e5, 1e5])
    low, high = apply_voi_lut(ends, read, index)
    return (shown - low) / (high - low)


WINDOWS = {
    "linear": {"WindowCenter": 2000, "WindowWidth": 1500},
    "linear of width 1": {"WindowCenter": 2000, "WindowWidth": 1},
    "exact": {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    "after a rescale": {"WindowCenter": 3000, "WindowWidth": 2500, "RescaleSlope": "1.5", "RescaleIntercept": "-700"},
    "falling": {"WindowCenter": -2000, "WindowWidth": 1500, "RescaleSlope": "-1", "RescaleIntercept": "0"},
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("signed", [False, True])
def test_windows_are_those_of_pydicom(name, signed):
    values = film(12, signed)
    tags = dict(WINDOWS[name])
    if signed:
        tags["WindowCenter"] -= 2048 * float(tags.get("RescaleSlope", 1))
    data = written(values, **tags)
    read = read_dicom(data)
    assert read.window == "window 1 of 1"
    assert np.ptp(read.pixels) > 0.9
    np.testing.assert_allclose(read.pixels, seen_by_pydicom(data), atol=1e-6)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_look_up_tables_are_those_of_pydicom(bits):
    curve = np.rint((2**bits - 1) * (np.arange(3000) / 2999) ** 0.5)
    for tags in (
        {"VOILUTSequence": Sequence([lut(500, curve, bits)])},
        {"VOILUTSequence": Sequence([lut(0, curve[::-1], bits), lut(500, curve, bits)])},
    ):
        data = written(VALUES, **tags)
        for index in range(len(tags["VOILUTSequence"])):
            read = read_dicom(data, window=index)
            assert read.window == f"VOI LUT {index + 1} of {len(tags['VOILUTSequence'])}"
            np.testing.assert_allclose(read.pixels, seen_by_pydicom(data, index), atol=1e-6)


def test_a_modality_table_comes_before_the_window():
    curve = np.arange(4096)[::-1] // 2
    tags = {"ModalityLUTSequence": Sequence([lut(0, curve, 16)]), "WindowCenter": 1000, "WindowWidth": 800}
    tags["ModalityLUTSequence"][0].ModalityLUTType = "US"
    data = written(VALUES, **tags)
    np.testing.assert_allclose(read_dicom(data).pixels, seen_by_pydicom(data), atol=1e-6)


def test_a_table_of_65536_entries_and_one_of_bytes():
    values = film(16)
    whole = {"VOILUTSequence": Sequence([lut(0, np.arange(65536) // 2, 16)])}
    np.testing.assert_allclose(
        read_dicom(written(values, 16, **whole)).pixels, values.astype(int) // 2 / 65535, atol=1e-6
    )
    table = lut(0, [], 8)
    table.LUTDescriptor, table.LUTData = [256, 0, 8], bytes(range(256))[::-1]
    eight = film(8)
    read = read_dicom(written(eight, 8, VOILUTSequence=Sequence([table])))
    np.testing.assert_allclose(read.pixels, 1 - eight / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("signed", "bits", "intercept", "first"),
    [(False, 12, -1024, -1000), (False, 16, -40000, -30000), (True, 16, 32768, 40000), (True, 12, 2048, 1000)],
)
def test_the_first_entry_of_a_table_has_the_sign_of_what_is_looked_up(signed, bits, intercept, first):
    """Rescaling makes stored values of one sign values of another (PS3.3 C.11.2.1.1)."""
    table = lut(first, np.arange(2000) * 2, 12, signed=first < 0)
    data = written(film(bits, signed), bits, RescaleSlope=1, RescaleIntercept=intercept, VOILUTSequence=[table])
    read = read_dicom(data)
    assert read.window == "VOI LUT 1 of 1"
    np.testing.assert_allclose(read.pixels, seen_by_pydicom(data), atol=1e-6)


def test_a_signed_first_entry_of_a_table():
    values = film(12, signed=True)
    data = written(values, VOILUTSequence=Sequence([lut(-1000, np.arange(2000) * 2, 12, signed=True)]))
    np.testing.assert_allclose(read_dicom(data).pixels, seen_by_pydicom(data), atol=1e-6)


def test_one_of_several_windows_is_chosen():
    data = written(VALUES, WindowCenter=[2000, 1000], WindowWidth=[4000, 300])
    for index, said in ((0, "window 1 of 2"), (1, "window 2 of 2")):
        read = read_dicom(data, window=index)
        assert read.window == said
        np.testing.assert_allclose(read.pixels, seen_by_pydicom(data, index), atol=1e-6)
    assert read_dicom(data, window="full").window == "full range"
    with pytest.raises(ImageError, match="no such window: expected 0 to 1; found 2"):
        read_dicom(data, window=2)


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 90000, "WindowWidth": 10},
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": 2000},
        {"VOILUTSequence": Sequence([lut(0, np.zeros(4096), 12)])},
        {"VOILUTSequence": Sequence([item(LUTExplanation="no table")])},
    ],
)
def test_a_window_that_shows_nothing_gives_way_to_the_full_range(tags):
    read = read_dicom(written(VALUES, **tags))
    assert read.window == "full range"
    np.testing.assert_allclose(read.pixels, NUMBERS / 4095, atol=1e-6)


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("tags", [{"PixelPaddingValue": 0}, {"PixelPaddingValue": 3, "PixelPaddingRangeLimit": 0}])
def test_padding_is_black_and_does_not_count(interpretation, tags):
    values = (VALUES // 2 + 1000).astype(np.uint16)
    padded = values.copy()
    padded[:8] = 0
    padded[8, :3] = tags.get("PixelPaddingRangeLimit", 0)
    read = read_dicom(written(padded, PhotometricInterpretation=interpretation, **tags))
    inside = (values[9:].astype(float) - padded[padded > 3].min()) / np.ptp(padded[padded > 3].astype(float))
    np.testing.assert_allclose(read.pixels[9:], inside if interpretation[-1] == "2" else 1 - inside, atol=1e-6)
    assert np.isnan(read.pixels[:8]).all()
    decoded = normalize(read.pixels)
    assert not decoded[:8].any()
    np.testing.assert_array_equal(decoded[8:], normalize(read.pixels[8:]))


def test_padding_of_the_whole_image_is_told_by_the_check(tmp_path):
    flat = np.full((20, 20), 7, np.uint16)
    (tmp_path / "flat.dcm").write_bytes(written(flat, PixelPaddingValue=7))
    (left,) = unreadable([tmp_path / "flat.dcm"], ["flat"])
    assert left.kind == "constant image"


# Geometry


def replica(**tags):
    drawn = np.asarray(draw_radiograph("dicom", (56, 40)), np.uint16) << 4
    return drawn, lambda values, **more: read_dicom(written(values, **tags, **more))


TURNS = {
    ("L", "F"): (lambda a: a, ()),
    ("R", "F"): (np.fliplr, ("mirrored",)),
    ("L", "H"): (np.flipud, ("upside down",)),
    ("R", "H"): (lambda a: np.rot90(a, 2), ("mirrored", "upside down")),
    ("F", "L"): (np.transpose, ("transposed",)),
    ("H", "L"): (lambda a: np.fliplr(a.T), ("transposed", "upside down")),
    ("F", "R"): (lambda a: np.flipud(a.T), ("transposed", "mirrored")),
    ("H", "R"): (lambda a: np.rot90(a.T, 2), ("transposed", "mirrored", "upside down")),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_is_turned_to_the_display(orientation):
    """The standing image is stored as each orientation says; reading it stands it up again."""
    standing, read = replica()
    _, turned = TURNS[orientation]
    stored = standing.T if "transposed" in turned else standing
    across, down = orientation[::-1] if "transposed" in turned else orientation
    mirrored, upside_down = across == "R", down == "H"
    in_rows, in_columns = (upside_down, mirrored) if "transposed" not in turned else (mirrored, upside_down)
    stored = stored[::-1] if in_rows else stored
    stored = stored[:, ::-1] if in_columns else stored
    found = read(np.ascontiguousarray(stored), PatientOrientation=list(orientation))
    assert found.turned == turned
    np.testing.assert_allclose(found.pixels, read(standing).pixels, atol=1e-6)


def test_a_lateral_view_is_not_turned():
    read = read_dicom(written(VALUES, ViewPosition="LL", PatientOrientation=["P", "H"]), allow_lateral=True)
    assert read.turned == ()
    np.testing.assert_allclose(read.pixels, NUMBERS / 4095, atol=1e-6)


def shape_of(device, **edges):
    return {f"{device}{name}": value for name, value in edges.items()}


def rectangle(device, left, top, right, bottom):
    edges = {"LeftVerticalEdge": left, "UpperHorizontalEdge": top, "RightVerticalEdge": right}
    return shape_of(device, **edges, LowerHorizontalEdge=bottom, Shape="RECTANGULAR")


def circle(device, row, column, radius):
    return {
        f"{device}Shape": "CIRCULAR",
        f"CenterOfCircular{device}": [row, column],
        f"RadiusOfCircular{device}": radius,
    }


def polygon(device, *vertices):
    return {f"{device}Shape": "POLYGONAL", f"VerticesOfThePolygonal{device}": [n for v in vertices for n in v]}


ARROW = ((5, 6), (20, 50), (36, 12), (22, 20))
ROWS, COLUMNS = np.mgrid[1:41, 1:57]
IN_CIRCLE = (ROWS - 18) ** 2 + (COLUMNS - 30) ** 2 <= 15**2
IN_RECTANGLE = (ROWS >= 5) & (ROWS <= 36) & (COLUMNS >= 10) & (COLUMNS <= 40)


def in_arrow():
    """Whether each pixel's centre is inside the arrow by the rule of even and odd, and how far it is from the rim."""
    inside, apart = np.zeros(ROWS.shape, bool), np.full(ROWS.shape, np.inf)
    for (y0, x0), (y1, x1) in zip(ARROW, ARROW[1:] + ARROW[:1], strict=True):
        crosses = (y0 > ROWS) != (y1 > ROWS)
        inside ^= crosses & (x0 + (ROWS - y0) * (x1 - x0) / (y1 - y0) > COLUMNS)
        along = np.clip(
            ((ROWS - y0) * (y1 - y0) + (COLUMNS - x0) * (x1 - x0)) / ((y1 - y0) ** 2 + (x1 - x0) ** 2), 0, 1
        )
        apart = np.minimum(apart, np.hypot(ROWS - y0 - along * (y1 - y0), COLUMNS - x0 - along * (x1 - x0)))
    return inside, apart


@pytest.mark.parametrize(
    ("shutter", "visible"),
    [
        (rectangle("Shutter", 10, 5, 40, 36), IN_RECTANGLE),
        (rectangle("Shutter", -9, -9, 999, 36), ROWS <= 36),
        (circle("Shutter", 18, 30, 15), IN_CIRCLE),
        (circle("Shutter", 18, 30, 2**40), np.ones(ROWS.shape, bool)),
        (
            rectangle("Shutter", 10, 5, 40, 36)
            | circle("Shutter", 18, 30, 15)
            | {"ShutterShape": ["RECTANGULAR", "CIRCULAR"]},
            IN_RECTANGLE & IN_CIRCLE,
        ),
    ],
)
def test_outside_the_shutter_there_is_nothing(shutter, visible):
    read = read_dicom(written(VALUES, **shutter))
    np.testing.assert_array_equal(np.isnan(read.pixels), ~visible)


def test_a_polygon_is_open_inside_its_rim():
    seen = ~np.isnan(read_dicom(written(VALUES, **polygon("Shutter", *ARROW))).pixels)
    inside, apart = in_arrow()
    np.testing.assert_array_equal(seen[apart > 1], inside[apart > 1])
    assert seen[inside].mean() > 0.98
    assert all(seen[row - 1, column - 1] for row, column in ARROW)


@pytest.mark.parametrize(
    "shutter",
    [
        rectangle("Shutter", 10, 5, -5, 36),
        rectangle("Shutter", 0, 0, 0, 0),
        circle("Shutter", 18, 30, 0),
        circle("Shutter", 900, 900, 15),
        circle("Shutter", 18, 30, 15) | {"CenterOfCircularShutter": "18"},
        polygon("Shutter", (5, 6), (20, 50)),
        polygon("Shutter", *ARROW) | {"VerticesOfThePolygonalShutter": [5, 6, 20, 50, 36]},
        polygon("Shutter", *ARROW * 300),
        circle("Shutter", 18, 30, 15) | {"ShutterShape": "BITMAP"},
    ],
)
def test_a_shutter_that_cannot_be_or_leaves_nothing_does_not_count(shutter):
    np.testing.assert_allclose(read_dicom(written(VALUES, **shutter)).pixels, NUMBERS / 4095, atol=1e-6)


@pytest.mark.parametrize("shape", [rectangle, circle, polygon])
def test_outside_the_shutter_and_the_collimator_does_not_count(shape):
    where = {rectangle: (10, 5, 40, 36), circle: (18, 30, 15), polygon: ARROW}[shape]
    open_ = ~np.isnan(read_dicom(written(VALUES, **shape("Shutter", *where))).pixels)
    values = np.where(open_, VALUES // 4 + 1000, 4095).astype(np.uint16)
    assert 0.1 < open_.mean() < 0.6
    inside = values[open_].astype(float)
    inside = (inside - inside.min()) / np.ptp(inside)
    for device, outside in (("Shutter", np.nan), ("Collimator", 1.0)):
        read = read_dicom(written(values, **shape(device, *where)))
        np.testing.assert_allclose(read.pixels[open_], inside, atol=1e-6)
        np.testing.assert_array_equal(read.pixels[~open_], outside)


def test_a_shutter_turns_with_the_image_and_the_intensity_does_not_count_it(tmp_path):
    tags = rectangle("Shutter", 10, 5, 40, 36) | {"WindowCenter": 2000, "WindowWidth": 6000}
    data = written(VALUES, **tags, PatientOrientation=["R", "F"])
    shown = normalize(decode(data))
    assert not shown[~IN_RECTANGLE[:, ::-1]].any()
    alone = normalize(decode(written(np.ascontiguousarray(VALUES[4:36, 9:40][:, ::-1]), **tags | {"ShutterShape": ""})))
    np.testing.assert_array_equal(shown[4:36, 16:47], alone)
    (tmp_path / "a.dcm").write_bytes(data)
    cache = build_cache([tmp_path / "a.dcm"], CacheSpec(56), tmp_path / "cache")
    np.testing.assert_array_equal(cache.pixels[0][8:48], np.rint(shown * 255))


# What the header says


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "AP"}, "AP"),
        ({"ViewPosition": "pa "}, "PA"),
        ({"ViewPosition": "LL"}, "LATERAL"),
        ({"ViewPosition": "RL"}, "LATERAL"),
        ({"ViewPosition": "LATERAL", "PatientOrientation": ["L", "F"]}, "LATERAL"),
        ({"ViewPosition": "LLD"}, None),
        ({"ViewPosition": "LEFT LAT DECUB"}, None),
        ({"ViewPosition": ""}, None),
        ({"ViewPosition": "", "PatientOrientation": ["L", "F"]}, "FRONTAL"),
        ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "LATERAL"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([item(CodeValue="272479007")])}, "PA"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([item(CodeValue="R-10206")])}, "AP"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([item(CodeValue="399173006")])}, "LATERAL"),
        ({"ViewPosition": "", "ViewCodeSequence": Sequence([item(CodeValue="1")])}, None),
    ],
)
def test_the_view_is_told_by_name_by_code_or_by_direction(tags, view):
    assert read_dicom(written(VALUES, **tags), allow_lateral=True).view == view


def test_codes_of_views_are_those_of_the_standard():
    from pydicom.sr.codedict import codes

    from hilum.databases.dicom_tags import _VIEW_CODES

    names = {"PosteroAnterior": "PA", "AnteroPosterior": "AP", "Frontal": "FRONTAL"}
    names |= dict.fromkeys(("LateralProjection", "LeftLateral", "RightLateral"), "LATERAL")
    for name, view in names.items():
        assert _VIEW_CODES[getattr(codes.cid4010, name).value] == view


@pytest.mark.parametrize(
    ("age", "years"),
    [("045Y", 45), ("018M", 1.5), ("026W", 0.498), ("010D", 0.027), ("130Y", None), ("", None), ("45", None)],
)
def test_ages(age, years):
    data = dataset(VALUES)
    data.add_new("PatientAge", "SH", age)
    assert read_header(BytesIO(content(data))).age_years == (years if years is None else pytest.approx(years, abs=1e-3))


@pytest.mark.parametrize(("sex", "male"), [("M", 1.0), ("F", 0.0), ("O", None), ("", None)])
def test_sex(sex, male):
    assert read_header(BytesIO(written(VALUES, PatientSex=sex))).sex_male == male


# What is refused


CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
REFUSED = {
    "not a radiograph: expected the modality CR, DX, RG; found CT": {"Modality": "CT"},
    "not a radiograph: expected the modality CR, DX, RG; found another": {"Modality": "DOE^JOHN"},
    "not a radiograph: expected the modality CR, DX, RG; found OT": {"Modality": "OT", "SOPClassUID": CAPTURE},
    "not a radiograph: expected a class": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
    "not a radiograph: expected a modality of the secondary capture": {"Modality": None, "SOPClassUID": CAPTURE},
    "multi-frame: expected one frame; found 2": {"NumberOfFrames": 2},
    "colour: expected one sample a pixel; found 3": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    "colour: expected MONOCHROME1 or MONOCHROME2": {"PhotometricInterpretation": "PALETTE COLOR"},
    "lateral view: expected a frontal radiograph": {"ViewPosition": "LL"},
    "truncated or damaged: expected pixel data; found none": {"PixelData": None},
    "truncated or damaged: expected 40,320 bytes": {"Rows": 360},
    "truncated or damaged: the header does not state rows": {"Rows": None},
    "too large: expected at most 100,000,000 px": {"Rows": 60000, "Columns": 60000},
    "too small: expected at least 16 px": {"Rows": 8},
    "unsupported coding: expected 1 to 16 bits in 8 or 16; found 12 in 32": {"BitsAllocated": 32},
    "unsupported coding: expected 1 to 16 bits in 8 or 16; found 1 in 1": {"BitsAllocated": 1, "BitsStored": 1},
    "unsupported coding: expected 1 to 16 bits in 8 or 16; found 17 in 16": {"BitsStored": 17},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_frontal_radiograph_is_refused_with_its_reason(reason):
    with pytest.raises(ImageError) as caught:
        read_dicom(written(VALUES, **REFUSED[reason]))
    assert str(caught.value).startswith(reason)
    assert reason.partition(":")[0] in FAULTS


@pytest.mark.parametrize(
    "tags", [{}, {"Modality": "CR", "SOPClassUID": CAPTURE}, {"Modality": None}, {"Modality": "RG"}]
)
def test_radiographs_of_every_class_are_read(tags):
    assert read_dicom(written(VALUES, **tags)).pixels.shape == VALUES.shape


def test_the_class_of_the_file_stands_in_and_neither_is_refused():
    data = dataset(VALUES, Modality=None, SOPClassUID=None)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    assert decode(buffer.getvalue()).shape == VALUES.shape
    del data.file_meta
    with pytest.raises(ImageError, match="wrong format: expected a DICOM image; found neither its class"):
        decode_dicom(raw(data))


def raw(data, implicit=True):
    """The data set alone, as some archives write it: no preamble, no meta information."""
    buffer = BytesIO()
    data.save_as(buffer, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_is_read(implicit):
    data = dataset(VALUES)
    del data.file_meta
    bare = raw(data, implicit)
    assert bare[:2] == b"\x08\0"
    np.testing.assert_allclose(decode(bare), NUMBERS / 4095, atol=1e-6)


def test_a_file_that_begins_like_dicom_and_is_not():
    with pytest.raises(ImageError, match=r"wrong format|truncated"):
        decode(b"\x08\0\x05\0" + bytes(300))


def test_a_syntax_that_says_implicit_of_an_explicit_file_is_not_believed():
    data = written(VALUES)
    implicit = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")
    assert implicit != data
    np.testing.assert_array_equal(decode(implicit), decode(data))


def test_the_cache_and_the_check_read_dicom_without_more(tmp_path):
    for name, tags in (
        ("a.dcm", {}),
        ("b", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("side.dcm", {"ViewPosition": "LL"}),
    ):
        (tmp_path / name).write_bytes(written(VALUES, **tags))
    (tmp_path / "ct.dcm").write_bytes(written(VALUES, Modality="CT"))
    paths = sorted(tmp_path.iterdir())
    assert [p.kind for p in unreadable(paths, [p.name for p in paths])] == ["not a radiograph"]
    cache = build_cache(paths, CacheSpec(32), tmp_path / "cache", on_error="leave_out")
    assert list(cache.kept) == [True, True, False, True]
    first, second = cache.pixels[0].astype(int), cache.pixels[1].astype(int)
    top, bottom = int(cache.frames[0][1] * 32), int(cache.frames[0][3] * 32)
    assert np.abs(first + second - 255)[top:bottom].max() <= 2


def test_read_dicom_names_the_path(tmp_path):
    (tmp_path / "a.dcm").write_bytes(written(VALUES, Modality="MR"))
    with pytest.raises(ImageError, match=r"a\.dcm: not a radiograph"):
        read_dicom(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(written(VALUES))
    assert read_dicom(tmp_path / "b.dcm").view == "PA"


# Identifiers


SECRETS = {
    "PatientName": "Secretname^Given",
    "PatientID": "SECRETID77",
    "OtherPatientIDs": "SECRETOTHER",
    "PatientBirthDate": "19610203",
    "PatientAddress": "Secretstreet 5",
    "PatientTelephoneNumbers": "0331SECRET",
    "AccessionNumber": "SECRETACC",
    "StudyID": "SECRETSTUDY",
    "StudyInstanceUID": "1.2.77777.1",
    "SeriesInstanceUID": "1.2.77777.2",
    "StudyDate": "20240506",
    "ContentDate": "20240506",
    "InstitutionName": "Secret Hospital",
    "ReferringPhysicianName": "Secretdoctor",
    "OperatorsName": "Secretoperator",
    "StationName": "SECRETSTATION",
    "DeviceSerialNumber": "SECRETSERIAL",
    "StudyDescription": "Secretname chest",
    "ImageComments": "Secretname comment",
    "PatientComments": "Secretname comment",
}
MARKS = ("secret", "19610203", "20240506", "77777")


def with_secrets(**tags):
    data = dataset(VALUES, **SECRETS, **tags)
    data.OtherPatientIDsSequence = Sequence([item(PatientID="SECRETNESTED", TypeOfPatientID="TEXT")])
    data.add_new(0x00111001, "LO", "SECRETPRIVATE")
    data["ViewPosition"].value = tags.get("ViewPosition", "PA")
    return content(data)


def held(thing):
    return any(mark in repr(thing).casefold() for mark in MARKS)


def test_the_measure_sees_an_identifier():
    assert held(dcmread(BytesIO(with_secrets())))
    assert held({"deep": [SECRETS["PatientID"]]})


def test_no_identifier_is_in_a_radiograph_or_a_header():
    read = read_dicom(with_secrets())
    assert isinstance(read, Radiograph)
    assert not held(asdict(read))
    header = read_header(BytesIO(with_secrets()))
    assert not held(header.file.elements)
    allowed = {*TAGS.values(), *SEQUENCES.values(), *LUT_TAGS.values(), 0x00020002, 0x00020010}
    assert set(header.file.elements) <= allowed


def test_the_tags_that_are_read_are_those_named():
    from pydicom.datadict import keyword_for_tag

    assert all(keyword_for_tag(tag) == keyword for keyword, tag in (TAGS | SEQUENCES | LUT_TAGS | IDENTIFIERS).items())
    assert not set(IDENTIFIERS.values()) & set(TAGS.values())


@pytest.mark.parametrize(
    "tags",
    [
        *({"Modality": "SECRETMOD"}, {"PhotometricInterpretation": "SECRET"}, {"SOPClassUID": "1.2.77777"}),
        *({"NumberOfFrames": 3}, {"BitsAllocated": 32}, {"Rows": 500}, {"ViewPosition": "LL"}),
        *({"PatientAge": "SECRET"}, {"ViewPosition": "SECRET"}, {"PatientOrientation": ["SECRET", "F"]}),
        *({"ShutterShape": "SECRET"}, {"VOILUTFunction": "SECRET", "WindowCenter": 5, "WindowWidth": 9}),
    ],
)
def test_no_identifier_is_in_an_error_or_in_a_value_that_is_no_value(tags):
    try:
        found = asdict(read_dicom(content(dataset(VALUES, **(SECRETS | tags)))))
    except ImageError as error:
        found = (str(error), error.__cause__, error.__context__)
    assert not held(found)


def test_nothing_is_said_on_the_way(caplog, capfd):
    """Neither a warning nor a log line, which could carry a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_dicom(with_secrets())
        broken = with_secrets().replace(b"PA", b"\xff\xfe").replace(b"DX", b"D\0")
        with contextlib.suppress(ImageError):
            read_dicom(broken)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# Bounds


def peak_of(work):
    """Bytes that a piece of work holds at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def deflated(values, after=b"", **tags):
    """The bytes of a deflated file, with more bytes after its data set."""
    data = written(values, 12, uid.DeflatedExplicitVRLittleEndian, **tags)
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(wbits=-15)
    return data[:start] + packer.compress(zlib.decompress(data[start:], -15) + after) + packer.flush()


def test_of_a_deflated_file_no_more_is_inflated_than_is_read():
    values = np.zeros((4000, 4000), np.uint16)
    values[0, 0] = 4095
    large = deflated(values)
    assert len(large) < 2**16
    assert peak_of(lambda: read_header(BytesIO(large))) < 2**20
    np.testing.assert_array_equal(stored_values(read_header(BytesIO(large))), values)
    bomb = deflated(VALUES, bytes(2**27))
    assert peak_of(lambda: decode(bomb)) < 2**21
    np.testing.assert_array_equal(decode(bomb), decode(written(VALUES)))


def test_a_deflated_header_without_end_is_refused_after_a_bounded_part():
    data = dataset(VALUES)
    data.add_new(0x00091001, "OB", bytes(2**25))
    data.add_new(0x00090010, "LO", "MAKER")
    bomb = content(data, uid.DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 2**17

    def refused():
        with pytest.raises(ImageError, match="too large: expected at most 16 MiB of inflated data; found more"):
            read_header(BytesIO(bomb))

    assert peak_of(refused) < 2**25


def test_deflated_data_that_end_early_are_told():
    whole = deflated(film(12, shape=(400, 500)))
    with pytest.raises(ImageError, match="truncated or damaged: expected 400,000 bytes of pixels; found"):
        decode(whole[: len(whole) // 2])
    without = deflated(VALUES, PixelData=None)
    with pytest.raises(ImageError, match="truncated or damaged: expected pixel data; found none"):
        decode(without)


def test_deep_nesting_and_endless_elements_are_refused():
    deep = written(VALUES)
    at = deep.index(b"\x28\0\x02\0US")
    opening = b"\x09\0\x10\0SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    with pytest.raises(ImageError, match="sequences are nested more than 16 deep"):
        decode(deep[:at] + opening * 50_000)
    with pytest.raises(ImageError, match="more than 100,000 elements"):
        decode(deep[:at] + b"\x09\0\x10\0LO\0\0" * 100_001 + deep[at:])


def test_sequences_of_every_form_are_passed_over():
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        for sequence, inner in product((True, False), repeat=2):
            deep = item(PatientID="X", OtherPatientIDsSequence=Sequence([item(PatientID="Y")]))
            data = dataset(VALUES, OtherPatientIDsSequence=Sequence([deep, item(PatientID="Z")]))
            data["OtherPatientIDsSequence"].is_undefined_length = sequence
            for each in data.OtherPatientIDsSequence:
                each.is_undefined_length_sequence_item = inner
            np.testing.assert_allclose(decode(content(data, syntax)), NUMBERS / 4095, atol=1e-6)


# pydicom's own files: what becomes of each, and the values of all that hold one grey image.


GREY = {
    *("693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "MR_small.dcm", "MR_small_RLE.dcm"),
    *("MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm"),
    *("MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm", "examples_overlay.dcm", "examples_palette.dcm"),
    *("image_dfl.dcm",),
}
OTHERS = {
    "CT": ("693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm"),
    "US": ("ExplVR_BigEnd.dcm", "examples_jpeg2k.dcm", "examples_palette.dcm", "examples_rgb_color.dcm"),
    "NM": ("JPEG-lossy.dcm", "JPEG2000.dcm", "JPGExtended.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"),
    "MR": ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_truncated.dcm", "examples_overlay.dcm"),
    "OT": ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_rle.dcm", "SC_rgb_rle_2frame.dcm", "image_dfl.dcm"),
    "RTPLAN": ("rtplan.dcm", "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"),
    "RTDOSE": ("rtdose.dcm", "badVR.dcm", "rtdose_rle.dcm"),
    "RTSTRUCT": ("rtstruct.dcm",),
    "SR": ("reportsi.dcm", "test-SR.dcm"),
    "SEG": ("liver_1frame.dcm", "liver_expb_1frame.dcm"),
    "ECG": ("waveform_ecg.dcm",),
}
FILES = {
    **{name: f"not a radiograph: .* found {modality}" for modality, names in OTHERS.items() for name in names},
    **dict.fromkeys(("JPEGLSNearLossless_08.dcm", "GDCMJ2K_TextGBR.dcm"), "modality of the secondary capture"),
    **dict.fromkeys(
        ("UN_sequence.dcm", "priv_SQ.dcm", "no_meta_group_length.dcm"), "not a radiograph: expected a class"
    ),
    **dict.fromkeys(
        ("empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"), "wrong format: .* neither"
    ),
    "rtplan_truncated.dcm": "truncated or damaged: an element ends beyond the file",
}


def official(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not bring {name}")
    return Path(path)


@pytest.mark.parametrize("name", FILES)
def test_each_of_pydicoms_files_is_refused_for_what_it_is(name):
    with pytest.raises(ImageError, match=FILES[name]):
        read_dicom(official(name).read_bytes())


@pytest.mark.parametrize("name", sorted(GREY))
def test_the_values_of_pydicoms_files_are_pydicoms(name):
    path = official(name)
    if "jpeg_ls" in name:
        pytest.importorskip("gdcm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pixel_array(dcmread(path), raw=True)
    np.testing.assert_array_equal(stored_values(read_header(BytesIO(path.read_bytes()))), expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_truncated.dcm", "truncated or damaged: expected 8,192 bytes of pixels; found 8,130"),
        ("SC_rgb_jpeg.dcm", "colour: expected one component in the compressed image; found 3"),
        ("SC_rgb_rle_32bit.dcm", "unsupported coding: .* found 32 in 32"),
        ("liver_1frame.dcm", "unsupported coding: .* found 1 in 1"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "truncated or damaged: expected a compressed image of 256 × 1024"),
        ("rtdose_1frame.dcm", "too small"),
    ],
)
def test_pixels_of_pydicoms_files_that_cannot_be_read(name, reason):
    with pytest.raises(ImageError, match=reason):
        stored_values(read_header(BytesIO(official(name).read_bytes())))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bits_of_lossy_jpeg_that_pydicom_leaves_to_others(name):
    pytest.importorskip("gdcm")
    values = stored_values(read_header(BytesIO(official(name).read_bytes())))
    assert (values.shape, values[420, 140], values[230, 120]) == ((1024, 256), 244, 95)


@pytest.mark.parametrize("name", ["6154", "6247", "6278"])
def test_the_radiographs_among_pydicoms_files_are_read(name):
    folder = Path(get_testdata_file("CT_small.dcm", download=False)).parent / "dicomdirtests"
    path = next(folder.rglob(name), None)
    if path is None:
        pytest.skip(f"pydicom does not bring {name}")
    data = path.read_bytes()
    read = read_dicom(data, allow_lateral=True)
    assert read.window.startswith("window 1 of")
    shown = seen_by_pydicom(data)
    if dcmread(path).PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    np.testing.assert_allclose(read.pixels, shown, atol=1e-6)
    assert dcmread(path).SOPClassUID != DX


# What the file says beside its pixels, and burnt-in borders


@pytest.mark.parametrize("keyword", SPACINGS)
def test_spacing_says_where_it_comes_from(keyword):
    read = read_dicom(written(VALUES, **{keyword: ["0.14", "0.15"]}))
    assert (read.pixel_spacing, read.spacing_from) == ((0.14, 0.15), keyword)
    both = {keyword: ["0.14", "0.15"], "PixelSpacing": ["0.2", "0.2"]}
    assert read_dicom(written(VALUES, **both)).spacing_from == "PixelSpacing"


@pytest.mark.parametrize("value", [["0", "0.1"], ["0.1"], None])
def test_a_spacing_that_cannot_be_is_none(value):
    read = read_dicom(written(VALUES, PixelSpacing=value or []))
    assert (read.pixel_spacing, read.spacing_from) == (None, None)


def test_the_spacing_turns_with_the_image():
    tags = {"PixelSpacing": ["0.1", "0.2"], "PatientOrientation": ["F", "L"]}
    assert read_dicom(written(VALUES, **tags)).pixel_spacing == (0.2, 0.1)


def test_laterality_of_the_image_comes_before_that_of_the_series():
    assert read_dicom(written(VALUES, Laterality="R", ImageLaterality="B")).laterality == "B"
    assert read_dicom(written(VALUES, Laterality="R")).laterality == "R"
    assert read_dicom(written(VALUES, Laterality="")).laterality is None


def test_borders_are_found_and_anatomy_is_not_cut():
    chest = np.asarray(draw_radiograph("border", (200, 160)), np.float32) / 255
    assert inside_black_border(chest).all()
    framed = np.zeros((200, 300), np.float32)
    framed[30:190, 60:260] = chest
    inside = inside_black_border(framed)
    assert inside[30:190, 60:260].all()
    assert inside.sum() == 160 * 200
    framed[10, 20] = 0.9  # a letter in the border ends it
    assert inside_black_border(framed)[10:190, 20:260].all()
    assert inside_black_border(np.zeros((40, 40), np.float32)).all()


def test_a_black_border_does_not_count_in_the_intensity():
    rng = np.random.default_rng(0)
    chest = rng.integers(400, 3600, (40, 50)).astype(np.uint16)
    framed = np.zeros((80, 100), np.uint16)
    framed[20:60, 25:75] = chest
    exposed = decode_dicom(written(framed))
    assert np.isnan(exposed[:20]).all()
    assert not np.isnan(exposed[20:60, 25:75]).any()
