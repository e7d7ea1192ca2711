"""The cache: content keys, resume after every kind of stop, two builders, what is left out."""

import errno
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.errors import DataError
from hilum.images import cache as module
from hilum.images.cache import CacheSpec, LeftOut, build_cache
from hilum.images.decode import read_image
from hilum.images.intensity import normalize
from hilum.images.letterbox import letterbox
from hilum.images.store import Entry, FileState, Store, StoreFullError

SPEC = CacheSpec(32)
LONG_AGO = 1_600_000_000


def write(path, seed, shape=(40, 30)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8)).save(path)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return [write(folder / f"{i:03d}.png", i, (30 + i % 5 * 4, 40)) for i in range(20)]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Count the images decoded, and the files read."""
    counts = {"decode": 0, "read_bytes": 0}
    for name in counts:
        whole = getattr(module, name)

        def counting(argument, name=name, whole=whole):
            counts[name] += 1
            return whole(argument)

        monkeypatch.setattr(module, name, counting)
    return counts


def expected(paths, spec=SPEC):
    return [letterbox(normalize(read_image(p), spec.low, spec.high), spec.size) for p in paths]


def assert_holds(cache, paths, spec=SPEC):
    squares, frames = zip(*expected(paths, spec), strict=True)
    np.testing.assert_array_equal(cache.gather(np.arange(len(paths))), squares)
    np.testing.assert_array_equal(cache.frames, np.array(frames, np.float32))
    assert cache.content == [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]
    assert cache.kept.all()
    assert cache.problems == ()


def stored_images(directory, spec=SPEC):
    return (directory / spec.key / "pixels.u8").stat().st_size // spec.size**2 - 1


def test_holds_what_the_steps_give_in_the_order_of_the_paths(paths, directory):
    shuffled = paths[::-1]
    assert_holds(build_cache(shuffled, SPEC, directory), shuffled)


def test_workers_do_not_change_the_result(paths, directory, tmp_path):
    one = build_cache(paths, SPEC, directory, workers=1)
    many = build_cache(paths, SPEC, tmp_path / "other", workers=4)
    np.testing.assert_array_equal(one.pixels[:], many.pixels[:])


def test_pixels_index_like_an_array_and_cannot_be_written(paths, directory):
    cache = build_cache(paths, SPEC, directory)
    whole = cache.pixels[:]
    assert cache.pixels.shape == whole.shape == (20, 32, 32)
    assert cache.pixels.dtype == whole.dtype == np.uint8
    np.testing.assert_array_equal(cache.pixels[3], whole[3])
    np.testing.assert_array_equal(cache.gather([7, 2, 7, -1]), whole[[7, 2, 7, -1]])
    np.testing.assert_array_equal(cache.pixels[whole.mean((1, 2)) > 0], whole)
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels.stored[1, 0, 0] = 1


def test_unchanged_files_are_not_read_again(paths, directory, decoded):
    build_cache(paths, SPEC, directory)
    assert decoded == {"decode": 20, "read_bytes": 20}
    assert_holds(build_cache(paths, SPEC, directory), paths)
    assert decoded == {"decode": 20, "read_bytes": 20}


def test_touched_renamed_and_copied_files_are_read_but_not_decoded_again(paths, directory, decoded):
    build_cache(paths, SPEC, directory)
    paths[0].touch()
    paths[1] = paths[1].rename(paths[1].with_name("renamed.png"))
    copy = paths[2].with_name("copy.png")
    copy.write_bytes(paths[2].read_bytes())
    assert_holds(build_cache([*paths, copy], SPEC, directory), [*paths, copy])
    assert decoded == {"decode": 20, "read_bytes": 23}
    assert stored_images(directory) == 20


def test_a_changed_file_is_decoded_again(paths, directory, decoded):
    build_cache(paths, SPEC, directory)
    write(paths[4], 99)
    os.utime(paths[4], (LONG_AGO + 1, LONG_AGO + 1))
    assert_holds(build_cache(paths, SPEC, directory), paths)
    assert decoded["decode"] == 21


def test_a_change_within_one_tick_of_the_clock_of_the_disk_is_noticed(paths, directory):
    rng = np.random.default_rng(0)
    old, new = (Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)) for _ in range(2))
    old.save(paths[0], compress_level=0)
    before = paths[0].stat()
    build_cache(paths, SPEC, directory)
    new.save(paths[0], compress_level=0)
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileState.of(paths[0]) == (before.st_size, before.st_mtime_ns, 0)
    assert_holds(build_cache(paths, SPEC, directory), paths)


def test_other_parameters_are_another_cache(paths, directory):
    first = build_cache(paths, SPEC, directory)
    for spec in (CacheSpec(16), CacheSpec(32, 5, 95)):
        assert_holds(build_cache(paths, spec, directory), paths, spec)
    assert_holds(first, paths)
    assert len({SPEC.key, CacheSpec(16).key, CacheSpec(32, 5).key, CacheSpec(32, 0.5, 95).key}) == 4
    assert CacheSpec(32, 1, 99).key == CacheSpec(32, 1.0, 99.0).key


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 8, "low": 50, "high": 50}, {"size": 8, "high": 101}])
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(DataError, match="Expected size"):
        CacheSpec(**wrong)


@pytest.fixture
def broken(paths):
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    paths[5].write_bytes(b"")
    paths[7].write_text("not an image at all")
    paths[11].unlink()
    Image.new("L", (30, 30), 9).save(paths[13])
    return {2: "truncated", 5: "empty file", 7: "wrong format", 11: "absent", 13: "constant image"}


def test_refusing_names_rows_and_reasons_and_keeps_the_rest(paths, broken, directory, decoded):
    with pytest.raises(DataError) as caught:
        build_cache(paths, SPEC, directory, label="site A")
    message = str(caught.value)
    assert "site A: expected 20 readable images; found 5 that are not" in message
    for row, reason in broken.items():
        assert f"\n  {row:03d}.png: {reason}" in message
    assert "on_error: leave_out" in message
    good = [p for r, p in enumerate(paths) if r not in broken]
    before = decoded["decode"]
    assert_holds(build_cache(good, SPEC, directory), good)
    assert decoded["decode"] == before


def test_only_the_first_five_are_listed(paths, directory):
    for path in paths[:9]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"004\.png.*\n  and 4 more") as caught:
        build_cache(paths, SPEC, directory)
    assert "005.png" not in str(caught.value)


def test_leaving_out_keeps_rows_in_place(paths, broken, directory):
    names = [f"image {i}" for i in range(20)]
    cache = build_cache(paths, SPEC, directory, on_error="leave_out", names=names)
    assert list(np.flatnonzero(~cache.kept)) == list(broken)
    for problem, (row, reason) in zip(cache.problems, broken.items(), strict=True):
        assert (problem.row, problem.name) == (row, f"image {row}")
        assert reason in problem.reason
        assert problem.reason.startswith(problem.kind)
    good = np.flatnonzero(cache.kept)
    squares, _ = zip(*expected([paths[i] for i in good]), strict=True)
    np.testing.assert_array_equal(cache.gather(good), squares)
    assert not cache.gather(list(broken)).any()
    assert {cache.content[row] for row in broken} == {""}
    assert len(set(cache.content)) == 16


def test_the_kind_of_a_reason_holds_no_value():
    assert LeftOut(0, "a.png", "unheard of: 'Hans Mueller.png'").kind == "unreadable"
    assert LeftOut(0, "a.png", "truncated or damaged: broken data 7").kind == "truncated or damaged"


def test_a_file_is_left_out_at_each_of_its_rows_and_read_once_repaired(paths, directory):
    paths[1].write_bytes(b"")
    cache = build_cache([*paths, paths[1]], SPEC, directory, on_error="leave_out")
    assert cache.problems == (LeftOut(1, "001.png", "empty file"), LeftOut(20, "001.png", "empty file"))
    write(paths[1], 1)
    assert_holds(build_cache(paths, SPEC, directory), paths)


def test_no_readable_image_at_all_is_refused_even_when_leaving_out(tmp_path, directory):
    with pytest.raises(DataError, match="None can be read"):
        build_cache([tmp_path / "a.png", tmp_path / "b.png"], SPEC, directory, on_error="leave_out")


def test_an_unknown_choice_is_refused(paths, directory):
    with pytest.raises(DataError, match="'refuse' or 'leave_out'"):
        build_cache(paths, SPEC, directory, on_error="ignore")


@contextmanager
def pwrite(monkeypatch, action, at):
    """Call ``action`` in place of the write number ``at`` and of all later ones, or let it pass on None."""
    whole, calls = os.pwrite, 0

    def patched(file, data, offset):
        nonlocal calls
        calls += 1
        return action(whole, file, data, offset) if calls >= at else whole(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", patched)
        yield


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_clear_message_and_keeps_what_was_built(paths, directory, decoded, monkeypatch):
    monkeypatch.setattr(module, "BATCH_IMAGES", 4)
    with pwrite(monkeypatch, full_disk, at=12), pytest.raises(DataError) as caught:
        build_cache(paths, SPEC, directory, workers=1)
    message = str(caught.value)
    assert str(directory / SPEC.key) in message
    assert "full" in message
    assert "12 images" in message
    assert "8 built now" in message
    assert "repeat the command" in message
    before = decoded["decode"]
    assert_holds(build_cache(paths, SPEC, directory), paths)
    assert decoded["decode"] - before == 12


def test_a_disk_full_from_the_start_is_the_same_message(paths, directory, monkeypatch):
    with (
        pwrite(monkeypatch, full_disk, at=1),
        pytest.raises(DataError, match=r"full: about 0\.0 MB .* 20 images"),
    ):
        build_cache(paths, SPEC, directory)


def test_an_index_that_cannot_grow_is_a_full_disk(paths, directory):
    store = Store(directory, 8)
    store._index.execute("PRAGMA max_page_count = 8")
    square, frame = letterbox(np.eye(8, dtype=np.float32), 8)
    some = [Entry(paths[0].with_name(f"{i}"), FileState(1, 1, 1), f"{i:064d}", square, frame) for i in range(2000)]
    store.add(some[:1])
    with pytest.raises(StoreFullError, match="full"):
        store.add(some)
    assert store.keys() == {some[0].key}
    store.close()


def test_a_directory_that_cannot_be_made_is_named(paths, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Expected to write the image cache in"):
        build_cache(paths, SPEC, tmp_path / "file")


def test_ctrl_c_keeps_every_image_that_was_done(paths, directory, decoded, monkeypatch):
    def interrupt(whole, *arguments):
        if not interrupted:
            interrupted.append(True)
            signal.raise_signal(signal.SIGINT)
        return whole(*arguments)

    interrupted: list[bool] = []
    monkeypatch.setattr(module, "BATCH_IMAGES", 4)
    with (
        pwrite(monkeypatch, interrupt, at=12),
        pytest.raises(KeyboardInterrupt, match=r"12 of 20 .* repeat the command"),
    ):
        build_cache(paths, SPEC, directory, workers=1)
    before = decoded["decode"]
    assert_holds(build_cache(paths, SPEC, directory), paths)
    assert decoded["decode"] - before == 8


def test_short_writes_are_continued(paths, directory, monkeypatch):
    with pwrite(monkeypatch, lambda whole, file, data, at: whole(file, data[:100], at), at=1):
        assert_holds(build_cache(paths, SPEC, directory), paths)


BUILDER = """
import hashlib, os, signal, sys
from pathlib import Path
from hilum.images import cache
cache.BATCH_IMAGES = 2
deadly = int(sys.argv[3])
whole, calls = os.pwrite, 0
def pwrite(file, data, offset):
    global calls
    calls += 1
    if calls == deadly:
        whole(file, data[:50], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(file, data, offset)
os.pwrite = pwrite
print("ready", flush=True)
sys.stdin.readline()
paths = sorted(Path(sys.argv[1]).iterdir())
built = cache.build_cache(paths, cache.CacheSpec(32), Path(sys.argv[2]), workers=2)
print(hashlib.sha256(built.pixels[:].tobytes() + built.frames.tobytes()).hexdigest())
"""


def start(paths, directory, deadly=0):
    command = [sys.executable, "-c", BUILDER, str(paths[0].parent), str(directory), str(deadly)]
    path = os.pathsep.join([str(Path(module.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_build_goes_on_where_it_was(paths, directory, decoded):
    process = start(paths, directory, deadly=10)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    cache = build_cache(paths, SPEC, directory)
    assert_holds(cache, paths)
    assert decoded["decode"] == 20 - 8
    assert stored_images(directory) == 20


def test_two_processes_build_the_same_cache_at_once(paths, directory, decoded):
    both = [start(paths, directory) for _ in range(2)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    cache = build_cache(paths, SPEC, directory)
    whole = hashlib.sha256(cache.pixels[:].tobytes() + cache.frames.tobytes()).hexdigest() + "\n"
    assert results == [whole, whole]
    assert_holds(cache, paths)
    assert decoded["decode"] == 0
    assert stored_images(directory) == 20


def test_a_damaged_cache_says_what_to_delete(paths, directory):
    build_cache(paths, SPEC, directory)
    place = directory / SPEC.key
    os.truncate(place / "pixels.u8", 32 * 32 * 5)
    with pytest.raises(DataError, match=r"the file is shorter\. Delete"):
        build_cache(paths, SPEC, directory)
    (place / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="delete that directory") as caught:
        build_cache(paths, SPEC, directory)
    assert isinstance(caught.value.__cause__, sqlite3.Error)


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.real
@pytest.mark.parametrize("database", ["kermany", "hannover", "nih", "shenzhen", "tbx11k"])
def test_real_radiographs_are_cached(database, directory):
    if not (DATA / database).is_dir():
        pytest.skip(f"needs the real radiographs in ../shared/data/{database}")
    found = sorted(p for p in (DATA / database).rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))[:4]
    cache = build_cache(found, CacheSpec(224), directory, workers=1)
    assert_holds(cache, found, CacheSpec(224))
    for path, (x0, y0, x1, y1) in zip(found, cache.frames, strict=True):
        with Image.open(path) as image:
            assert (x1 - x0) / (y1 - y0) == pytest.approx(image.width / image.height, rel=0.01)
    assert cache.gather(range(len(found))).std() > 20
