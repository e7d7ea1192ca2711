"""Rooms import only to the left, nothing heavy loads before it is used, and some packages never."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hilum

PACKAGE = Path(hilum.__file__).parent
ROOMS = (
    *("findings", "databases", "images", "sites", "shift", "models", "training", "federation"),
    *("localization", "unseen", "evaluation", "study", "report", "serve", "cli"),
)
SHARED = {"allocator", "errors", "registry", "randomness", "progress"}
# To the left, and still none of the room's business.
FORBIDDEN = {
    "models": {"databases"},
    "localization": {"federation"},
    "evaluation": {"models", "training", "federation"},
    "report": {"models", "training", "federation"},
}
NEVER = {"torchvision", "timm", "cv2", "skimage", "pickle", "cPickle", "dill", "cloudpickle"}
HEAVY = ("torch", "pandas", "scipy", "sklearn", "matplotlib", "safetensors")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = ("hilum", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in the module, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "hilum" and len(parts) > 1 else None


def faults(room: str, tree: ast.AST) -> list[str]:
    """Imports of a module in ``room`` that the house does not allow."""
    found = []
    for target in imports_of(tree):
        to = room_of(target)
        if target.split(".")[0] in NEVER:
            found.append(target)
        if to is None or to in SHARED or (to not in ROOMS and not (PACKAGE / f"{to}.py").exists()):
            continue
        inside = room in ROOMS and to in ROOMS
        if not inside or ROOMS.index(to) > ROOMS.index(room) or to in FORBIDDEN.get(room, set()):
            found.append(target)
    return found


def test_every_directory_is_a_room() -> None:
    directories = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    files = {p.stem for p in PACKAGE.glob("*.py")}
    assert directories <= set(ROOMS)
    assert files <= SHARED | {"__init__", "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_room_may_know(path: Path) -> None:
    # The package itself may know as little as its errors, and its door into the command line as much as that.
    room = "cli" if path.stem == "__main__" else room_of(name_of(path)) or "errors"
    assert faults(room, ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("room", "source", "allowed"),
    [
        ("models", "from hilum.training.loop import LocalTrainer", False),
        ("training", "from hilum.models import BACKBONES", True),
        ("training", "def f():\n    import hilum.federation.rounds", False),
        ("training", "from hilum import report", False),
        ("report", "from hilum.training.state import load_state", False),
        ("evaluation", "from hilum.errors import DataError", True),
        ("errors", "from hilum.findings.vocabulary import FINDINGS", False),
        ("images", "import pickle", False),
        ("images", "from torchvision.io import read_image", False),
    ],
)
def test_the_check_itself_sees_a_fault(room: str, source: str, allowed: bool) -> None:
    assert (faults(room, ast.parse(source)) == []) == allowed


def registries() -> list[str]:
    """Modules in which a registry is made at top level."""
    found = []
    for path in MODULES:
        values = [getattr(n, "value", None) for n in ast.parse(path.read_text(encoding="utf-8")).body]
        calls = [v.func for v in values if isinstance(v, ast.Call)]
        if any(isinstance(f, ast.Name) and f.id == "Registry" for f in calls):
            found.append(name_of(path))
    return found


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}\nprint(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_command_line_and_every_registry_load_nothing_heavy() -> None:
    modules = registries()
    assert {"hilum.databases", "hilum.models", "hilum.federation.strategies", "hilum.evaluation"} <= set(modules)
    assert loaded_by("hilum.cli.app", *modules) == set()


def test_no_package_loads_anything_heavy() -> None:
    packages = [name_of(path) for path in MODULES if path.name == "__init__.py"]
    assert {"hilum.images", "hilum.training", "hilum.report", "hilum.cli"} <= set(packages)
    assert loaded_by(*packages) == set()


def test_the_measure_sees_a_heavy_import() -> None:
    assert "torch" in loaded_by("hilum.training.state")
