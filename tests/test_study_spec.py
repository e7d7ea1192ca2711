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


def refusal(changes: dict[Any, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(content() | changes, "study.yaml")
    return str(caught.value)


def bag(trunk: object) -> dict[str, Any]:
    return {"model": {"backbone": {"name": "patch_bag", "trunk": trunk}}}


def test_study_survives_writing_and_reading() -> None:
    study = parse_study(content(label_policy="ones", model={"pooling": {"name": "top_k", "fraction": 0.2}}), "study")
    assert parse_study(yaml.safe_load(dump_study(study)), "dump") == study


def test_dump_fills_in_every_default() -> None:
    resolved = yaml.safe_load(dump_study(parse_study(content(), "study")))
    assert resolved["split"] == {"seed": 0, "val": 0.15, "test": 0.25}
    assert resolved["training"]["optimizer"]["name"] == "adamw"
    assert resolved["sites"]["north"]["role"] == "training"


def test_dump_fills_in_the_options_of_named_parts() -> None:
    """Those of a name that is itself a default, of a trunk within a bag and of a further federation too."""
    bag_of_crops = bag({"name": "residual", "dilation": 2})
    changes = bag_of_crops | {
        "federations": {"prox": {"strategy": "fedprox"}},
        "evaluation": {"localizer": "occlusion"},
    }
    text = dump_study(parse_study(content(**changes), "study"))
    resolved = yaml.safe_load(text)
    trunk = {"name": "residual", "widths": [24, 48, 96], "dilation": 2}
    assert resolved["model"]["backbone"] == {
        "name": "patch_bag",
        "trunk": trunk,
        "size": 32,
        "stride": 16,
        "cell": "mean",
    }
    assert resolved["federations"]["prox"]["strategy"] == {"name": "fedprox", "mu": 0.01}
    assert resolved["evaluation"]["localizer"] == {"name": "occlusion", "size": 16, "stride": 8}
    assert dump_study(parse_study(resolved, "dump")) == text
    by_default = yaml.safe_load(dump_study(parse_study(content(model={}), "study")))
    assert by_default["model"]["backbone"] == trunk | {"dilation": 1}


def test_a_site_comes_from_the_key_of_its_name_or_from_the_longest_that_is_cut() -> None:
    whole, cut = {"database": "folder", "root": "x"}, {"name": "iid", "num_partitions": 2}
    parted = whole | {"partition": cut}
    sites = {"north": whole, "north-east": whole, "west": parted, "west-end": parted, "west-2": whole}
    study = parse_study(content(sites=sites), "study")
    expected = {"north": "north", "north-east": "north-east", "west-1": "west", "west-end-1": "west-end"}
    assert {site: study.source_of(site) for site in [*expected, "west-2"]} == expected | {"west-2": "west-2"}
    for stranger in ("north-west", "west", "east"):
        with pytest.raises(StudyError, match=rf"west-2\); found '{stranger}'"):
            study.source_of(stranger)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trainig": {}}, "trainig: unknown key. Did you mean 'training'?"),
        ({"training": {"weeks": 3}}, "training.weeks: unknown key. Known: rounds, updates"),
        ({"training": {"round": 3}}, "training.round: unknown key. Did you mean 'rounds'?"),
        ({"training": {"optimizer": {"lrr": 1}}}, "training.optimizer.lrr: unknown key. Did you mean 'lr'?"),
        ({"sites": {"a": {"database": "folder", "root": "a", "rol": "x"}}}, "sites.a.rol: unknown key. Did you"),
        ({"model": {"pooling": {"name": "top_k", "fractoin": 1}}}, "'top_k' has no option 'fractoin'. Did you mean"),
        ({"model": {"backbone": {"name": "residual", "width": [1]}}}, "Did you mean 'widths'?"),
        ({"model": {"pooling": {"name": "max", "channels": 3}}}, "'max' has no option 'channels'. Known: none."),
        (bag({"name": "residual", "width": 8}), "model.backbone.trunk: 'residual' has no option 'width'. Did you mean"),
        (bag({"name": "residual", "dilation": "a"}), "model.backbone.trunk: expected a whole number for the option"),
        (bag(3), "model.backbone.trunk: expected a name, or a section with name and options; found 3"),
        (bag({"widths": [4, 4, 8]}), "model.backbone.trunk.name: expected this key; found none"),
        (bag("residul"), "Did you mean 'residual'?"),
        (bag("patch_bag"), "model.backbone.trunk: expected a backbone that sees crops whole; found 'patch_bag'"),
        ({"model": {"pooling": "topk"}}, "Did you mean 'top_k'?"),
        ({"findings": ["Nodul"]}, "Did you mean 'Nodule'?"),
        ({"sites": {"a": {"database": "nih", "root": "a"}}}, "Did you mean 'nih14'?"),
        ({"training": {"loss": "masked_bec"}}, "Did you mean 'masked_bce'?"),
        ({"training": {"loss": {"name": "ldam", "known": [1]}}}, "'ldam' has no option 'known'"),
        ({"federation": {"strategy": "fedavgg"}}, "Did you mean 'fedavg'?"),
        ({"label_policy": "one"}, "among ignore, zeros, ones, soft, blank-is-negative, chexpert; found 'one'"),
        ({"findings": []}, "findings: expected at least 1 entry; found []"),
        ({"sites": {}}, "sites: expected at least 1 entry; found {}"),
        (
            {"sites": {"a": {"database": "folder", "root": "a", "role": "outside"}}},
            "sites: expected at least one site with the role 'training'; found none",
        ),
        ({"sites": {"a b": {"database": "folder", "root": "a"}}}, "found 'a b'"),
        ({"sites": {"pooled": {"database": "folder", "root": "a"}}}, "found 'pooled'"),
        ({"seeds": [1, 1]}, "seeds: expected every entry once; found 1 twice"),
        ({"findings": ["Mass", "Mass"]}, "findings: expected every entry once; found Mass twice"),
        ({"arms": ["local", "local"]}, "arms: expected every entry once; found local twice"),
        (
            {"arms": ["centralised"]},
            "found 'centralised'. Known: local, pooled, federated.",
        ),
        ({"arms": ["federatd"]}, "study: expected known arms; found 'federatd'. Did you mean 'federated'?"),
        ({"federations": {"a b": {}}}, "federations: expected a name of letters, digits, '-' and '_' that is none of"),
        ({"federations": {"local": {}}}, "that is none of local, pooled, federated; found 'local'"),
        ({"federation": {"strategy": {"name": "fedprox", "mo": 1}}}, "'fedprox' has no option 'mo'. Known: mu."),
        (
            {"federation": {"strategy": {"name": "fedprox", "mu": -1}}},
            "a number of 0 to inf for the option 'mu'",
        ),
        ({"federation": {"strategy": {"name": "fedprox", "mu": "high"}}}, "for the option 'mu'; found 'high'"),
        ({"federation": {"strategy": {"name": "fedlsm", "high": 0.2}}}, "number of 0.5 to 1 for the option 'high'"),
        ({"federation": {"strategy": "fedbn", "normalization": "site"}}, "normalization 'local', which 'fedbn' means"),
        (
            {"federation": {"strategy": "ditto", "head": "site"}},
            "head 'shared', which 'ditto' means; found 'site'",
        ),
        ({"federation": {"strategy": "iil", "participation": 0.5}}, "expected every site in every round with 'iil'"),
        ({"federation": {"strategy": "iil", "presence": {"a": {"first": 2}}}}, "every site in every round with 'iil'"),
        ({"federation": {"topology": "hierarchy"}}, "'hierarchy' needs the option 'regions'"),
        (
            {"model": {"initialization": "mean_var"}},
            "'mean_var' needs the option 'donor', as {name: mean_var, donor: model.safetensors}",
        ),
        ({"model": {"initialization": {"name": "transfusion", "upto": "stem"}}}, "'transfusion' needs the option 'do"),
        (
            {"model": {"initialization": {"name": "mean_var", "donor": 3}}},
            "model.initialization: expected text for the option 'donor'; found 3",
        ),
        (
            {"model": {"initialization": {"name": "transfusion", "donor": "a", "upto": 1}}},
            "expected text or null for the option 'upto'; found 1",
        ),
        ({"federation": {"topology": {"name": "hierarchy", "regions": ["a"]}}}, "Expected regions as {name: [site, …]"),
        (
            {"federation": {"topology": {"name": "hierarchy", "regions": {"x": ["a"]}, "region_rounds": 0}}},
            "Expected a whole number of 1 or more for the option 'region_rounds'; found 0",
        ),
        ({"federation": {"topology": {"name": "gossip", "graph": "star"}}}, "Expected graph 'complete', 'ring' or"),
        ({"federation": {"topology": {"name": "gossip", "steps": True}}}, "for the option 'steps'; found True"),
        (
            {"federation": {"presence": {"a": {"first": 3, "last": 2}}}},
            "last of at least first; found 2 and 3",
        ),
        ({"federation": {"participation": 0}}, "federation.participation: expected a number above 0; found 0"),
        ({"federation": {"quorum": 1.5}}, "federation.quorum: expected a number of at most 1; found 1.5"),
        ({"split": {"val": 0.5, "test": 0.5}}, "split: expected val + test below 1; found 0.5 + 0.5"),
        ({"images": {"low": 60, "high": 40}}, "images: expected low below high; found 60.0 and 40.0"),
        (
            {"label_policy": {"name": "soft", "high": 0.3}},
            "label_policy: expected low at most high; found low 0.55 (the default) and high 0.3. Set both, the lesser",
        ),
        (
            {"label_policy": {"findings": {"Mass": {"name": "soft", "low": 0.9, "high": 0.1}}}},
            "label_policy.findings.Mass: expected low at most high; found low 0.9 and high 0.1. Set both",
        ),
        ({"label_policy": {"low": True}}, "label_policy.low: expected a number; found true"),
        (
            {"sites": {"a": {"database": "folder", "root": "a", "label_policy": 5}}},
            "sites.a.label_policy: expected a section with name, low, high, …; found 5",
        ),
        (
            {"sites": {"a": {"database": "folder", "root": "a", "label_policy": {"nam": "ones"}}}},
            "sites.a.label_policy.nam: unknown key. Did you mean 'name'?",
        ),
        ({"images": {"size": 16}}, "images.size: expected a number of at least 32; found 16"),
        ({"training": {"rounds": 0}}, "training.rounds: expected a number of at least 1; found 0"),
        ({"federation": {"tau": 2}}, "federation.tau: expected a number of at most 1; found 2"),
        (
            {"training": {"optimizer": "sgd"}},
            "training.optimizer: expected a section with name, lr, head_lr, …; found 'sgd'",
        ),
        ({"training": None}, "training: expected a section with rounds, updates, epochs, …; found nothing"),
        ({"split": [1]}, "split: expected a section with seed, val, test; found [1]"),
        ({"model": {"pooling": 5}}, "model.pooling: expected a name, or a section with name and options; found 5"),
        ({"sites": {"a": "folder"}}, "sites.a: expected a section with database, root, role, …; found 'folder'"),
        ({"sites": ["a"]}, "sites: expected a mapping of names; found ['a']"),
        ({"sites": {1: {"database": "folder", "root": "a"}}}, "sites: expected text as a name; found 1. Write it in"),
        ({"sites": {"a": {"root": "a"}}}, "sites.a.database: expected this key; found none"),
        ({"name": 5}, "name: expected text; found 5"),
        ({"findings": "Nodule"}, "findings: expected a list; found 'Nodule'"),
        ({"seeds": ["a"]}, "seeds.0: expected a whole number; found 'a'"),
        ({"training": {"rounds": 2.5}}, "training.rounds: expected a whole number; found 2.5"),
        ({"training": {"optimizer": {"lr": "fast"}}}, "training.optimizer.lr: expected a number; found 'fast'"),
        ({"training": {"optimizer": {"lr": 0}}}, "training.optimizer.lr: expected a number above 0; found 0"),
        ({"split": {"val": 1}}, "split.val: expected a number below 1; found 1"),
        ({"evaluation": {"flip": "maybe"}}, "evaluation.flip: expected true or false; found 'maybe'"),
        (
            {"evaluation": {"threshold": 1}},
            "evaluation.threshold: expected a number above 0 and below 1, or otsu; found 1",
        ),
        ({"evaluation": {"threshold": "ostu"}}, "number above 0 and below 1, or otsu; found 'ostu'"),
        ({"evaluation": {"threshold": True}}, "number above 0 and below 1, or otsu; found True"),
        ({1: 2}, "study: expected text as a name; found 1"),
    ],
)
def test_a_mistake_is_told_with_its_key(changes: dict[str, Any], told: str) -> None:
    text = refusal(changes)
    assert told in text
    (line,) = text.splitlines()[1:]
    assert line.count("found") <= 1
    assert not any(word in line for word in ("Input", "Value error", "valid ", "instance", "Spec"))


