"""The study file: defaults, overrides, and every mistake told with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import hospitals
from hilum.errors import StudyError
from hilum.study.spec import Section, SiteSpec, Study, dump_study, load_study, parse_study

ROOT = Path(__file__).parents[1]


def content(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(hospitals.STUDY), **changes}


def refusal(**changes: Any) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(content(**changes), "study.yaml")
    return str(caught.value)


def test_study_survives_writing_and_reading() -> None:
    study = parse_study(content(label_policy="ones", model={"pooling": {"name": "top_k", "fraction": 0.2}}), "study")
    assert parse_study(yaml.safe_load(dump_study(study)), "dump") == study


def test_dump_fills_in_every_default() -> None:
    resolved = yaml.safe_load(dump_study(parse_study(content(), "study")))
    assert resolved["split"] == {"seed": 0, "val": 0.15, "test": 0.25}
    assert resolved["training"]["optimizer"]["name"] == "adamw"
    assert resolved["sites"]["north"]["role"] == "training"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trainig": {}}, "trainig: unknown key. Did you mean 'training'?"),
        ({"training": {"epochs": 3}}, "training.epochs: unknown key. Known: rounds, updates"),
        ({"training": {"round": 3}}, "training.round: unknown key. Did you mean 'rounds'?"),
        ({"training": {"optimizer": {"lrr": 1}}}, "training.optimizer.lrr: unknown key. Did you mean 'lr'?"),
        ({"sites": {"a": {"database": "folder", "root": "a", "rol": "x"}}}, "sites.a.rol: unknown key. Did you"),
        ({"model": {"pooling": {"name": "top_k", "fractoin": 1}}}, "'top_k' has no option 'fractoin'. Did you mean"),
        ({"model": {"backbone": {"name": "residual", "width": [1]}}}, "Did you mean 'widths'?"),
        ({"model": {"pooling": {"name": "max", "channels": 3}}}, "'max' has no option 'channels'. Known: none."),
        ({"model": {"pooling": "topk"}}, "Did you mean 'top_k'?"),
        ({"findings": ["Nodul"]}, "Did you mean 'Nodule'?"),
        ({"sites": {"a": {"database": "nih", "root": "a"}}}, "Did you mean 'nih14'?"),
        ({"training": {"loss": "masked_bec"}}, "Did you mean 'masked_bce'?"),
        ({"federation": {"strategy": "fedavgg"}}, "Did you mean 'fedavg'?"),
        ({"label_policy": "one"}, "expected a label policy among ignore, zeros, ones; found 'one'"),
        ({"findings": []}, "findings: List should have at least 1 item"),
        ({"sites": {}}, "sites: Dictionary should have at least 1 item"),
        ({"sites": {"a": {"database": "folder", "root": "a", "role": "outside"}}}, "no site has the role 'training'"),
        ({"sites": {"a b": {"database": "folder", "root": "a"}}}, "found 'a b'"),
        ({"sites": {"pooled": {"database": "folder", "root": "a"}}}, "found 'pooled'"),
        ({"seeds": [1, 1]}, "seeds: named twice: 1"),
        ({"findings": ["Mass", "Mass"]}, "findings: named twice: Mass"),
        ({"arms": ["local", "local"]}, "arms: named twice: local"),
        ({"arms": ["centralised"]}, "arms.0: Input should be 'local', 'pooled' or 'federated'"),
        ({"split": {"val": 0.5, "test": 0.5}}, "val + test must be less than 1"),
        ({"images": {"low": 60, "high": 40}}, "low must be less than high"),
        ({"images": {"size": 16}}, "images.size: Input should be greater than or equal to 32"),
        ({"training": {"rounds": 0}}, "training.rounds: Input should be greater than or equal to 1"),
        ({"federation": {"tau": 2}}, "federation.tau"),
    ],
)
def test_a_mistake_is_told_with_its_key(changes: dict[str, Any], told: str) -> None:
    assert told in refusal(**changes)


def test_all_mistakes_are_told_at_once() -> None:
    text = refusal(trainig={}, seeds=[])
    assert "trainig" in text
    assert "seeds" in text


def test_a_key_that_is_missing_is_named() -> None:
    text = content()
    del text["findings"]
    with pytest.raises(StudyError, match="findings: Field required"):
        parse_study(text, "study.yaml")


def write(tmp_path: Path, text: str = hospitals.STUDY) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("training.rounds=7", lambda s: s.training.rounds == 7),
        ("training.updates=null", lambda s: s.training.updates is None),
        ("training.optimizer.lr=0.5", lambda s: s.training.optimizer.lr == 0.5),
        ("seeds=[3, 4]", lambda s: s.seeds == [3, 4]),
        ("arms=[federated]", lambda s: s.arms == ["federated"]),
        ("model.pooling=max", lambda s: s.model.pooling.name == "max"),
        ("model.backbone.dilation=2", lambda s: s.model.backbone.model_extra.get("dilation") == 2),
        ("sites.east.role=training", lambda s: s.sites["east"].role == "training"),
        ("evaluation.flip=false", lambda s: s.evaluation.flip is False),
    ],
)
def test_override(override: str, read: Any, tmp_path: Path) -> None:
    file = write(tmp_path)
    assert not read(load_study(file))
    assert read(load_study(file, [override]))


def test_override_of_a_bare_name_keeps_it(tmp_path: Path) -> None:
    file = write(tmp_path, hospitals.STUDY.replace("{backbone:", "{pooling: top_k, backbone:"))
    pooling = load_study(file, ["model.pooling.fraction=0.3"]).model.pooling
    assert (pooling.name, pooling.model_extra) == ("top_k", {"fraction": 0.3})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.rounds", "Expected --set KEY=VALUE"),
        ("=3", "Expected --set KEY=VALUE"),
        ("training.round=3", "Did you mean 'rounds'?"),
        ("findings.0=Mass", "Expected a section at 'findings'"),
        ("seeds=[1", "Expected a YAML value in --set seeds=[1"),
    ],
)
def test_wrong_override(override: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path), [override])
    assert told in str(caught.value)


def test_paths_are_relative_to_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    write(tmp_path / "studies", hospitals.STUDY.replace("root: north", "root: ../north"))
    monkeypatch.chdir(tmp_path)
    study = load_study(Path("studies/study.yaml"))
    assert study.sites["north"].root == tmp_path / "north"
    assert study.images.cache == tmp_path / "studies" / "cache"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty or no mapping"),
        ("{}", "the file is empty or no mapping"),
        ("- a\n- b\n", "the file is empty or no mapping"),
        ("a: [1", "Expected YAML in"),
        ("\x00", "Expected YAML in"),
    ],
)
def test_a_file_that_holds_no_study(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=told):
        load_study(write(tmp_path, text))


def test_a_path_that_holds_no_file(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is none"):
        load_study(tmp_path / "absent.yaml")
    with pytest.raises(StudyError, match="the system says: Is a directory"):
        load_study(tmp_path)


def test_the_studies_of_the_repository_can_be_read() -> None:
    files = [*(ROOT / "studies").glob("*.yaml"), ROOT / "src/hilum/study/demo.yaml"]
    assert len(files) >= 2
    for file in files:
        assert load_study(file).sites


def sections(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every key of the study file, dotted; a site's are those of ``sites.<name>``."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys += sections(field.annotation, f"{prefix}{name}.")
    return keys


def test_the_reference_names_every_key_and_no_other() -> None:
    rows = (ROOT / "docs/reference/study-file.md").read_text(encoding="utf-8").splitlines()
    named = [row.split("`")[1] for row in rows if row.startswith("| `")]
    expected = sections(Study) + [f"sites.<name>.{key}" for key in SiteSpec.model_fields]
    tables = {key.rpartition(".")[0] for key in expected if "." in key} | {"sites"}
    assert sorted(named) == sorted(key for key in expected if key not in tables)


def default_of(key: str) -> Any:
    model: Any = Study
    *parents, last = key.split(".")
    if parents[:1] == ["sites"]:
        model, parents = SiteSpec, []
    for parent in parents:
        model = model.model_fields[parent].annotation
    return model.model_fields[last]


def test_the_reference_states_the_defaults() -> None:
    """Each row: key, default as YAML ('required' where there is none), meaning."""
    rows = (ROOT / "docs/reference/study-file.md").read_text(encoding="utf-8").splitlines()
    for row in (row for row in rows if row.startswith("| `")):
        _, key, default, _meaning, _ = (cell.strip() for cell in row.split("|"))
        field = default_of(key.strip("`"))
        if field.is_required():
            assert default == "required", key
            continue
        value = field.default.model_dump() if isinstance(field.default, BaseModel) else field.default
        value = value["name"] if isinstance(value, dict) else value
        assert yaml.safe_load(default.strip("`")) == value, key
