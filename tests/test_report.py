"""The report page: self-contained, complete, honest about what is missing, free of ids."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fake_run import ARMS, FINDINGS, OUTSIDE, TRAINING, write_fake_run
from hilum.errors import RunError
from hilum.report import write_report
from hilum.study.directory import RunDirectory as StudyDirectory

VOID = {"meta", "img", "br", "hr", "input", "link", "base"}
HOSTILE = '<script>alert("x")<b>'


class Page(HTMLParser):
    """The page's tags with attributes, visible text, and tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.crossed: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.crossed += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    return write_report(run).read_text("utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_loads_nothing_from_outside(source: str, page: Page) -> None:
    allowed = {"a": ("#", "https://example.org/"), "img": ("data:image/jpeg;base64,",)}
    for tag, attributes in page.tags:
        assert tag not in ("link", "base", "iframe", "object", "embed"), tag
        for name in ("src", "href", "srcset", "data", "poster", "xlink:href"):
            if attributes.get(name) is not None:
                assert str(attributes[name]).startswith(allowed.get(tag, ())), (tag, attributes)
    assert "url(" not in source
    assert "@import" not in source
    policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy
    assert str(policy[0]).startswith("default-src 'none'; img-src data:")


def test_tags_close_in_order(page: Page) -> None:
    assert page.crossed == []


def test_ids_are_unique_and_contents_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for t, a in page.tags if t == "a" and str(a.get("href")).startswith("#")}
    assert len(targets) >= 12
    assert targets <= set(ids)


def test_every_picture_has_a_text(page: Page) -> None:
    pictures = [a for t, a in page.tags if t == "img"]
    assert len(pictures) > 20
    assert all(a.get("alt") for a in pictures)
    strips = [a for t, a in page.tags if t == "svg" and "strip" in str(a.get("class"))]
    assert strips
    assert all(a.get("aria-label") for a in strips)


@pytest.mark.parametrize("word", [*TRAINING, OUTSIDE, *FINDINGS, *(arm.capitalize() for arm in ARMS)])
def test_names_every_site_arm_and_finding(page: Page, word: str) -> None:
    assert word in page.text


@pytest.mark.parametrize(
    "section",
    [
        "Sites",
        "Label spaces",
        "Learning curves",
        "Arms and sites",
        "Trained here, tested there",
        "Localization",
        "Heat maps",
        "What was left out",
        "What data it is",
        "Configuration",
        "Glossary",
    ],
)
def test_holds_every_section(source: str, section: str) -> None:
    assert f"<h2>{section}</h2>" in source


def test_a_figure_that_does_not_exist_is_a_dash_with_its_reason(page: Page) -> None:
    assert "– no finding with both classes" in page.text  # harbour, positives only
    assert "– positives only" in page.text
    assert "– no positives" in page.text  # Effusion at valley
    assert "– no label" in page.text
    assert re.search(r"\b(None|nan|NaN|Undefined)\b", page.text) is None


def test_an_outside_site_shows_the_mean_of_all_local_models(page: Page) -> None:
    assert "mean of 4 local models" in page.text
    assert "no local model of its own" in page.text


def test_gallery_tells_hits_from_misses(page: Page) -> None:
    verdicts = [a["class"] for t, a in page.tags if t == "span" and "verdict" in str(a.get("class"))]
    assert verdicts.count("verdict hit") == 12  # two of three images, two sites, three arms
    assert verdicts.count("verdict miss") == 6
    assert "probability 0.83, peak 0.8" in page.text


def test_names_no_image_and_no_patient(source: str) -> None:
    assert "-img-" not in source
    assert re.search(r"patient\d{4}hash", source) is None


def test_left_out_is_counted_by_reason(page: Page) -> None:
    assert "north empty file 4 truncated or damaged 1" in page.text
    assert "north : box outside its image (3 times)" in page.text
    assert "PA 620, AP 155 5 south" in page.text, "the table of sites counts images, not reasons"


def test_free_text_of_an_older_run_is_not_shown(tmp_path: Path) -> None:
    """Before sites.json held counts, it held reasons with file names and cells."""
    run = write_fake_run(tmp_path, seeds=1)
    sites = json.loads((run / "sites.json").read_text("utf-8"))
    sites[0]["left_out"] = [{"where": "row 12", "reason": "cannot decode MUELLER Hans 1950-03-04.png"}] * 2
    sites[0]["problems"] = ["found 'Hans Mueller'; it is unknown"]
    (run / "sites.json").write_text(json.dumps(sites), "utf-8")
    text = Page(write_report(run).read_text("utf-8")).text
    assert "hans" not in text.casefold()
    assert "1950" not in text
    assert "not told: sites.json is of an older version 2" in text


