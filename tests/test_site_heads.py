"""A hospital's own head rows, and which of them an image of unknown origin meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fakes import fake_site, fake_trainer, tiny_model
from hilum.errors import StudyError
from hilum.federation.aggregation import OWN_EVIDENCE, own_rows
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies.fedavg import FedAvg
from hilum.models.pooling.top_k import TopKPooling
from hilum.models.site_heads import LEAST_IMAGES, SHRINKAGE, FeatureMoments, SiteHeads, gate_of
from hilum.training.state import State, copy_state

PRIOR = np.array([0.5, 0.5])
GROUPS = tiny_model().state_groups()
HEAD = [name for name, group in GROUPS.items() if group == "head"]
MANY = 4 * LEAST_IMAGES


def cloud(mean: float, count: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = np.array([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    rows = rng.normal(size=(count, 3)) @ mixing + mean * np.array([1.0, -1.0, 0.5])
    return torch.from_numpy(rows).float()[:, :, None, None]


def test_moments_of_parts_make_the_discriminant_of_all_images() -> None:
    """Against scikit-learn on the images themselves, which no hospital sends."""
    clouds = [cloud(0.0, 120, 0), cloud(1.0, 80, 1), cloud(-0.5, 200, 2)]
    gate = gate_of([FeatureMoments.of(c.split(17)) for c in clouds])
    rows, who = torch.cat(clouds).flatten(1).double().numpy(), np.repeat([0, 1, 2], [120, 80, 200])
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None, priors=[1 / 3] * 3)
    within = sum(np.cov(rows[who == k].T, bias=True) * (who == k).sum() for k in range(3)) / len(rows)
    shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / 3 * np.eye(3)
    oracle.fit(rows, who)
    oracle.coef_ = np.linalg.solve(shrunk, oracle.means_.T).T
    oracle.intercept_ = -0.5 * (oracle.coef_ * oracle.means_).sum(1)
    heads = SiteHeads(gate | {"own": torch.ones(3, 1)})
    shares = heads.shares(torch.cat(clouds))[:, :, 0].numpy()
    np.testing.assert_allclose(shares, oracle.predict_proba(rows), atol=1e-4)


def heads_of(own: list[list[float]]) -> tuple[SiteHeads, torch.nn.Conv2d]:
    clouds = [cloud(0.0, 300, 0), cloud(6.0, 300, 1)]
    rng = torch.Generator().manual_seed(0)
    rows = {
        "rows.head.weight": torch.randn(2, 2, 3, 1, 1, generator=rng),
        "rows.head.bias": torch.randn(2, 2, generator=rng),
    }
    gate = gate_of([FeatureMoments.of([c]) for c in clouds])
    return SiteHeads(gate | {"own": torch.tensor(own)} | rows), torch.nn.Conv2d(3, 2, 1)


def test_an_image_meets_the_rows_of_the_hospital_that_it_looks_like() -> None:
    heads, head = heads_of([[1.0, 1.0], [1.0, 1.0]])
    pooling = TopKPooling(3, 2, 0.5)
    for k, mean in enumerate((0.0, 6.0)):
        features = cloud(mean, 5, 7 + k).expand(-1, -1, 4, 4)
        logits, maps = heads(features, head, pooling)
        weight, bias = heads.tensors["rows.head.weight"][k], heads.tensors["rows.head.bias"][k]
        cells = torch.nn.functional.conv2d(features, weight, bias)
        expected, heat = pooling(cells, features)
        torch.testing.assert_close(logits.sigmoid(), expected.sigmoid(), atol=1e-3, rtol=0)
        torch.testing.assert_close(maps, heat, atol=1e-3, rtol=0)


def test_only_hospitals_with_a_row_of_their_own_speak_of_a_finding() -> None:
    heads, _ = heads_of([[1.0, 1.0], [1.0, 0.0]])
    shares = heads.shares(cloud(6.0, 9, 3))
    torch.testing.assert_close(shares.sum(1), torch.ones(9, 2))
    assert (shares[:, 1, 0] > 0.9).all()
    assert (shares[:, 0, 1] == 1).all()


def test_a_row_of_ones_own_takes_both_classes() -> None:
    counts = LabelCounts(100, np.array([100, 100, 0, 20]), np.array([99, 40, 0, 10]))
    assert own_rows(counts).tolist() == [False, True, False, True]
    assert OWN_EVIDENCE == 5.0


def federation(*sizes: int) -> InProcess:
    sites = [fake_site("abc"[k], train=size, seed=k) for k, size in enumerate(sizes)]
    sites[-1].targets[:, 1] = 1.0  # the last hospital has one class of the second finding
    return InProcess(FedAvg(GROUPS, head="site"), [fake_trainer(site, updates=3) for site in sites])


def exchange(runtime: InProcess, server: ServerState, kind: str) -> list[Reply]:
    task = Task(kind, server.round + (kind == "train"), server.state, PRIOR)
    return runtime.exchange({name: task for name in runtime.sites()})


def run(runtime: InProcess, rounds: int = 2) -> ServerState:
    server = ServerState(0, copy_state(tiny_model()))
    for _ in range(rounds):
        server = runtime.strategy.at_server(server, exchange(runtime, server, "train"))
    return runtime.strategy.finish_at_server(server, exchange(runtime, server, "finish"))


def test_a_site_goes_on_from_its_own_rows_and_from_the_shared_ones_where_it_has_one_class() -> None:
    runtime = federation(MANY, MANY)
    server = ServerState(0, copy_state(tiny_model()))
    server = runtime.strategy.at_server(server, exchange(runtime, server, "train"))
    trainer = runtime.trainers["b"]
    start = runtime.strategy.model_at_site(server.state, runtime.site_states["b"], trainer)
    kept = runtime.site_states["b"]
    assert set(kept) == set(HEAD)
    assert torch.equal(start["head.weight"][0], kept["head.weight"][0])
    assert not torch.equal(start["head.weight"][0], server.state["head.weight"][0])
    assert torch.equal(start["head.weight"][1], server.state["head.weight"][1])
    others = [name for name in start if name not in HEAD]
    assert all(torch.equal(start[name], server.state[name]) for name in others)


def test_the_final_heads_of_the_sites_go_into_the_model_for_hospitals_it_never_saw() -> None:
    runtime = federation(MANY, MANY)
    server = run(runtime)
    assert server.extra["own"].tolist() == [[1.0, 1.0], [1.0, 0.0]]
    for k, name in enumerate(("a", "b")):
        assert torch.equal(server.extra["rows.head.weight"][k], runtime.site_states[name]["head.weight"])
    assert torch.equal(runtime.site_states["b"]["head.weight"][1], server.state["head.weight"][1])
    model = tiny_model()
    model.load_state_dict(server.state)
    model.site_heads = SiteHeads(server.extra)
    prediction = model.eval()(torch.rand(2, 1, 16, 16))
    assert prediction.logits.isfinite().all()
    assert prediction.maps.min() >= 0
    assert prediction.maps.max() <= 1


def test_the_order_of_the_sites_changes_no_bit() -> None:
    def flipped() -> InProcess:
        runtime = federation(MANY, MANY)
        runtime.trainers = dict(reversed(runtime.trainers.items()))
        return runtime

    def values(server: ServerState) -> State:
        return server.state | {f"extra.{name}": tensor for name, tensor in server.extra.items()}

    one, other = values(run(federation(MANY, MANY))), values(run(flipped()))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("sizes", [(MANY,), (MANY, LEAST_IMAGES - 1)])
def test_moments_of_few_images_never_leave_a_site_and_one_site_needs_no_gate(sizes: tuple[int, ...]) -> None:
    runtime = federation(*sizes)
    server = run(runtime)
    assert server.extra == {}
    replies = exchange(runtime, server, "finish")
    assert [reply.moments is not None for reply in replies] == [size >= LEAST_IMAGES for size in sizes]


def test_other_heads_are_refused() -> None:
    with pytest.raises(StudyError, match=r"federation\.head among shared, site; found 'own'"):
        FedAvg(GROUPS, head="own")
