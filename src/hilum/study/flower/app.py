"""The folder of a Flower app that runs one study: what 'flwr run' takes, in simulation and between hospitals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from hilum.databases import DATABASES
from hilum.errors import StudyError
from hilum.study.arms import require_effect
from hilum.study.federations import ALONE, check_federations, federation_spec
from hilum.study.spec import Study, dump_study
from hilum.study.spec_federation import FederationSpec
from hilum.study.spec_sites import SiteSpec
from hilum.training.state import load_state, save_state, write_atomically

DONOR = "donor.safetensors"  # in the server's run directory: what ``model.initialization`` names

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "hilum-federation"
version = "1.0.0"
description = "A hilum study between hospitals."
license = "Apache-2.0"
dependencies = []  # hilum is installed at every site beforehand; nothing is installed when a run begins

[tool.hatch.build.targets.wheel]
packages = ["hilum_app"]

[tool.flwr.app]
publisher = "hilum"
fab-include = ["hilum_app/*.py", "study.yaml"]

[tool.flwr.app.components]
serverapp = "hilum_app.server:app"
clientapp = "hilum_app.client:app"

[tool.flwr.app.config]
"""
# Time limits in s (see ``runtimes.flower.Limits``; ``enough`` 0 waits for all), run directory, sites with commas, and
# in a simulation the folder of the hospitals.
CONFIG: dict[str, str | int | float] = {
    "round": 3600.0,
    "absent": 300.0,
    "who": 120.0,
    "attempts": 3,
    "enough": 0.0,
    "out": "run",
    "sites": "",
    "hospitals": "",
}
MODULE = '''\
"""The {end}'s end of the study."""

from pathlib import Path

from hilum.study.flower.{end} import {end}_app

app = {end}_app(Path(__file__).parent.parent / "study.yaml")
'''


def app_study(study: Study, sites: Sequence[str], precision: str, threads: int | None) -> Study:
    """Return what hospitals train together of a study: federated arms and no other, no path of anybody's disk.

    ``sites``: those that train. Raises ``StudyError`` where the study asks for what is not done between hospitals.
    """
    study = federated(study)
    training = study.training.model_copy(update={"precision": precision, "threads": threads})
    stripped = study.model_copy(
        update={
            "sites": {name: _without_paths(spec) for name, spec in study.sites.items() if spec.role == "training"},
            "federation": study.federation if "federated" in study.arms else FederationSpec(),
            "federations": {arm: spec for arm, spec in study.federations.items() if arm in study.arms},
            "model": _with_donor(study, DONOR).model,
            "images": study.images.model_copy(update={"cache": None, "workers": None}),
            "training": training,
        }
    )
    check_federations(stripped, sorted(sites))
    return stripped


def federated(study: Study) -> Study:
    """Return a study of the arms in which hospitals learn together (``StudyError``)."""
    arms = [arm for arm in study.arms if arm not in ALONE]
    if not arms:
        raise StudyError(f"Expected an arm in which hospitals learn together; found {', '.join(study.arms)}.")
    mixed = [arm for arm in arms if federation_spec(study, arm).shared is not None]
    if mixed:
        raise StudyError(
            f"Expected no shared images between hospitals; '{mixed[0]}' has some. Leave the arm out: how many of them "
            "a site gets depends on the images of all sites, which only 'hilum study' sees."
        )
    return study.model_copy(update={"arms": arms})


def path_options(spec: SiteSpec) -> dict[str, Any]:
    """Return those options of a site's database that are given as paths."""
    given = spec.database.model_extra or {}
    known = signature(DATABASES.load(spec.database.name).read).parameters if given else {}
    return {name: value for name, value in given.items() if value is not None and "Path" in str(known[name].annotation)}


def _without_paths(spec: SiteSpec) -> SiteSpec:
    database = spec.database.model_copy(update=dict.fromkeys(path_options(spec)))
    return spec.model_copy(update={"root": Path(), "database": database})


def write_donor(run: Path, study: Study) -> None:
    """Write the donor of a study, if it has one, into the server's run directory.

    Raises ``StudyError`` for a donor that is not there, or of another trunk, and for options without effect.

    No hospital reads it: each is sent the weights that the server has begun with.
    """
    require_effect(study)
    if donor := _donor(study):
        save_state(run / DONOR, load_state(Path(donor)))


def server_study(study: Study, run: Path) -> Study:
    """Return the study of an app as its server trains it: with the donor in its run directory."""
    return _with_donor(study, str(run / DONOR))


def _donor(study: Study) -> str | None:
    return (study.model.initialization.model_extra or {}).get("donor")


def _with_donor(study: Study, donor: str) -> Study:
    if _donor(study) is None:
        return study
    initialization = study.model.initialization.model_copy(update={"donor": donor})
    return study.model_copy(update={"model": study.model.model_copy(update={"initialization": initialization})})


def write_app(folder: Path, study: Study, config: Mapping[str, str | int | float]) -> None:
    """Write the app of a study from ``app_study``; ``config``: as ``CONFIG``."""
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in config.items())
    files = {
        "pyproject.toml": PYPROJECT + lines,
        "study.yaml": dump_study(study),
        "hilum_app/__init__.py": '"""A hilum study as a Flower app."""\n',
        "hilum_app/client.py": MODULE.format(end="client"),
        "hilum_app/server.py": MODULE.format(end="server"),
    }
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
