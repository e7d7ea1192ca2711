"""Shared patients and images are found by names, ids, content and look."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

import hospitals
from hilum.databases import DATABASES
from hilum.databases.replica import draw_radiograph
from hilum.images.fingerprint import BITS, NEAR, near_pairs, perceptual_hash
from hilum.images.intensity import normalize
from hilum.images.letterbox import letterbox
from hilum.sites.overlap import Fingerprint, fingerprint, shared
from hilum.sites.site import Site
from hilum.study.hospitals import load_sites
from hilum.study.spec import load_study

pytestmark = pytest.mark.usefixtures("unmeasured")


def hashes(films: list[Image.Image], size: int = 128) -> np.ndarray:
    """Return the hashes of images as a site with squares of ``size`` computes them."""
    pairs = [letterbox(normalize(np.asarray(film, np.float32) / 255), size) for film in films]
    return perceptual_hash(np.stack([square for square, _ in pairs]), np.array([frame for _, frame in pairs]))


@pytest.fixture(scope="module")
def films() -> list[Image.Image]:
    draws = np.random.default_rng(0)
    spots = draws.uniform(0, 0.7, (24, 3, 2))
    lesions = [tuple((x, y, x + 0.25, y + 0.2) for x, y in three) for three in spots]
    return [draw_radiograph(f"film {n}", (300, 360), lesion) for n, lesion in enumerate(lesions)]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the least number of bits in which images differ, with and without their borders."""
    return np.min([(a[:, None, i] != b[None, :, j]).sum(2) for i in (0, 1) for j in (0, 1)], axis=0)


