"""The audit log: a changed, removed or inserted line is found (card 18, smallest proof iv)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import Hospitals, fake_site, tiny_model
from hilum.errors import RunError
from hilum.federation.audit import BEFORE_ALL, AuditLog, agreed, digest_of, verified
from hilum.federation.rounds import RoundsPlan
from hilum.federation.strategies.fedavg import FedAvg

SITES = (fake_site("a"), fake_site("b", train=6, seed=1))


def written(path: Path, entries: int = 4) -> list[bytes]:
    log = AuditLog(path, {"model": "seed_0/federated/federated"})
    for k in range(entries):
        log.add([{"site": "a", "kind": "train", "round": k, "wave": 0, "update_norm": 0.1 * k, "outcome": "taken"}])
    return path.read_bytes().splitlines(keepends=True)


def test_a_log_is_whole_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    lines = written(tmp_path / "audit.jsonl")
    chain = verified(tmp_path / "audit.jsonl")
    assert [entry["entry"] for entry in chain.entries] == [1, 2, 3, 4]
    assert chain.entries[0]["previous"] == BEFORE_ALL
    assert chain.last == json.loads(lines[-1])["hash"] == digest_of(chain.entries[-1])
    written(tmp_path / "audit.jsonl", 1)
    assert verified(tmp_path / "audit.jsonl").entries[4]["previous"] == chain.last


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    content = bytearray(b"".join(written(path)))
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] = data.draw(st.integers(32, 126).filter(lambda byte: byte != content[at]))
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match="line"):
        verified(path)


def test_a_changed_line_with_a_new_hash_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    entry = json.loads(lines[1]) | {"update_norm": 9.0}
    entry["hash"] = digest_of(entry)
    lines[1] = json.dumps(entry).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match="in line 3"):
        verified(path)


@pytest.mark.parametrize("order", [[0, 2, 3], [0, 2, 1, 3], [1, 2, 3], [0, 1, 1, 2, 3]])
def test_a_removed_moved_or_repeated_line_is_found(tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    path.write_bytes(b"".join(lines[k] for k in order))
    with pytest.raises(RunError, match="A line was removed, put in or moved"):
        verified(path)


def test_what_is_cut_off_at_the_end_shows_in_the_last_hash(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines, last = written(path), verified(path).last
    path.write_bytes(b"".join(lines[:-1]))
    assert verified(path).last != last


def test_a_line_that_a_kill_has_cut_is_replaced_and_a_changed_one_never_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    path.write_bytes(b"".join(lines) + lines[0][:50])
    written(path, 1)
    assert len(verified(path).entries) == 5
    path.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b"taken", b"token"))
    with pytest.raises(RunError, match="a line that was changed"):
        written(path, 1)


def test_the_loop_logs_every_reply_and_its_norm(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", {"model": "m"})
    hospitals = Hospitals.of(tmp_path, FedAvg(tiny_model().state_groups()), *SITES)
    federation = hospitals.federation(RoundsPlan(2, validate_every=2))
    object.__setattr__(federation, "on_replies", log.add)
    federation.run(tiny_model().state_dict(), tmp_path / "rounds", lambda record: None)
    entries = verified(log.path).entries
    told = [(e["site"], e["kind"], e["round"], e["outcome"]) for e in entries]
    kinds = [("count", 0), ("train", 1), ("train", 2), ("validate", 2)]
    assert told == [(site, kind, round_, "taken") for kind, round_ in kinds for site in "ab"]
    trained = [e for e in entries if e["kind"] == "train"]
    assert all(e["update_norm"] > 0 and e["images"] in (8, 6) and e["updates"] == 2 for e in trained)
    assert len({e["sha256"] for e in trained}) == 4


def test_a_server_that_took_what_a_site_did_not_send_is_found(tmp_path: Path) -> None:
    reply = {"run": "r", "model": "m", "site": "a", "kind": "train", "round": 1, "wave": 0}
    server, site, other = (AuditLog(tmp_path / name) for name in ("server.jsonl", "site.jsonl", "other.jsonl"))
    server.add([reply | {"sha256": "1", "outcome": "taken"}, reply | {"site": "b", "sha256": "2", "outcome": "taken"}])
    site.add([reply | {"sha256": "0", "outcome": "sent"}, reply | {"sha256": "1", "outcome": "sent"}])  # asked twice
    other.add([reply | {"sha256": "9", "outcome": "sent"}])
    assert agreed(verified(server.path), verified(site.path)) == 1
    with pytest.raises(RunError, match="in entry 1 of the server's log"):
        agreed(verified(server.path), verified(other.path))
