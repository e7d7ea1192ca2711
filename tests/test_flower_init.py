"""'hilum federation init': keys that only their owner reads, scripts that run, and nothing that is replaced."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

pytest.importorskip("flwr")

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from flower_processes import SITES, STUDY, write_study
from hilum.study.flower.commands import QUIET, REFUSED
from hilum.study.flower.hospital import read_hospital
from hospitals import hilum

HOST, PORT = "federation.example.org", "8443"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that 'init' writes; not to be changed."""
    folder = tmp_path_factory.mktemp("init")
    study = write_study(folder)
    outcome = hilum("federation", "init", folder / "out", *arguments(), "--study", study)
    assert outcome.status == 0, outcome.err
    return folder / "out"


def arguments(sites: str = ",".join(SITES)) -> list[str]:
    return ["--sites", sites, "--host", HOST, "--port", PORT]


def test_private_keys_are_for_their_owner_alone(written: Path) -> None:
    keys = [*written.rglob("*.key")]
    assert len(keys) == 2 + len(SITES)
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_every_hospital_has_its_own_key_and_the_server_knows_it(written: Path) -> None:
    publics = set()
    for site in SITES:
        key = load_ssh_private_key((written / "hospitals" / site / "node.key").read_bytes(), None)
        public = load_ssh_public_key((written / "server" / "keys" / f"{site}.pub").read_bytes())
        assert key.public_key().public_numbers() == public.public_numbers()  # type: ignore[union-attr]
        publics.add(public.public_numbers())  # type: ignore[union-attr]
    assert len(publics) == len(SITES)


def test_the_certificate_is_of_the_host_and_of_the_authority_that_hospitals_get(written: Path) -> None:
    server = x509.load_pem_x509_certificate((written / "server" / "server.pem").read_bytes())
    for site in SITES:
        authority = x509.load_pem_x509_certificate((written / "hospitals" / site / "ca.crt").read_bytes())
        server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST, "localhost"]
    assert server.not_valid_before_utc < datetime.now(UTC) < server.not_valid_after_utc


def test_no_hospital_gets_the_key_of_another_or_of_the_server(written: Path) -> None:
    for site in SITES:
        found = {path.name for path in (written / "hospitals" / site).rglob("*") if path.is_file()}
        assert found == {
            *("node.key", "ca.crt", "hospital.yaml", "study.yaml", "start-node.sh", "hilum-node.service", "README.md"),
            *("flwr-clientapp", *REFUSED),
        }


def test_nothing_is_approved_in_the_name_of_a_hospital(written: Path) -> None:
    file = read_hospital(written / "hospitals" / "north" / "hospital.yaml")
    assert file.approved == []
    assert file.memory == written / "hospitals" / "north" / "memory"


@pytest.mark.parametrize("name", ["start-link.sh", "register-hospitals.sh", "start-run.sh"])
def test_scripts_of_the_server_are_shell_without_telemetry(written: Path, name: str) -> None:
    require_quiet_shell(written / "server" / name)


@pytest.mark.parametrize("site", SITES)
def test_scripts_of_hospitals_are_shell_without_telemetry(written: Path, site: str) -> None:
    require_quiet_shell(written / "hospitals" / site / "start-node.sh")


def require_quiet_shell(script: Path) -> None:
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert all(f"export {name}={value}" in text for name, value in QUIET.items())


