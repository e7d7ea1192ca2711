"""A hospital's own head rows, and which of them an image of unknown origin meets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fakes import Hospitals, fake_site, tiny_model
from hilum.errors import StudyError
from hilum.federation.aggregation import OWN_EVIDENCE, own_rows
from hilum.federation.messages import LabelCounts, ServerState
from hilum.federation.strategies.fedavg import HEADS_OF, FedAvg
from hilum.models.classifier import build_model
from hilum.models.pooling.top_k import TopKPooling
from hilum.models.shuffle import shuffle_weights
from hilum.models.site_heads import HOME, SHRINKAGE, FeatureMoments, SiteHeads, pack_heads
from hilum.models.taxonomy import Taxonomy
from hilum.training.loop import estimate_norm_stats
from hilum.training.state import State

GROUPS = tiny_model().state_groups()
HEAD = [name for name, group in GROUPS.items() if group == "head"]
MANY = 80


def cloud(mean: float, count: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = np.array([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    rows = rng.normal(size=(count, 3)) @ mixing + mean * np.array([1.0, -1.0, 0.5])
    return torch.from_numpy(rows).float()[:, :, None, None]


def test_moments_of_parts_make_the_discriminant_of_all_images() -> None:
    """Against scikit-learn on the images themselves, which no hospital sends."""
    clouds = [cloud(0.0, 120, 0), cloud(1.0, 80, 1), cloud(-0.5, 200, 2)]
    moments = {name: FeatureMoments.of(c.split(17)) for name, c in zip("abc", clouds, strict=True)}
    rows, who = torch.cat(clouds).flatten(1).double().numpy(), np.repeat([0, 1, 2], [120, 80, 200])
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None, priors=[1 / 3] * 3)
    within = sum(np.cov(rows[who == k].T, bias=True) * (who == k).sum() for k in range(3)) / len(rows)
    shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / 3 * np.eye(3)
    oracle.fit(rows, who)
    oracle.coef_ = np.linalg.solve(shrunk, oracle.means_.T).T
    oracle.intercept_ = -0.5 * (oracle.coef_ * oracle.means_).sum(1)
    heads = SiteHeads(pack_heads(moments, dict.fromkeys("abc", torch.tensor([True])), {name: {} for name in "abc"}))
    shares = heads.log_shares(torch.cat(clouds)).exp()[:, :, 0].numpy()
    np.testing.assert_allclose(shares, oracle.predict_proba(rows), atol=1e-4)


def heads_of(
    own: dict[str, list[bool]], home: str | None = None
) -> tuple[SiteHeads, dict[str, dict[str, torch.Tensor]]]:
    """Two hospitals far apart, two findings; the tensors of each head."""
    rng = torch.Generator().manual_seed(0)
    rows = {
        name: {
            "head.weight": torch.randn(2, 3, 1, 1, generator=rng),
            "head.bias": torch.randn(2, generator=rng),
        }
        for name in own
    }
    moments = {name: FeatureMoments.of([cloud(mean, 300, 0)]) for name, mean in zip(own, (0.0, 6.0), strict=True)}
    return SiteHeads(pack_heads(moments, {n: torch.tensor(o) for n, o in own.items()}, rows), home), rows


def test_an_image_meets_the_rows_of_the_hospital_that_it_looks_like() -> None:
    heads, rows = heads_of({"near": [True, True], "far": [True, True]})
    head, pooling = torch.nn.Conv2d(3, 2, 1), TopKPooling(3, 2, 0.5)
    for name, mean in (("near", 0.0), ("far", 6.0)):
        features = cloud(mean, 5, 7).expand(-1, -1, 4, 4)
        logits, maps = heads(features, head, pooling)
        cells = torch.nn.functional.conv2d(features, rows[name]["head.weight"], rows[name]["head.bias"])
        expected, heat = pooling(cells, features)
        torch.testing.assert_close(logits.sigmoid(), expected.sigmoid(), atol=1e-3, rtol=0)
        torch.testing.assert_close(maps, heat, atol=1e-3, rtol=0)


def test_of_shuffled_weights_no_hospital_speaks() -> None:
    models = [build_model({"name": "residual", "widths": (4, 4, 3)}, {"name": "mean"}, 2, 0).eval() for _ in range(2)]
    models[0].site_heads = heads_of({"near": [True, True], "far": [True, True]})[0]
    for model in models:
        shuffle_weights(model, 0)
    with_heads, without = (model(torch.ones(1, 1, 32, 32)).logits for model in models)
    assert torch.equal(with_heads, without)


def test_under_a_taxonomy_it_is_the_mixture_of_what_the_hospitals_say_of_each_finding() -> None:
    """Of images and of cells; where other hospitals speak of the child, it stays below its parent."""
    taxonomy = Taxonomy(["Nodule", "Nodule/Mass"])
    for own in ([True, True], [False, True]):
        heads, rows = heads_of({"far": [True, True], "near": own})
        head, pooling = torch.nn.Conv2d(3, 2, 1), TopKPooling(3, 2, 0.5)
        features = torch.cat([cloud(mean, 4, 7) for mean in (2.0, 3.0, 4.0)]).expand(-1, -1, 4, 4)
        logits, maps = heads(features, head, pooling, taxonomy)
        answer, joint = taxonomy.unconditional(logits).sigmoid(), taxonomy.joint(maps)
        told, heat = [], []
        for name in sorted(rows):
            cells = torch.nn.functional.conv2d(features, *(rows[name][f"head.{n}"] for n in ("weight", "bias")))
            one, cell = pooling(cells, features)
            told.append(taxonomy.unconditional(one).sigmoid())
            heat.append(taxonomy.joint(cell))
        shares = heads.log_shares(features).exp()
        expected = (shares * torch.stack(told, 1)).sum(1)
        assert bool((answer[:, 0] <= answer[:, 1]).all())
        columns = slice(0 if own[0] else 1, 2)
        torch.testing.assert_close(answer[:, columns], expected[:, columns])
        everywhere = (shares[..., None, None] * torch.stack(heat, 1)).sum(1)
        torch.testing.assert_close(joint[:, columns], everywhere[:, columns])


def test_a_row_that_stands_alone_is_not_cut_at_any_logit() -> None:
    heads, rows = heads_of({"near": [True, True], "far": [True, True]}, home="near")
    features, pooling = 1e3 * cloud(0.0, 5, 7).expand(-1, -1, 4, 4), TopKPooling(3, 2, 0.5)
    logits, _ = heads(features, torch.nn.Conv2d(3, 2, 1), pooling)
    cells = torch.nn.functional.conv2d(features, rows["near"]["head.weight"], rows["near"]["head.bias"])
    assert logits.abs().max() > 1000
    torch.testing.assert_close(logits, pooling(cells, features)[0])


def test_only_hospitals_with_a_row_of_their_own_speak_of_a_finding() -> None:
    heads, _ = heads_of({"near": [True, True], "far": [True, False]})
    shares = heads.log_shares(cloud(6.0, 9, 3)).exp()  # sites in the order of their names: far, near
    torch.testing.assert_close(shares.sum(1), torch.ones(9, 2))
    assert (shares[:, 0, 0] > 0.9).all()
    assert (shares[:, 1, 1] == 1).all()


def test_at_home_the_own_rows_stand_alone_and_the_others_speak_of_the_rest() -> None:
    heads, _ = heads_of({"near": [True, True], "far": [True, False]}, home="far")
    shares = heads.log_shares(cloud(0.0, 9, 3)).exp()
    assert (shares[:, 0, 0] == 1).all()
    assert (shares[:, 1, 1] == 1).all()


def test_at_a_home_that_had_left_its_own_rows_stand_alone_and_the_others_speak_of_the_rest() -> None:
    heads, _ = heads_of({"near": [True, True], "far": [True, True]})
    tensors = {
        f"{site}/{name}": t
        for site, parts in zip(("far", "near"), heads.rows, strict=True)
        for name, t in parts.items()
    }
    own = {"head.weight": torch.ones(2, 3, 1, 1), "head.bias": torch.zeros(2)}
    left = SiteHeads(tensors, "gone", {"own": torch.tensor([True, False]), **own, "backbone": torch.zeros(1)})
    features = cloud(0.0, 4, 3).expand(-1, -1, 4, 4)
    head, pooling = torch.nn.Conv2d(3, 2, 1), TopKPooling(3, 2, 0.5)
    at_home = pooling(torch.nn.functional.conv2d(features, own["head.weight"], own["head.bias"]), features)[0]
    torch.testing.assert_close(left(features, head, pooling)[0][:, 0].sigmoid(), at_home[:, 0].sigmoid())
    torch.testing.assert_close(left(features, head, pooling)[0][:, 1], heads(features, head, pooling)[0][:, 1])


def test_within_the_head_of_a_hospital_a_cell_sees_itself_alone() -> None:
    heads, _ = heads_of({"near": [True, True], "far": [True, True]}, home="near")
    features = cloud(0.0, 2, 5).expand(-1, -1, 4, 4).clone()
    before = heads(features, torch.nn.Conv2d(3, 2, 1), TopKPooling(3, 2, 0.5))[1]
    features[:, :, 0, 0] += 5
    after = heads(features, torch.nn.Conv2d(3, 2, 1), TopKPooling(3, 2, 0.5))[1]
    moved = (after != before).any(1)
    assert moved[:, 0, 0].all()
    assert moved.sum() == 2


def test_a_row_of_ones_own_takes_both_classes() -> None:
    counts = LabelCounts(100, np.array([100, 100, 0, 20]), np.array([99, 40, 0, 10]))
    assert own_rows(counts).tolist() == [False, True, False, True]
    assert OWN_EVIDENCE == 5.0


def test_images_of_a_hospital_all_meet_the_rows_that_it_looks_like() -> None:
    heads, _ = heads_of({"near": [True, True], "far": [True, True]})
    heads.settle(cloud(0.0, 300, 1).mean((0, 2, 3)))
    shares = heads.log_shares(cloud(6.0, 9, 3)).exp()  # far, near
    assert (shares[:, 1] > 0.9).all()
    assert bool((shares == shares[:1]).all())


def test_at_a_hospital_that_labels_less_those_speak_whose_films_are_like_its_own(tmp_path: Path) -> None:
    """By the shared statistics: its own take out of the features that its films are as dark as a's."""
    sites = [fake_site(name, train=MANY, seed=k) for k, name in enumerate("abc")]
    for site, bright in zip(sites, (0, 150, 0), strict=True):
        site.stored[:] = site.stored // 3 + bright
    sites[2].targets[:, 0] = np.nan
    federation = Hospitals.of(tmp_path, FedAvg(GROUPS, head="site", normalization="site"), *sites, updates=3)
    server = run(federation)
    kept, trainer = federation.kept("c"), federation.trainers["c"]
    expected = torch.from_numpy(trainer.feature_moments(server.state).mean).float()
    torch.testing.assert_close(kept[HOME], expected)
    model = tiny_model()
    model.load_state_dict(server.state | federation.strategy.own_of_model(server.state, kept, server.counts["c"]))
    heads = SiteHeads(heads_in(server), "c")
    rows = sites[2].indices("train")
    images = torch.from_numpy(sites[2].stored[rows]).unsqueeze(1).float() / 255
    estimate_norm_stats(model, [images])  # what those of the hospital become in many rounds
    with torch.no_grad():
        features = model.features(images)
    assert float(heads.log_shares(features).exp()[:, 0, 0].mean()) < 0.9
    heads.settle(kept[HOME])
    shares = heads.log_shares(features).exp()[:, :, 0]
    assert bool((shares[:, 0] > 0.99).all())
    assert bool((shares[:, 2] == 0).all())


