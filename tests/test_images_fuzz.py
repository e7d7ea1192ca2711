"""Damaged files: an image or one clear error, never a crash, a hang or unbounded memory.

The files are read in a process of its own, in which memory is limited and a signal ends what takes too long.
"""

import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.sequence import Sequence

from dicom_files import compressed, dataset, film, written
from hilum.errors import ImageError
from hilum.images import decode as decode_module
from hilum.images.decode import FAULTS, MAX_SCANS, decode, read_bytes

SECONDS_A_FILE = 30
MEMORY = 3 * 2**30
SYNTAXES = (
    *((uid.RLELossless, 12), (uid.JPEGBaseline8Bit, 8), (uid.JPEGExtended12Bit, 12), (uid.JPEGLossless, 16)),
    *((uid.JPEGLosslessSV1, 12), (uid.JPEGLSLossless, 12), (uid.JPEGLSNearLossless, 8), (uid.JPEG2000Lossless, 12)),
    *((uid.JPEG2000, 16),),
)


def seeds():
    """Whole files of every format and syntax."""
    values = film(12, shape=(40, 56))
    table = dataset(values)
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], values.tobytes() * 2
    rich = {"VOILUTSequence": Sequence([table]), "WindowCenter": [2000, 3], "WindowWidth": [500, 9]}
    rich |= {"PixelPaddingValue": 0, "PatientOrientation": ["R", "F"], "ShutterShape": ["CIRCULAR", "POLYGONAL"]}
    rich |= {"CenterOfCircularShutter": [20, 30], "RadiusOfCircularShutter": 25}
    rich |= {"VerticesOfThePolygonalShutter": [1, 9, 20, 50, 36, 12]}
    yield "dicom, explicit", written(values, **rich)
    yield "dicom, implicit", written(values, syntax=uid.ImplicitVRLittleEndian, **rich)
    yield "dicom, big-endian", written(film(16, signed=True), 16, uid.ExplicitVRBigEndian)
    yield "dicom, deflated", written(values, syntax=uid.DeflatedExplicitVRLittleEndian, **rich)
    for syntax, bits in SYNTAXES:
        yield f"dicom, {syntax.name}", compressed(film(bits), bits, syntax)
    for mode in ("L", "I;16", "RGBA", "P"):
        image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(film(8)).convert(mode)
        buffer = BytesIO()
        image.save(buffer, "PNG")
        yield f"png, {mode}", buffer.getvalue()


def mutated(data, draws):
    """One of: cut, a few bytes of the head, bytes anywhere, a part removed, repeated or zeroed, lengths made absurd."""
    changed = bytearray(data)
    kind = draws.choice(("cut", "head", "head", "bytes", "remove", "repeat", "zero", "length"))
    at = draws.randrange(len(changed))
    if kind == "cut":
        return bytes(changed[:at])
    if kind in ("head", "bytes"):
        reach = min(len(changed), 1500) if kind == "head" else len(changed)
        for _ in range(draws.choice((1, 1, 2, 5, 20))):
            changed[draws.randrange(reach)] = draws.choice((0, 1, 127, 128, 255, draws.randrange(256)))
    elif kind == "remove":
        del changed[at : at + draws.randrange(1, 80)]
    elif kind == "repeat":
        changed[at:at] = changed[at : at + draws.randrange(1, 400)]
    elif kind == "zero":
        part = changed[at : at + draws.randrange(1, 200)]
        changed[at : at + len(part)] = bytes(len(part))
    else:
        at = draws.randrange(min(len(changed), 1500) - 4)
        changed[at : at + 4] = struct.pack(draws.choice("<>") + "I", draws.choice((2**32 - 1, 2**31, 2**24, 65535)))
    return bytes(changed)


def read_damaged(count, first):
    """Read ``count`` damaged files; print what became of them. Meant for a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    whole = list(seeds())
    outcomes, reasons, slowest = Counter(), Counter(), (0.0, "")
    for number in range(first, first + count):
        name, data = whole[number % len(whole)]
        damaged = mutated(data, random.Random(number))
        print(json.dumps({"at": number, "name": name}), flush=True)
        began = time.monotonic()
        signal.alarm(SECONDS_A_FILE)
        said = answer(damaged)
        signal.alarm(0)
        outcomes[f"{name}: {'error' if said else 'image'}"] += 1
        if said:
            assert said.partition(":")[0] in FAULTS, said
            assert "\n" not in said
            reasons[said.partition(":")[0]] += 1
        slowest = max(slowest, (time.monotonic() - began, name))
    told = {"outcomes": outcomes, "reasons": reasons, "slowest": slowest, "peak_mb": peak_memory()}
    print(json.dumps(told), flush=True)


def peak_memory():
    """Return the most memory of this program in MB; getrusage would count what its parent held when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def answer(data):
    """Return the reason of an error, or '' for an image, which is checked."""
    try:
        image = decode(data)
    except ImageError as error:
        return str(error)
    assert image.dtype == np.float32
    assert image.ndim == 2
    shown = image[~np.isnan(image)]
    assert ((shown >= 0) & (shown <= 1)).all()
    return ""


