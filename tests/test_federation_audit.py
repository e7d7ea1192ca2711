"""The audit log: a changed, removed or inserted line is found (card 18, smallest proof iv)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import Hospitals, fake_site, tiny_model
from hilum.errors import RunError, TrainingError
from hilum.federation import secure_sum
from hilum.federation.audit import BEFORE_ALL, AuditLog, agreed, digest_of, verified
from hilum.federation.messages import LabelCounts, Reply, contribution
from hilum.federation.rounds import RoundsPlan
from hilum.federation.secure_sum import SecureSum
from hilum.federation.strategies.fedavg import FedAvg
from hospitals import hilum

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
    lines[1] = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"
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


def test_a_log_without_the_hospital_proves_nothing(tmp_path: Path) -> None:
    written(tmp_path / "server.jsonl")
    (tmp_path / "empty.jsonl").touch()
    AuditLog(tmp_path / "other.jsonl").add([{"site": "z", "outcome": "sent"}])
    for name in ("empty.jsonl", "other.jsonl"):
        with pytest.raises(RunError, match="replies of one hospital in both logs"):
            agreed(verified(tmp_path / "server.jsonl"), verified(tmp_path / name))


def test_what_was_put_into_a_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = written(path)
    for spoiled in (lines[0].replace(b"{", b'{"outcome":"refused",', 1), lines[0].replace(b"{", b"{ ", 1)):
        path.write_bytes(spoiled + b"".join(lines[1:]))
        with pytest.raises(RunError, match=r"line 1 of .*a line that was changed"):
            verified(path)


def test_a_cut_last_line_and_nonsense_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    content = b"".join(written(path))
    path.write_bytes(content[:-1])
    with pytest.raises(RunError, match="cut off"):
        verified(path)
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(RunError, match="something else"):
        verified(path)


def test_words_of_others_cannot_spoil_a_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.add([{"outcome": "x" * 3_000_000}, {"outcome": "\ud800"}])
    log.add([{"outcome": "taken"}])
    assert [len(entry["outcome"]) for entry in verified(log.path).entries] == [1000, 1, 5]


def test_the_command_says_what_it_has_found(tmp_path: Path) -> None:
    path = tmp_path / "run" / "audit.jsonl"
    lines, last = written(path), verified(path).last
    outcome = hilum("federation", "audit", path.parent)
    assert outcome.status == 0
    assert f"4 entries, whole; last hash {last}" in outcome.out
    assert hilum("federation", "audit", path, "--last", last).status == 0
    path.write_bytes(b"".join(lines[:-1]))
    outcome = hilum("federation", "audit", path, "--last", last)
    assert outcome.status == 1
    assert "Lines were cut off or written anew" in outcome.err
    assert hilum("federation", "audit", tmp_path / "absent").status == 1


def test_replies_to_a_sum_that_failed_were_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    log, groups = AuditLog(tmp_path / "audit.jsonl"), tiny_model().state_groups()
    hospitals = Hospitals.of(tmp_path, FedAvg(groups), *SITES)
    hospitals.secure = SecureSum(groups)
    monkeypatch.setattr(secure_sum, "_context", lambda task: np.random.default_rng().bytes(32))  # masks that differ
    federation = hospitals.federation(RoundsPlan(1))
    object.__setattr__(federation, "on_replies", log.add)
    with pytest.raises(TrainingError, match="masks that cancel"):
        federation.run(tiny_model().state_dict(), tmp_path / "rounds", lambda record: None)
    trained = [e for e in verified(log.path).entries if e["kind"] == "train"]
    assert [e["masked"] for e in trained] == [True, True]
    assert all("masks that cancel" in e["outcome"] for e in trained)


def test_the_hash_of_a_reply_holds_its_counts_and_its_key() -> None:
    counts = LabelCounts(9, np.array([9, 4]), np.array([2, 0]))
    reply = Reply("a", 1, {}, counts, key="0a")
    others = [replace(reply, key="0b"), replace(reply, counts=replace(counts, positive=np.array([2, 1])))]
    assert len({contribution(r) for r in (reply, *others)}) == 3