def hospitals(folder: Path, *sizes: int, normalization: str = "averaged") -> Hospitals:
    sites = [fake_site("abc"[k], train=size, seed=k) for k, size in enumerate(sizes)]
    sites[-1].targets[:, 1] = 1.0  # the last hospital has one class of the second finding
    return Hospitals.of(folder, FedAvg(GROUPS, head="site", normalization=normalization), *sites, updates=3)


def run(federation: Hospitals, rounds: int = 2) -> ServerState:
    return federation.closed(federation.rounds(rounds)[0])


def heads_in(server: ServerState) -> State:
    """What ``SiteHeads`` is made of."""
    return {name.removeprefix(HEADS_OF): t for name, t in server.extra.items() if name.startswith(HEADS_OF)}


def test_a_site_goes_on_from_its_own_rows_and_from_the_shared_ones_where_it_has_one_class(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, MANY, MANY)
    server, _ = federation.rounds(1)
    kept = federation.kept("b")
    start = federation.strategy.model_at_site(server.state, kept, server.counts["b"])
    assert set(kept) == set(HEAD)
    assert torch.equal(start["head.weight"][0], kept["head.weight"][0])
    assert not torch.equal(start["head.weight"][0], server.state["head.weight"][0])
    assert torch.equal(start["head.weight"][1], server.state["head.weight"][1])
    others = [name for name in start if name not in HEAD]
    assert all(torch.equal(start[name], server.state[name]) for name in others)