def test_all_mistakes_are_told_at_once() -> None:
    text = refusal({"trainig": {}, "seeds": []})
    assert "trainig" in text
    assert "seeds" in text


def test_a_key_that_is_missing_is_named() -> None:
    text = content()
    del text["findings"]
    with pytest.raises(StudyError, match="findings: expected this key; found none"):
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
        ("training.unknown=negative", lambda s: s.training.unknown == "negative"),
        ("evaluation.flip=false", lambda s: s.evaluation.flip is False),
        ("evaluation.threshold=otsu", lambda s: s.evaluation.threshold == "otsu"),
        ("evaluation.threshold=3e-1", lambda s: s.evaluation.threshold == 0.3),
    ],
)
def test_override(override: str, read: Any, tmp_path: Path) -> None:
    file = write(tmp_path)
    assert not read(load_study(file))
    assert read(load_study(file, [override]))


def test_override_of_a_bare_name_keeps_it(tmp_path: Path) -> None:
    file = write(tmp_path, hospitals.STUDY.replace("{backbone:", "{pooling: top_k, backbone:"))
    pooling = load_study(file, ["model.pooling.fraction=0.3"]).model.pooling
    assert (pooling.name, pooling.model_extra) == ("top_k", {"fraction": 0.3, "bottom": 0.0})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.rounds", "Expected --set KEY=VALUE"),
        ("=3", "Expected --set KEY=VALUE"),
        ("training.round=3", "Did you mean 'rounds'?"),
        ("findings.0=Mass", "Expected a section at 'findings'"),
        ("seeds=[1", "Expected a YAML value in --set seeds=[1"),
        ("split={seed: 1, seed: 2}", "Expected every key once in --set split={seed: 1, seed: 2}; found the key 'seed'"),
        ("training.optimizer=sgd", "training.optimizer: expected a section with name, lr, head_lr, …; found 'sgd'"),
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


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("training: {rounds: 3}\n" + hospitals.STUDY, "training", (1, 11)),
        (hospitals.STUDY + "seeds: [3]\n", "seeds", (7, 13)),
        (hospitals.STUDY.replace("  south:", "  'north':"), "north", (4, 5)),
        (hospitals.STUDY.replace("rounds: 2", "rounds: 2, rounds: 3"), "rounds", (10, 10)),
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str, key: str, lines: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(write(tmp_path, text))
    told = f"found the key '{key}' in line {lines[0]} and again in line {lines[1]}. Keep one of them."
    assert told in str(caught.value)