@pytest.mark.parametrize(
    ("data", "badge"),
    [("phantom", "Phantom (synthetic) data"), ("real", "Real radiographs"), ("mixed", "Mixed: real")],
)
def test_says_what_data_it_is(tmp_path: Path, data: str, badge: str) -> None:
    text = Page(write_report(write_fake_run(tmp_path, data=data, seeds=1)).read_text("utf-8")).text
    assert text.count(badge) == 2
    assert ("nothing about patients" in text) == (data != "real")
    assert ("keep to their terms" in text) == (data != "phantom")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = {"north": HOSTILE, OUTSIDE: "{{ 7 * 7 }}' onload='x"}
    source = write_report(write_fake_run(tmp_path, rename=names, seeds=1)).read_text("utf-8")
    page = Page(source)
    assert HOSTILE not in source
    assert HOSTILE in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert [t for t, _ in page.tags].count("script") == 1
    assert not any("onload" in a for _, a in page.tags)
    assert page.crossed == []


def test_is_small(run: Path, source: str) -> None:
    assert len(source) < 6_000_000
    assert (run / "report.html").stat().st_mode & 0o444 == 0o444


def test_one_seed_and_no_extras(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, seeds=1)
    (run / "metrics.jsonl").unlink()
    (run / "gallery" / "gallery.json").unlink()
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    metrics |= {"localization": [], "comparisons": []}
    (run / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    page = Page(write_report(run).read_text("utf-8"))
    assert "metrics.jsonl is not in this run" in page.text
    assert "no test image of this study has a box" in page.text
    assert "this run kept no heat map" in page.text
    assert "Only 1 seed" in page.text
    assert "not computed at every site" in page.text
    assert page.crossed == []


@pytest.mark.parametrize("arms", [["federated"], ["local"], ["pooled", "federated"]])
def test_any_choice_of_arms(tmp_path: Path, arms: list[str]) -> None:
    run = write_fake_run(tmp_path, seeds=1)
    facts = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps(facts | {"arms": arms}), "utf-8")
    page = Page(write_report(run).read_text("utf-8"))
    assert page.crossed == []
    assert ("Paired differences" in page.text) == (arms == ["pooled", "federated"])
    assert {t for t in ("local", "pooled", "federated") if f"{t.capitalize()} hit" in page.text} == set(arms)


def test_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"found no directory.*hilum study"):
        write_report(tmp_path / "absent")
    with pytest.raises(RunError, match=r"holds run\.json; found a directory without it"):
        write_report(tmp_path)


def test_refuses_an_unfinished_run_and_says_how_to_resume(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, seeds=1)
    facts = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps(facts | {"finished": None}), "utf-8")
    (run / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"missing: metrics\.json, the time 'finished'.*--resume"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("sites.json", "[{", r"sites\.json: expected JSON"),
        ("metrics.json", '{"schema": 9}', r"expected schema 1; found 9"),
        ("metrics.json", '{"schema": 1, "classification": [{"seed": 0}]}', r"missing: arm, model"),
    ],
)
def test_refuses_broken_files(tmp_path: Path, file: str, content: str, message: str) -> None:
    run = write_fake_run(tmp_path, seeds=1)
    (run / file).write_text(content, "utf-8")
    with pytest.raises(RunError, match=message):
        write_report(run)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "maps/{}/north.npz",
            "PK",
            r"Expected maps in .*north\.npz; .*damaged\. Remove .*north\.csv and run .*--resume",
        ),
        (
            "predictions/{}/north.csv",
            "",
            r"Expected rows of probabilities in .*north\.csv; .*damaged\. Remove it and run",
        ),
        ("predictions/{}/north.csv", "image_id,patient,Pneumonia\na,1,?\n", r"Expected rows of probabilities in"),
    ],
)
def test_refuses_damaged_predictions(tmp_path: Path, file: str, content: str, message: str) -> None:
    run = write_fake_run(tmp_path, seeds=1)
    (run / file.format("seed_0/federated/federated")).write_text(content, "utf-8")
    with pytest.raises(RunError, match=message):
        write_report(run)


def test_replaces_the_report_in_one_step(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, seeds=1)
    (run / "report.html").write_text("old", "utf-8")
    picture = next((run / "gallery").glob("north/*.png"))
    kept = picture.read_bytes()
    picture.write_bytes(b"not an image")
    with pytest.raises(RunError, match="gallery"):
        write_report(run)
    assert (run / "report.html").read_text("utf-8") == "old"
    picture.write_bytes(kept)
    write_report(run)
    assert (run / "report.html").read_text("utf-8") != "old"
    assert sorted(p.name for p in run.iterdir() if "report" in p.name) == ["report.html"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    """What a killed process leaves has the name of the files that a resumed study removes."""
    run = write_fake_run(tmp_path, seeds=1)
    before, written = sorted(run.iterdir()), []

    def stopped(path: Path, _: Path) -> Path:
        written.append(path.name)
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stopped)
        with pytest.raises(type(stop)):
            write_report(run)
    assert sorted(run.iterdir()) == before
    assert fnmatch(written[0], ".report.html.*.tmp")
    (run / written[0]).write_text("half", "utf-8")
    StudyDirectory(run).remove_unfinished()
    assert sorted(run.iterdir()) == before


def test_needs_no_torch_and_imports_lightly(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hilum.report import write_report; "
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules), 'at import'; "
        f"write_report(Path({str(run)!r})); assert 'torch' not in sys.modules, 'while writing'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