def test_the_final_heads_of_the_sites_go_into_the_model_for_hospitals_it_never_saw(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, MANY, MANY)
    server = run(federation)
    heads = heads_in(server)
    assert [heads[f"{name}/own"].tolist() for name in "ab"] == [[True, True], [True, False]]
    for name in ("a", "b"):
        assert torch.equal(heads[f"{name}/head.weight"], federation.kept(name)["head.weight"])
    assert torch.equal(federation.kept("b")["head.weight"][1], server.state["head.weight"][1])
    model = tiny_model()
    model.load_state_dict(server.state)
    model.site_heads = SiteHeads(heads)
    prediction = model.eval()(torch.rand(2, 1, 16, 16))
    assert prediction.logits.isfinite().all()
    assert prediction.maps.min() >= 0
    assert prediction.maps.max() <= 1


def test_the_order_of_the_sites_changes_no_bit(tmp_path: Path) -> None:
    found = []
    for turned in (False, True):
        federation = hospitals(tmp_path / str(turned), MANY, MANY)
        if turned:
            federation.trainers = dict(reversed(federation.trainers.items()))
        server = run(federation)
        found.append(server.state | server.extra)
    one, other = found
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_moments_follow_the_final_statistics(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, MANY, MANY, normalization="recalibrated")
    assert federation.strategy.closing(2) == ("recalibrate", "describe")
    server = run(federation)
    heads, trainers = heads_in(server), federation.trainers
    expected = {name: trainer.feature_moments(server.state) for name, trainer in trainers.items()}
    rows = {name: {part: heads[f"{name}/{part}"] for part in HEAD} for name in "ab"}
    packed = pack_heads(expected, {name: heads[f"{name}/own"] for name in "ab"}, rows)
    assert heads.keys() == packed.keys()
    assert all(torch.equal(heads[name], packed[name]) for name in heads)


def test_a_site_without_a_row_of_its_own_tells_nothing_of_its_features(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, MANY, 16)
    server = run(federation)
    replies = federation.replies(server, "describe")
    assert [reply.moments is not None for reply in replies] == [True, False]
    assert {name.partition("/")[0] for name in heads_in(server)} == {"a"}


def test_one_site_needs_no_gate(tmp_path: Path) -> None:
    assert run(hospitals(tmp_path, MANY)).extra == {}


def test_other_heads_are_refused() -> None:
    with pytest.raises(StudyError, match=r"federation\.head among shared, site; found 'own'"):
        FedAvg(GROUPS, head="own")