def test_a_node_runs_only_what_is_installed(written: Path) -> None:
    folder = written / "hospitals" / "north" / "bin"
    for name in REFUSED:
        refused = subprocess.run([folder / name], capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "runs no" in refused.stderr
    assert "hilum.study.flower.executor" in (folder / "flwr-clientapp").read_text()
    assert 'PATH="$PWD/bin:' in (written / "hospitals" / "north" / "start-node.sh").read_text()


def test_the_executor_takes_the_installed_client_for_any_app(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.clientapp import ClientApp
    from flwr.common import config

    from hilum.study.flower.executor import installed_app

    monkeypatch.setattr(config, "get_project_dir", lambda *_: Path("/no/such/app"))
    assert isinstance(installed_app()("hilum/hilum-federation", "1.0.0", "hash"), ClientApp)


def test_flower_builds_the_app(written: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(written / "server" / "app", app)
    project = tomllib.loads((app / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    flwr = Path(sys.executable).parent / "flwr"
    env = {"FLWR_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **QUIET}
    built = subprocess.run([flwr, "build", "--app", app], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert len(list(tmp_path.glob("*.fab"))) == 1


def test_the_proxy_lets_the_fleet_api_through_and_says_why(written: Path) -> None:
    text = (written / "server" / "nginx.conf").read_text()
    assert text.count("location ") == 2
    assert "location /v1/fleet/ {" in text
    assert "Why:" in text
    assert "--host 127.0.0.1" in (written / "server" / "start-link.sh").read_text()


@pytest.mark.parametrize("word", [f"{HOST}:{PORT}", "What leaves", "Stop it", "No port is opened"])
def test_the_readme_of_a_hospital_says_port_what_leaves_and_how_to_stop(written: Path, word: str) -> None:
    assert word in (written / "hospitals" / "north" / "README.md").read_text()


def test_a_node_has_a_supervisor(written: Path) -> None:
    assert "Restart=always" in (written / "hospitals" / "north" / "hilum-node.service").read_text()


def test_init_again_keeps_keys_and_what_a_hospital_has_set(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    assert hilum("federation", "init", tmp_path / "out", *arguments()).status == 0
    assert not (tmp_path / "out" / "server" / "app").exists()
    key = (tmp_path / "out" / "hospitals" / "north" / "node.key").read_bytes()
    file = tmp_path / "out" / "hospitals" / "north" / "hospital.yaml"
    file.write_text(file.read_text().replace("/set/this", "/data"))
    outcome = hilum("federation", "init", tmp_path / "out", *arguments(), "--study", study)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "out" / "hospitals" / "north" / "node.key").read_bytes() == key
    assert "/data" in file.read_text()
    assert (tmp_path / "out" / "server" / "app" / "study.yaml").is_file()


def test_init_again_works_when_the_folders_of_hospitals_and_the_authority_have_left(tmp_path: Path) -> None:
    study, out = write_study(tmp_path), tmp_path / "out"
    assert hilum("federation", "init", out, *arguments()).status == 0
    shutil.rmtree(out / "hospitals")
    (out / "server" / "ca.key").unlink()
    outcome = hilum("federation", "init", out, *arguments(), "--study", study)
    assert outcome.status == 0, outcome.err
    assert (out / "hospitals" / "north" / "study.yaml").is_file()
    assert not [*out.rglob("ca.key"), *out.rglob("node.key"), *out.rglob("hospital.yaml")]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Flower's programs in a virtual environment of their own: they tell what they are called with.

    'flwr' refuses the key of 'south' as Flower refuses one that it knows, and the others' where the file 'down' is.
    """
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    known = 'case "$*" in *south*) echo "│ [code: 23] Public key already in use. │" >&2; exit 1 ;; esac'
    down = f'if [ -e "{tmp_path}/down" ]; then echo "unavailable" >&2; exit 1; fi'
    for name, lines in {"flwr": f"{down}\n{known}\necho in: $*", "flower-supernode": "printf '%s\\n' \"$@\""}.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    return folder


def called(script: Path, programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"HILUM_VENV": str(programs.parent), "PATH": "/usr/bin:/bin"}
    return subprocess.run([script, *arguments], env=env, capture_output=True, text=True, check=False)


def test_hospitals_that_are_let_in_already_do_not_keep_the_others_out(
    written: Path, tmp_path: Path, programs: Path
) -> None:
    server = shutil.copytree(written / "server", tmp_path / "server")
    done = called(server / "register-hospitals.sh", programs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "in: supernode register keys/north.pub hilum --name north",
        "keys/south.pub was let in before.",
        "in: supernode register keys/west.pub hilum --name west",
    ]


def test_a_link_that_is_down_is_no_success(written: Path, tmp_path: Path, programs: Path) -> None:
    server = shutil.copytree(written / "server", tmp_path / "server")
    (tmp_path / "down").touch()
    done = called(server / "register-hospitals.sh", programs)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "unavailable\n")


def test_a_node_takes_another_port_and_a_folder_with_a_space(written: Path, tmp_path: Path, programs: Path) -> None:
    folder = shutil.copytree(written / "hospitals" / "north", tmp_path / "the north")
    told = called(folder / "start-node.sh", programs, "--port", "8011").stdout.splitlines()
    assert told[:2] == ["--superlink", f"{HOST}:{PORT}"]
    assert told[-4:] == ["--node-config", f'hospital="{folder}/hospital.yaml"', "--port", "8011"]


def test_the_link_listens_on_the_port_that_is_given(tmp_path: Path) -> None:
    outcome = hilum("federation", "init", tmp_path, *arguments(), "--link-port", "9000")
    assert outcome.status == 0, outcome.err
    server = tmp_path / "server"
    assert "--host 127.0.0.1 --port 9000" in (server / "start-link.sh").read_text()
    assert "proxy_pass https://127.0.0.1:9000;" in (server / "nginx.conf").read_text()
    assert 'address = "127.0.0.1:9000"' in (server / "register-hospitals.sh").read_text()
    assert "Never open 9000" in " ".join((server / "README.md").read_text().split())


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (arguments("north,east"), "found 'east'"),
        (arguments("north,north-typo"), "found 'north-typo'"),
        (arguments("north,outer"), "'outer' has the role 'outside'"),
        (arguments("north,north"), "found 'north'"),
        (arguments("../north"), "found '../north'"),
        (["--sites", "north", "--host", HOST, "--port", "8000"], "found 8000 for both"),
    ],
)
def test_names_and_ports_that_cannot_be_are_refused(given: list[str], word: str, tmp_path: Path) -> None:
    outer = "  outer: {database: folder, root: west, role: outside}\nseeds:"
    study = write_study(tmp_path, STUDY.replace("seeds:", outer))
    outcome = hilum("federation", "init", tmp_path / "out", *given, "--study", study)
    assert outcome.status == 1
    assert word in outcome.err
    assert not (tmp_path / "out").exists()


def test_other_sites_are_not_mixed_into_a_folder(written: Path) -> None:
    outcome = hilum("federation", "init", written, *arguments("north,south"))
    assert outcome.status == 1
    assert "found north, south" in outcome.err


def test_without_flower_it_says_what_to_install(tmp_path: Path) -> None:
    with patch("importlib.util.find_spec", return_value=None):
        outcome = hilum("federation", "init", tmp_path, *arguments())
    assert outcome.status == 1
    assert "pip install 'hilum[flower]'" in outcome.err