def outcome_of(count, first):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "import warnings; warnings.simplefilter('error')\n"
    code += f"from test_images_fuzz import read_damaged; read_damaged({count}, {first})"
    run = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert run.returncode == 0, f"{lines[-1:]} {run.stderr[-3000:]}"
    return json.loads(lines[-1])


def images_and_errors(outcomes):
    images = sum(count for name, count in outcomes.items() if name.endswith("image"))
    return images, sum(outcomes.values()) - images


def test_damaged_files_are_images_or_clear_errors():
    pytest.importorskip("gdcm")
    told = outcome_of(400, 0)
    images, errors = images_and_errors(told["outcomes"])
    assert images + errors == 400
    assert min(images, errors) > 40
    assert told["peak_mb"] < 600


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_images_or_clear_errors():
    pytest.importorskip("gdcm")
    total, images = Counter(), 0
    for first in range(0, 10_000, 2000):
        told = outcome_of(2000, 1000 + first)
        print(json.dumps(told))
        total.update(told["outcomes"])
        assert told["peak_mb"] < 600
    images, errors = images_and_errors(total)
    assert images + errors == 10_000


# Files made to do harm


def chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(extra=(), lines=b"", side=32):
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(lines or (b"\0" + bytes(range(side))) * side)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb():
    return zlib.compress(bytes(2**28), 9)


HARMFUL = {
    "text": lambda: png([chunk(b"zTXt", b"Comment\0\0" + bomb())]),
    "international text": lambda: png([chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb())]),
    "many texts": lambda: png([chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(2**20))) for n in range(500)]),
    "profile": lambda: png([chunk(b"iCCP", b"x\0\0" + bomb())]),
    "more lines than rows": lambda: png(lines=bytes(2**28)),
    "frames": lambda: png([chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))]),
    "endless palette": lambda: png([chunk(b"PLTE", bytes(3 * 10**6))]),
}
PEAK = """
import sys
from test_images_fuzz import peak_memory
from hilum.images.decode import decode
from hilum.errors import ImageError
import PIL.PngImagePlugin, PIL.JpegImagePlugin, hilum.images.dicom
before = peak_memory()
data = sys.stdin.buffer.read()
try:
    decode(data); said = "image"
except ImageError as error:
    said = str(error)
print(round(peak_memory() - before), said)
"""


def memory_and_answer(data):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + PEAK
    run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=60)
    megabytes, said = run.stdout.decode().strip().split(" ", 1)
    return int(megabytes) - len(data) // 2**20, said


@pytest.mark.parametrize("name", HARMFUL)
def test_a_png_bomb_takes_little_memory(name):
    megabytes, said = memory_and_answer(HARMFUL[name]())
    assert megabytes < 120
    assert said == "image" or said.startswith("truncated or damaged")


def test_the_measure_sees_memory():
    assert memory_and_answer(png(lines=bytes(8001 * 8000), side=8000))[0] > 120


def test_what_is_no_file_and_what_is_too_large_is_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="unreadable: it is no file"):
        read_bytes(tmp_path / "pipe.png")
    monkeypatch.setattr(decode_module, "MAX_BYTES", 1000)
    (tmp_path / "large.png").write_bytes(bytes(1001))
    with pytest.raises(ImageError, match="too large: expected a file"):
        read_bytes(tmp_path / "large.png")


def test_a_jpeg_of_endless_scans_is_refused():
    buffer = BytesIO()
    Image.fromarray(film(8)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    start, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    with pytest.raises(ImageError, match=f"at most {MAX_SCANS} scans"):
        decode(whole[:start] + whole[start:end] * 300 + whole[end:])


def test_runs_of_nothing_are_not_followed_for_ever():
    data = compressed(film(12), 12, uid.RLELossless)
    at = data.index(struct.pack("<II", 2, 64))
    stream = data[at + 64 : data.rindex(b"\xfe\xff\xdd\xe0")]
    idle = bytes([128]) * 100_000
    for nothing in (idle[:100], idle):
        (second,) = struct.unpack("<I", data[at + 8 : at + 12])
        bounds = struct.pack("<III", 2, 64, second + len(nothing))
        coded = bounds + data[at + 12 : at + 64] + nothing + stream
        assert bool(answer(data[: at - 4] + struct.pack("<I", len(coded)) + coded + data[-8:])) == (nothing == idle)