def test_anchors_and_merged_keys_may_be_changed(tmp_path: Path) -> None:
    """A merge is no repetition: what stands beside it comes first."""
    text = hospitals.STUDY.replace("north: {", "north: &first {").replace(
        "south: {database: folder, root: south}", "south: {<<: *first, root: south}"
    )
    assert load_study(write(tmp_path, text)) == load_study(write(tmp_path))


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


def test_true_is_no_number_anywhere() -> None:
    for key in sections(Study):
        changes: Any = True
        for part in reversed(key.split(".")):
            changes = {part: changes}
        if default_of(key).annotation is bool:
            parse_study(content() | changes, "study.yaml")
        else:
            assert "found true" in refusal(changes).lower(), key


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
        value = value["name"] if isinstance(value, dict) and "name" in value else value
        assert yaml.safe_load(default.strip("`")) == value, key


STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_of_the_repository_can_be_run_as_written(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    assert any(site.role == "training" for site in study.sites.values())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["name=2026-02-30"], "Expected a YAML value in --set name=2026-02-30"),
        (["name=../x"], "name: expected a name that a folder can have; found '../x'"),
        (["name="], "name: "),
        (["training.rounds=true"], "training.rounds: expected a number; found true"),
        (["seeds=[true]"], "seeds.0: expected a number; found true"),
        (["training.optimizer.lr=.inf"], "training.optimizer.lr: expected a finite number; found inf"),
        (["sites.a.label_policy=zeroes"], "sites.a.label_policy: expected a label policy among ignore, zeros"),
        (["label_policy=zeroes"], "label_policy: expected a label policy among ignore, zeros, ones, soft"),
    ],
)
def test_a_value_that_yaml_allows_and_a_study_does_not_is_told(values: list[str], words: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nfindings: [Nodule]\nsites: {a: {database: folder, root: a}}\n")
    load_study(path)
    with pytest.raises(StudyError) as caught:
        load_study(path, values)
    assert words in str(caught.value)


def test_paths_may_begin_at_home(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nfindings: [Nodule]\nsites: {a: {database: folder, root: ~/a}}\nimages: {cache: ~/c}\n")
    study = load_study(path)
    assert study.sites["a"].root == (Path.home() / "a").resolve()
    assert study.images.cache == (Path.home() / "c").resolve()