def padded(film: Image.Image, grey: int = 0) -> Image.Image:
    """Return the film in the middle of a square."""
    square = Image.new("L", (max(film.size), max(film.size)), grey)
    square.paste(film, ((square.width - film.width) // 2, (square.height - film.height) // 2))
    return square


def jpeg(film: Image.Image) -> Image.Image:
    content = io.BytesIO()
    film.save(content, "JPEG", quality=60)
    return Image.open(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda film: film.resize((150, 180), Image.Resampling.LANCZOS),
        lambda film: film.resize((700, 840)),
        lambda film: film.resize((300, 300)),
        lambda film: film.point(lambda v: 255 * (v / 255) ** 0.7),
        ImageOps.equalize,
        padded,
        lambda film: padded(film, 255),
        lambda film: padded(film, 90),
        lambda film: jpeg(padded(film)),
        lambda film: ImageOps.equalize(ImageOps.expand(film, 50)),
    ],
    ids=[
        *("half", "enlarged", "squeezed", "gamma", "equalized", "square", "white square", "grey square", "square JPEG"),
        "all around, equalized",
    ],
)
def test_copies_are_near_and_other_films_are_not(change: object, films: list[Image.Image]) -> None:
    found = distances(hashes(films), hashes([change(film) for film in films]))  # type: ignore[operator]
    assert np.diag(found).max() <= NEAR
    assert np.median(found[~np.eye(len(films), dtype=bool)]) > NEAR


def test_an_image_without_a_border_has_one_hash() -> None:
    grains = np.random.default_rng(2).integers(0, 256, (5, 240, 180), np.uint8)
    images = [Image.fromarray(grain) for grain in grains]
    own, framed = hashes(images), hashes([padded(image) for image in images])
    np.testing.assert_array_equal(own[:, 0], own[:, 1])
    assert (framed[:, 0] != framed[:, 1]).any(axis=1).all()


def test_two_padded_copies_are_near_and_their_empty_squares_bring_no_other_film_near(films: list[Image.Image]) -> None:
    white, black = (hashes([padded(film, grey) for film in films]) for grey in (255, 0))
    own = np.eye(len(films), dtype=bool)
    found = distances(white, black)
    assert found[own].max() <= NEAR
    assert np.median(found[~own]) > NEAR
    assert {(k, k) for k in range(len(films))} <= {(int(i), int(j)) for i, j in near_pairs(white, black)}


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_an_image_of_next_to_nothing_but_border_is_hashed_whole(lines: int) -> None:
    square = np.zeros((1, 64, 64), np.uint8)
    square[0, 30 : 30 + lines, 30:40] = 255
    whole, inner = perceptual_hash(square, np.array([[0, 0, 1, 1]]))[0]
    np.testing.assert_array_equal(whole, inner)


def test_the_size_of_the_cache_does_not_matter(films: list[Image.Image]) -> None:
    assert np.diag(distances(hashes(films, 128), hashes(films, 224))).max() <= NEAR


def test_an_inverted_copy_is_found(films: list[Image.Image]) -> None:
    inverted = hashes([ImageOps.invert(film) for film in films])
    own = {(k, k) for k in range(len(films))}
    assert own <= {(int(i), int(j)) for i, j in near_pairs(hashes(films), inverted)}


@pytest.mark.parametrize("cells", [1, 200, 2**25])
def test_near_pairs_are_those_of_the_distance(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilum.images.fingerprint.CELLS", cells)
    draws = np.random.default_rng(1)
    a = draws.random((40, 2, BITS)) < 0.5
    a[::2, 1] = a[::2, 0]
    b = a[:, ::-1] ^ (draws.random((40, 2, BITS)) < 0.1)
    b[::3] ^= True
    apart = np.stack([(a[:, None, i] != b[None, :, j]).sum(2) for i in (0, 1) for j in (0, 1)])
    expected = np.argwhere((np.minimum(apart, BITS - apart) <= 25).any(axis=0))
    assert len(expected) > 20
    np.testing.assert_array_equal(near_pairs(a, b, 25), expected)


def test_no_images_have_no_pairs() -> None:
    none, one = np.empty((0, 2, BITS), bool), np.ones((1, 2, BITS), bool)
    assert near_pairs(none, one).shape == near_pairs(one, none).shape == (0, 2)


def of(patients: str, names: str, look: np.ndarray | None = None) -> Fingerprint:
    n = len(names)
    bits = np.random.default_rng(ord(names[0])).random((n, 2, BITS)) < 0.5 if look is None else look
    return Fingerprint(np.array(list(patients)), np.array(list(names)), np.array([f"file {c}" for c in names]), bits)


def test_what_two_sites_share_is_counted_and_named() -> None:
    a, b = of("ppq", "xyz"), of("pqqr", "uxvw")
    found = shared(a, b)
    assert (found.patients, found.names, found.files, found.alike) == (2, 1, 1, 0)
    assert found.rows.tolist() == [0, 1, 2]
    assert len(shared(of("a", "b"), of("c", "d")).rows) == 0


def test_images_that_look_the_same_are_shared_unless_nobody_asks() -> None:
    a, b = of("ab", "cd"), of("ef", "gh", of("ab", "cd").look[::-1])
    assert (shared(a, b).alike, shared(a, b, None).alike) == (2, 0)


def test_a_site_is_hashed_in_blocks(tiny_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All squares of a large database at once would not fit into memory."""
    site = load_sites(load_study(tiny_study), tiny_study.parent / "cache")[0]
    at_once, images, taken = fingerprint(site).look, Site.images, []

    def counted(site: Site, rows: np.ndarray) -> np.ndarray:
        taken.append(len(rows))
        return images(site, rows)

    monkeypatch.setattr(Site, "images", counted)
    monkeypatch.setattr("hilum.sites.overlap.CHUNK", 7)
    np.testing.assert_array_equal(fingerprint(site).look, at_once)
    assert sum(taken) == len(at_once)
    assert max(taken) == 7


def rewrite_copy(root: Path) -> None:
    """Put a resized copy of an image of 'north' into 'south', under another name and patient."""
    table = pd.read_csv(root / "south" / "labels.csv", dtype=str)
    film = Image.open(root / "north" / pd.read_csv(root / "north" / "labels.csv", dtype=str)["image"][3])
    film.resize((film.width * 2, film.height * 2)).save(root / "south" / table["image"][0])


def test_a_resized_copy_is_refused_and_removed_on_demand(tmp_path: Path) -> None:
    study = hospitals.write_study(tmp_path)
    rewrite_copy(tmp_path)
    refused = hospitals.hilum("study", study, "--out", tmp_path / "run")
    assert refused.status == 1
    assert "'north' and 'south' share 0 patients and 0 identical images, 1 images that look the same" in refused.err
    options = ("--set", "overlap=remove", "--set", "seeds=[0]", "--set", "arms=[pooled]")
    done = hospitals.hilum("study", study, "--out", tmp_path / "run", *options)
    assert done.status == 0, done.err
    sites = {site["name"]: site for site in hospitals.json_of(tmp_path / "run" / "sites.json")}
    assert sites["north"]["removed"] == []
    (told,) = sites["south"]["removed"]
    assert told["reason"] == "shared with another site"
    assert 1 <= told["count"] <= 4
    assert "shared with another site" in (tmp_path / "run" / "report.html").read_text()


def test_near_null_looks_at_names_and_files_only(tmp_path: Path) -> None:
    study = hospitals.write_study(tmp_path)
    rewrite_copy(tmp_path)
    options = ("--set", "overlap.near=null", "--set", "seeds=[0]", "--set", "arms=[pooled]")
    assert hospitals.hilum("study", study, "--out", tmp_path / "run", *options).status == 0


@pytest.mark.parametrize(
    ("first", "second", "finding"),
    [("nih14", "nih14_google", "Pneumothorax"), ("chexpert", "chexlocalize", "Cardiomegaly")],
)
def test_databases_of_the_same_images_are_told_by_their_published_names(
    first: str, second: str, finding: str, tmp_path: Path
) -> None:
    sites = ""
    for name in (first, second):
        DATABASES.load(name).write_replica(tmp_path / name)
        role = "training" if name == first else "outside"
        sites += f"  {name}: {{database: {name}, root: {name}, role: {role}}}\n"
    study = tmp_path / "study.yaml"
    study.write_text(f"name: x\nfindings: [{finding}]\noverlap: {{near: null}}\nimages: {{size: 32}}\nsites:\n{sites}")
    outcome = hospitals.hilum("study", study, "--out", tmp_path / "run")
    assert outcome.status == 1
    assert f"'{first}' and '{second}' share" in outcome.err
    assert "by their published names" in outcome.err
