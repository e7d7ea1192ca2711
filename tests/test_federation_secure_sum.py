"""Secure sum: the server learns the mean of all replies and of no single one anything (card 18, smallest proof iii)."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fakes import Hospitals, fake_site, tiny_model
from hilum.errors import RunError, StudyError, TrainingError
from hilum.federation import aggregation
from hilum.federation.aggregation import WeightedMean
from hilum.federation.messages import Member, Reply, Task
from hilum.federation.payload import reply_of, reply_payload, task_of, task_payload
from hilum.federation.rounds import Federation, RoundsPlan
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.secure_sum import LARGEST, SecureSum, new_secret, public_key
from hilum.federation.strategies import IMPLIED, STRATEGIES
from hilum.federation.strategies.fedavg import FedAvg
from hilum.study.federations import check_federations
from hilum.study.spec import Study, parse_study
from hilum.study.spec_federation import FederationSpec
from hilum.training.state import State, fingerprint

pytest.importorskip("cryptography")

GROUPS = tiny_model().state_groups()
SECURE = SecureSum(GROUPS)
SITES = (fake_site("a"), fake_site("b", train=6, unknown=[1], seed=1), fake_site("c", train=40, seed=2))
SUMMED = [name for name in STRATEGIES if STRATEGIES.load(name).sums]
OTHERS = [name for name in STRATEGIES if name not in SUMMED]


def trained(folder: Path, name: str, secure: SecureSum | None, rounds: int = 3, **options: Any) -> State:
    strategy = STRATEGIES.load(name)(GROUPS, **{**options, **IMPLIED.get(name, {})})
    hospitals = Hospitals.of(folder, strategy, *SITES)
    hospitals.secure = secure
    federation = hospitals.federation(RoundsPlan(rounds))
    return federation.run(tiny_model().state_dict(), folder / "rounds", lambda record: None).state


def replies_and_tasks(folder: Path, *sites: Any) -> tuple[list[Reply], dict[str, Task], dict[str, bytes]]:
    """Replies in the clear to one task of a secure sum, the tasks, and the secrets of the sites."""
    hospitals = Hospitals.of(folder, FedAvg(GROUPS), *(sites or SITES))
    server = hospitals.start()
    secrets = {site: new_secret() for site in hospitals.trainers}
    server = replace(server, keys={site: public_key(secret) for site, secret in secrets.items()})
    cohort = SECURE.cohort(server, hospitals.strategy, server.counts)
    tasks = {site: Task("train", 1, server.state, cohort=cohort) for site in hospitals.trainers}
    return hospitals.replies(server), tasks, secrets


@pytest.mark.parametrize("name", SUMMED)
@pytest.mark.parametrize("options", [{}, {"head": "site", "normalization": "site", "weighting": "contrast"}])
def test_a_secure_sum_trains_what_a_plain_one_trains(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    plain = trained(tmp_path / "plain", name, None, 1, **options)
    secure = trained(tmp_path / "secure", name, SECURE, 1, **options)
    for tensor in plain:
        torch.testing.assert_close(secure[tensor], plain[tensor], rtol=1e-5, atol=1e-7)
    first, again = (trained(tmp_path / again, name, SECURE, **options) for again in ("first", "again"))
    assert fingerprint(first) == fingerprint(again)  # though every key is another


def test_the_sum_of_masked_states_is_the_plain_mean_in_any_order(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    mean = WeightedMean(GROUPS)
    for reply in replies:
        mean.add(reply.state, FedAvg(GROUPS).weights({r.site: r.counts for r in replies})[reply.site])
    expected = mean.value(tasks["a"].state)
    masked = [SECURE.masked(reply, tasks[reply.site], secrets[reply.site]) for reply in replies]
    forward, backward = (list(SECURE.opened(order, tasks)) for order in (masked, masked[::-1]))
    for reply in forward:
        assert fingerprint(reply.state) == fingerprint(backward[0].state)
        for name, tensor in expected.items():
            torch.testing.assert_close(reply.state[name], tensor, rtol=0, atol=1e-7)


def test_a_masked_state_is_uncorrelated_with_the_true_one_and_uniform(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    reply = replies[0]
    masked = SECURE.masked(reply, tasks[reply.site], secrets[reply.site])
    true = np.concatenate([reply.state[name].double().numpy().ravel() for name in sorted(masked.state)])
    seen = np.concatenate([masked.state[name].numpy().ravel() for name in sorted(masked.state)]).astype(float)
    assert len(true) > 500
    assert abs(np.corrcoef(true, seen)[0, 1]) < 4 / np.sqrt(len(true))
    assert abs((seen > 0).mean() - 0.5) < 2 / np.sqrt(len(seen))
    assert np.abs(seen).mean() == pytest.approx(2**62, rel=0.15)  # of uniform numbers of 64 bits


def test_two_tasks_share_no_mask(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    reply, task, secret = replies[0], tasks["a"], secrets["a"]
    name = sorted(GROUPS)[0]
    first = SECURE.masked(reply, task, secret).state[name]
    assert torch.equal(SECURE.masked(reply, task, secret).state[name], first)  # a repeated task repeats
    others = {site: member for site, member in task.cohort.items() if site != "b"}
    moved = {**task.cohort, "b": replace(task.cohort["b"], taken=(1, 0))}
    for other in (
        replace(task, wave=1),
        replace(task, visit=7),
        replace(task, state={**task.state, name: task.state[name] + 1}),
        replace(task, cohort=others),
        replace(task, cohort=moved),
    ):
        assert not (SECURE.masked(reply, other, secret).state[name] == first).any()


def test_without_one_site_there_is_no_sum(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    masked = [SECURE.masked(reply, tasks[reply.site], secrets[reply.site]) for reply in replies]
    assert list(SECURE.opened(masked[:2], tasks)) == []


def test_masks_that_do_not_cancel_are_seen(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    masked = [SECURE.masked(reply, tasks[reply.site], secrets[reply.site]) for reply in replies]
    masked[0] = SECURE.masked(replies[0], replace(tasks["a"], wave=1), secrets["a"])
    with pytest.raises(TrainingError, match="masks that cancel"):
        list(SECURE.opened(masked, tasks))


def test_a_site_sends_nothing_that_masks_would_not_hide(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    reply, task = replies[0], tasks["a"]
    with pytest.raises(TrainingError, match="Expected two sites or more"):
        SECURE.masked(reply, replace(task, cohort={"a": task.cohort["a"]}), secrets["a"])
    with pytest.raises(TrainingError, match="found another"):
        SECURE.masked(reply, task, new_secret())
    with pytest.raises(TrainingError, match="found none"):
        SECURE.masked(reply, replace(task, cohort={}), secrets["a"])
    bad = {**task.cohort, "b": Member("not hex", 0.5, np.zeros(2))}
    with pytest.raises(TrainingError, match="public key of 32 bytes"):
        SECURE.masked(reply, replace(task, cohort=bad), secrets["a"])


@pytest.mark.parametrize("value", [float("nan"), LARGEST * 10])
def test_a_site_refuses_to_mask_what_the_server_could_not_check(tmp_path: Path, value: float) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    name = next(n for n, group in GROUPS.items() if group == "trunk")
    broken = replace(replies[0], state={**replies[0].state, name: torch.full_like(replies[0].state[name], value)})
    with pytest.raises(TrainingError, match="finite weights" if value != value else "weights of at most"):
        SECURE.masked(broken, tasks["a"], secrets["a"])


def test_a_reply_in_the_clear_is_refused_where_masks_are_expected(tmp_path: Path) -> None:
    replies, tasks, _ = replies_and_tasks(tmp_path)
    with pytest.raises(TrainingError, match="Expected masked weights"):
        SECURE.check(replies[0], tasks["a"])


def test_a_site_that_fails_ends_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise TrainingError("b is broken")

    hospitals = Hospitals.of(tmp_path, FedAvg(GROUPS), *SITES)
    hospitals.secure = SECURE
    monkeypatch.setattr(hospitals.trainers["b"], "fit", fails)
    with pytest.raises(TrainingError, match="b is broken"):
        hospitals.federation(RoundsPlan(1)).run(tiny_model().state_dict(), tmp_path / "rounds", lambda record: None)


def test_the_secret_stays_with_its_owner_and_outlives_the_process(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path, FedAvg(GROUPS), *SITES)
    hospitals.secure = SECURE
    keys = {reply.site: reply.key for reply in hospitals.replies(hospitals.start(), "count")}
    assert keys == {reply.site: reply.key for reply in hospitals.replies(hospitals.start(), "count")}
    for site in keys:
        path = tmp_path / site / "secret.key"
        assert public_key(path.read_bytes()) == keys[site]
        if os.name == "posix":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(set(keys.values())) == len(SITES)


def test_resumed_rounds_repeat(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", "fedavg", SECURE)
    hospitals = Hospitals.of(tmp_path / "cut", FedAvg(GROUPS), *SITES)
    hospitals.secure = SECURE
    for rounds in (1, 3):
        server = hospitals.federation(RoundsPlan(rounds, validate_every=9)).run(
            tiny_model().state_dict(), tmp_path / "cut" / "rounds", lambda record: None
        )
    assert fingerprint(server.state) == fingerprint(whole)


def test_keys_and_members_cross_a_wire(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    task = task_of(task_payload(tasks["a"]))
    assert {n: (m.key, m.trunk, m.taken) for n, m in task.cohort.items()} == {
        n: (m.key, m.trunk, m.taken) for n, m in tasks["a"].cohort.items()
    }
    masked = SECURE.masked(replies[0], task, secrets["a"])
    assert fingerprint(reply_of(reply_payload(masked)).state) == fingerprint(
        SECURE.masked(replies[0], tasks["a"], secrets["a"]).state
    )


def test_it_is_asked_for_in_a_study_and_refused_where_a_sum_is_not_enough() -> None:
    assert FederationSpec(secure_sum=True).secure_sum
    for name in OTHERS:
        with pytest.raises(ValidationError, match=f"expected no strategy '{name}' with secure_sum"):
            FederationSpec.model_validate({"strategy": name, "secure_sum": True})
    for other in (
        {"topology": "gossip"},
        {"compression": "int8"},
        {"quorum": 0.5},
        {"normalization": "recalibrated"},
    ):
        with pytest.raises(ValidationError, match="with secure_sum"):
            FederationSpec.model_validate({"secure_sum": True, **other})


@pytest.mark.parametrize("options", [{"participation": 0.5}, {"presence": {"a": {"last": 3}}}])
def test_a_round_of_one_site_is_refused_before_anything_is_trained(options: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="two sites or more"):
        check_federations(study_of(options), ["a", "b"])
    check_federations(study_of({"presence": {"a": {"first": 1}}}), ["a", "b"])


def test_sums_of_masks_of_one_hospital_are_refused() -> None:
    with pytest.raises(StudyError, match="no neck 'conta'"):
        check_federations(study_of({}, model={"neck": "conta"}), ["a", "b"])


def study_of(options: dict[str, Any], **more: Any) -> Study:
    sites = {n: {"database": "folder", "root": "."} for n in "ab"}
    facts = {"name": "s", "findings": ["Mass"], "sites": sites, "arms": ["federated"]}
    return parse_study({**facts, "federation": {"secure_sum": True, **options}, **more}, "test")


@pytest.mark.parametrize("kind", ["Train", "recalibrate", "describe", "hand out"])
def test_a_task_that_the_study_has_not_gets_no_weights(tmp_path: Path, kind: str) -> None:
    hospitals = Hospitals.of(tmp_path, FedAvg(GROUPS), *SITES)
    hospitals.secure = SECURE
    with pytest.raises(TrainingError, match="Expected a task among count, train, validate"):
        hospitals.replies(hospitals.start(), kind)


def test_a_sum_in_which_one_site_weighs_in_is_refused_at_the_site_and_at_the_server(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    alone = {n: replace(m, trunk=float(n == "a")) for n, m in tasks["a"].cohort.items()}
    row = {n: replace(m, rows=m.rows * [1, n == "a"]) for n, m in tasks["a"].cohort.items()}
    for cohort in (alone, row):
        with pytest.raises(TrainingError, match="one alone, whose update the sum would be"):
            SECURE.masked(replies[0], replace(tasks["a"], cohort=cohort), secrets["a"])
    one_class = [fake_site("a"), fake_site("b", seed=1), fake_site("c", seed=2)]
    for site in one_class[1:]:
        site.targets[:] = 1
    hospitals = Hospitals.of(tmp_path / "contrast", FedAvg(GROUPS, weighting="contrast"), *one_class)
    hospitals.secure = replace(SECURE, keeps_rows=True)
    with pytest.raises(TrainingError, match=r"'a' alone|one alone"):
        hospitals.federation(RoundsPlan(1)).run(tiny_model().state_dict(), tmp_path / "rounds", lambda record: None)


def test_a_row_that_one_site_teaches_is_its_own_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "OWN_EVIDENCE", 1.0)
    sites = (fake_site("a"), fake_site("b", unknown=[1], seed=1), fake_site("c", unknown=[1], seed=2))
    hospitals = Hospitals.of(tmp_path / "shared", FedAvg(GROUPS), *sites)
    hospitals.secure = SECURE
    start = tiny_model().state_dict()
    with pytest.raises(TrainingError, match="finding 2 of the study in a secure sum; found 'a' alone"):
        hospitals.federation(RoundsPlan(1)).run(start, tmp_path / "shared" / "rounds", lambda record: None)
    hospitals = Hospitals.of(tmp_path / "own", FedAvg(GROUPS, head="site"), *sites)
    hospitals.secure = SecureSum(GROUPS, keeps_rows=True)
    server = hospitals.federation(RoundsPlan(1)).run(start, tmp_path / "own" / "rounds", lambda record: None)
    assert torch.equal(server.state["head.weight"][1], start["head.weight"][1])
    assert not torch.equal(server.state["head.weight"][0], start["head.weight"][0])
    assert not torch.equal(hospitals.kept("a")["head.weight"][1], start["head.weight"][1])


def test_a_key_that_two_sites_have_is_refused(tmp_path: Path) -> None:
    replies, tasks, secrets = replies_and_tasks(tmp_path)
    twice = {**tasks["b"].cohort, "c": replace(tasks["b"].cohort["c"], key=tasks["b"].cohort["a"].key)}
    with pytest.raises(TrainingError, match="found one twice"):
        SECURE.masked(replies[1], replace(tasks["b"], cohort=twice), secrets["b"])


def test_a_damaged_secret_is_one_clear_error(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path, FedAvg(GROUPS), *SITES)
    hospitals.secure = SECURE
    hospitals.start()
    (tmp_path / "b" / "secret.key").write_bytes(b"short")
    with pytest.raises(RunError, match="Expected 32 bytes"):
        hospitals.start()


def test_a_server_that_knows_no_masks_gets_no_update(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path, FedAvg(GROUPS), *SITES)
    hospitals.secure = SECURE
    runtime = InProcess(hospitals.workers)
    curious = Federation(
        hospitals.strategy,
        hospitals.federation(RoundsPlan(1)).topology,
        hospitals.workers[0].compression,
        runtime,
        RoundsPlan(1),
    )
    with pytest.raises(TrainingError, match="found none"):
        curious.run(tiny_model().state_dict(), tmp_path / "rounds", lambda record: None)
