"""A neck does nothing until it is trained, and each then does what its page says."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fakes import fake_site, fake_trainer
from hilum.models import NECKS
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.models.neck.base import Neck
from hilum.models.neck.cross_scale_graph import CrossScaleGraph, _places
from hilum.models.neck.triple_attention import ChannelAttention, ElementAttention, ScaleAttention, TripleAttention
from hilum.training.state import copy_state

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "none": [{}],
    "cross_scale_graph": [
        {},
        {"mirror": True},
        {"edges": "random", "mirror": True},
        {"edges": "uniform"},
        {"scales": "one", "neighbours": 2},
    ],
    "conta": [{"grid": 4, "width": 8}],
    "triple_attention": [{"reduction": 1}, {"scale": False, "reduction": 2}, {"channel": False, "element": False}],
}
needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="needs MONAI: pip install 'hilum[monai]'")
CASES = [
    pytest.param(name, options, id=f"{name}-{options}", marks=needs_monai if name == "conta" else ())
    for name, many in VARIANTS.items()
    for options in many
]
TRAINED = [case for case in CASES if case.values[0] != "none"]


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def build(name: str, options: dict[str, Any]) -> LocalizingClassifier:
    backbone = {"name": "residual", "widths": (4, 8, 8)}
    return build_model(backbone, {"name": "linear_softmax"}, 2, 0, {"name": name, **options})


def gates(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if is_gate(name)]


def is_gate(name: str) -> bool:
    return name.rpartition(".")[2] in ("gamma", "gate") or name.endswith("join.weight")


def test_every_registered_neck_is_tested() -> None:
    assert set(VARIANTS) == set(NECKS)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("size", [(48, 64), (56, 40), (8, 8)])
def test_before_training_logits_and_maps_are_those_without_it(
    name: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    images = torch.rand(3, 1, *size)
    plain, model = build("none", {}).eval()(images), build(name, options).eval()(images)
    assert torch.equal(plain.logits, model.logits)
    assert torch.equal(plain.maps, model.maps)


@pytest.mark.parametrize(("name", "options"), TRAINED)
def test_it_has_an_effect_once_its_gates_open_and_every_weight_learns(name: str, options: dict[str, Any]) -> None:
    model, images = build(name, options), torch.rand(2, 1, 48, 64)
    before = model(images).logits.detach()
    with torch.no_grad():
        for gate in gates(model):
            gate.fill_(0.5)
        for total in model.neck.sums:
            model.neck.get_buffer(total).uniform_(0.5, 1)
        model.head.weight.normal_()
    model(images).logits.sum().backward()
    assert not torch.allclose(model(images).logits, before)
    still = {n for n, p in model.neck.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    last_bias = {"edge.2.bias"}  # of a softmax, which does not change with it
    embedding = {"embed.weight", "embed.bias"} if options.get("edges") == "uniform" else set()
    segmentation = {n for n in still if n.startswith("network.")}  # learns from a loss of its own
    assert still - last_bias - segmentation == embedding


@pytest.mark.parametrize(("name", "options"), TRAINED)
def test_it_trains_and_its_tensors_are_averaged_with_the_trunk(name: str, options: dict[str, Any]) -> None:
    model = build(name, options)
    start = copy_state(model)
    groups = model.state_groups()
    assert set(groups) == {key for key, tensor in start.items() if tensor.is_floating_point()}
    sums = {f"neck.{name}" for name in model.neck.sums}
    kinds = {key: group for key, group in groups.items() if key.startswith("neck.") and group != "trunk"}
    statistics = {key for key in kinds if "running" in key or "conv_k1.adn.N" in key}
    assert {key for key, group in kinds.items() if group == "sums"} == sums == kinds.keys() - statistics
    fit = fake_trainer(fake_site("a", size=32), model=model, updates=3).fit(start, 1, np.array([0.5, 0.5]))
    moved = [key for key in start if is_gate(key)]
    assert moved
    assert all(not torch.equal(start[key], fit.state[key]) for key in moved)


def test_no_neck_has_no_weights_and_the_others_leave_the_seeds_weights_alone() -> None:
    plain = build("none", {}).state_dict()
    assert not [key for key in plain if key.startswith("neck")]
    for name, many in VARIANTS.items():
        if name == "conta" and find_spec("monai") is None:
            continue
        state = build(name, many[0]).state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in plain.items())


def test_what_a_hospital_tells_of_its_features_is_what_the_head_reads() -> None:
    model = build("cross_scale_graph", {})
    trainer = fake_trainer(fake_site("a", size=32), model=model)
    with torch.no_grad():
        gates(model)[0].fill_(5.0)
    state = copy_state(model)
    told = trainer.feature_moments(state)
    images = torch.cat([batch.images for batch in trainer.train_examples.chunks(99, None)])
    with torch.no_grad():
        read = model.eval().features(images).mean((0, 2, 3))
    torch.testing.assert_close(torch.from_numpy(told.mean).float(), read, rtol=1e-4, atol=1e-5)


def graph(channels: int = 16, **options: Any) -> CrossScaleGraph:
    neck = NECKS.load("cross_scale_graph")((channels,), 2, **options)
    neck.gamma.data.fill_(1.0)
    return neck


def asked(neck: CrossScaleGraph, fine: Tensor) -> Tensor:
    """Cells that every cell asks, (B, N, k)."""
    found: list[Tensor] = []
    whole = neck._index
    neck._index = lambda *given: found.append(whole(*given)) or found[-1]  # type: ignore[method-assign, func-returns-value]
    neck(fine)
    return found[0]


def test_a_texture_finds_its_own_copy_at_the_coarser_scale() -> None:
    """Card 6, smallest proof (i): recall of the coarse copy among the k neighbours is far above k / N."""
    fine = torch.randn(20, 16, 16, 16)
    small = torch.randn(20, 16, 3, 3)
    fine[:, :, :3, :3] = small
    fine[:, :, 8:14, 8:14] = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    index = asked(graph(), fine).view(20, 16, 16, 5)
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")
    copies = (4 + rows) * 8 + 4 + columns
    recall = (index[:, :3, :3] == copies[None, :, :, None]).any(3).float().mean()
    assert float(recall) > 0.9
    random = asked(graph(edges="random"), fine).view(20, 16, 16, 5)
    assert float((random[:, :3, :3] == copies[None, :, :, None]).any(3).float().mean()) < 0.3


def mosaics(count: int, recurs: bool, generator: torch.Generator) -> Tensor:
    """Films (N, 4, 16, 16): stones of 2 × 2 px above, of 1 px below; of five colours a film, or none comes twice."""
    palette = torch.rand(count, 4, 5, generator=generator)

    def stones(rows: int, columns: int) -> Tensor:
        if not recurs:
            return torch.rand(count, 4, rows, columns, generator=generator)
        which = torch.randint(5, (count, 1, rows * columns), generator=generator)
        return palette.gather(2, which.expand(-1, 4, -1)).unflatten(2, (rows, columns))

    large = stones(4, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return torch.cat([large, stones(8, 16)], 2)


def denoised(neck: nn.Module, width: int, recurs: bool, seed: int) -> tuple[int, float]:
    """Train a small network to take noise of sd 0.2 away; return its parameters and its PSNR (dB) on small stones.

    Not on large ones: they lie on the grid of the pooled map, which tells where they end whether they recur or not.
    """
    net = nn.Sequential(
        *(nn.Conv2d(4, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), neck, nn.ReLU()),
        *(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, 4, 3, 1, 1)),
    )
    generator, steps = torch.Generator().manual_seed(seed), 400
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)

    def errors(count: int) -> Tensor:
        clean = mosaics(count, recurs, generator)
        noisy = clean + 0.2 * torch.randn(clean.shape, generator=generator)
        return (noisy + net(noisy) - clean).square().mean((1, 3))

    for _ in range(steps):
        optimizer.zero_grad()
        errors(8).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return sum(p.numel() for p in net.parameters()), float(-10 * errors(200)[:, 8:].mean(1).log10().mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_texture_that_recurs_at_another_scale_is_denoised_better_with_the_graph(seed: int) -> None:
    """Card 6, smallest proof (ii): better than by a wider network without it; without recurrence nothing is gained."""
    gains = {}
    for recurs in (True, False):
        torch.manual_seed(seed)
        more, plain = denoised(nn.Identity(), 19, recurs, seed)
        torch.manual_seed(seed)
        fewer, found = denoised(CrossScaleGraph((16,), 2, width=16), 16, recurs, seed)
        assert fewer < more
        gains[recurs] = found - plain
    assert gains[True] > 0.5, gains
    assert gains[False] < 0.1, gains


def test_the_graph_is_its_formula() -> None:
    """Cell by cell, with loops, for the nearest neighbour and the mirrored cell."""
    neck, fine = graph(4, neighbours=1, width=3, mirror=True), torch.randn(1, 4, 2, 4)
    coarse = nn.functional.avg_pool2d(fine, 2)
    expected = fine.clone()

    def vector(m: Tensor, layer: nn.Module) -> Tensor:
        return layer(m).flatten(2)[0].T

    e_fine, e_coarse = (nn.functional.normalize(vector(m, neck.embed), dim=1) for m in (fine, coarse))
    v_fine, v_coarse = vector(fine, neck.value), vector(coarse, neck.value)
    for row in range(2):
        for column in range(4):
            query = e_fine[row * 4 + column]
            nearest = int((e_coarse - query).norm(dim=1).argmin())
            mirrored = row * 4 + 3 - column
            towards = [
                ((nearest + 0.5) / 2 - (column + 0.5) / 4, 0.5 - (row + 0.5) / 2, 1.0),
                ((3.5 - column) / 4 - (column + 0.5) / 4, 0.0, 0.0),
            ]
            others = torch.stack([e_coarse[nearest], e_fine[mirrored]])
            edges = neck.edge(torch.cat([(others - query).abs(), torch.tensor(towards)], 1)).softmax(0)
            message = (edges * torch.stack([v_coarse[nearest], v_fine[mirrored]])).sum(0)
            expected[0, :, row, column] += neck.out(message.view(1, -1, 1, 1)).flatten()
    torch.testing.assert_close(neck(fine), expected)


def test_a_coarse_cell_lies_where_its_fine_cells_lie_also_at_odd_sides() -> None:
    fine = torch.stack(torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in (5, 7)), indexing="ij"))[None]
    coarse = nn.functional.avg_pool2d(fine, 2, ceil_mode=True)
    expected = torch.stack([coarse[0, 1].flatten(), coarse[0, 0].flatten(), torch.ones(12)], 1)
    torch.testing.assert_close(_places(coarse, fine), expected)


def test_one_scale_asks_other_cells_of_the_same_map() -> None:
    fine = torch.randn(2, 16, 4, 4)
    index = asked(graph(scales="one"), fine)
    assert int(index.max()) < 16
    assert not bool((index == torch.arange(16)[None, :, None]).any())
    assert asked(graph(scales="one"), torch.randn(1, 16, 1, 1)).tolist() == [[[0]]]
    assert asked(graph(neighbours=9), torch.randn(1, 16, 4, 4)).shape == (1, 16, 4)


def test_the_mirrored_cell_is_in_the_other_lung() -> None:
    index = asked(graph(mirror=True), torch.randn(1, 16, 2, 4))
    assert (index[0, :, -1] - 2).view(2, 4).tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]


def test_random_neighbours_are_the_same_for_every_image() -> None:
    first, second = asked(graph(edges="random"), torch.randn(2, 16, 8, 8))
    assert torch.equal(first, second)
    assert len(first[0].unique()) == 5


def test_uniform_edges_weigh_neighbours_alike() -> None:
    neck, fine = graph(edges="uniform", neighbours=2), torch.randn(1, 16, 4, 4)
    index = asked(neck, fine)[0]
    values = neck.value(nn.functional.avg_pool2d(fine, 2)).flatten(2)[0].T
    message = values[index].mean(1).T.view(1, -1, 4, 4)
    torch.testing.assert_close(neck(fine), fine + neck.out(message))


def test_scale_attention_turns_to_the_scale_that_shows_the_lesion() -> None:
    """Card 21: small lesions show in the fine map alone, large ones in the coarse; labels say only whether."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[list[Tensor], Tensor, Tensor]:
        label = torch.arange(count) % 2
        small = torch.rand(count, generator=generator) < 0.5
        fine = 0.5 * torch.randn(count, 4, 8, 8, generator=generator)
        coarse = 0.5 * torch.randn(count, 4, 4, 4, generator=generator)
        # What tells the size is there in every image; what tells a lesion, in one map alone. The other map misleads.
        fine[:, 0] += torch.where(small, 3.0, -3.0)[:, None, None]
        shown = (2.0 * label - 1)[:, None, None]
        wrong = (2.0 * torch.randint(0, 2, (count,), generator=generator) - 1)[:, None, None]
        fine[:, 1] += torch.where(small[:, None, None], shown, wrong)
        coarse[:, 1] += torch.where(small[:, None, None], wrong, shown)
        return [fine, coarse], label.float(), small

    attention, head = ScaleAttention((4, 4)), nn.Linear(4, 1)
    attention.gate.data.fill_(1.0)

    def chosen(maps: list[Tensor]) -> Tensor:
        return (attention(*maps)[0] - maps[-1]).mean((2, 3))

    optimizer = torch.optim.Adam([*attention.parameters(), *head.parameters()], 3e-2)
    maps, label, _ = draw(256)
    for _ in range(100):
        loss = nn.functional.binary_cross_entropy_with_logits(head(chosen(maps))[:, 0], label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    maps, label, small = draw(256)
    _, alpha = attention(*maps)
    torch.testing.assert_close(alpha.sum(1), torch.ones(256))
    assert roc_auc_score(small.numpy(), alpha[:, 0].detach().numpy()) > 0.8


def test_channel_and_element_attention_are_their_formulas() -> None:
    z = torch.randn(2, 8, 3, 4)
    channel, element = ChannelAttention(8, 4), ElementAttention(8, 4)
    for module in (channel, element):
        module.gate.data.normal_()
    w1, w2 = channel.weigh[0], channel.weigh[2]
    weights = (
        torch.relu(z.mean((2, 3)) @ w1.weight.flatten(1).T + w1.bias) @ w2.weight.flatten(1).T + w2.bias
    ).sigmoid()
    out, given = channel(z)
    torch.testing.assert_close(given, weights)
    torch.testing.assert_close(out, z * (1 + channel.gate * weights[:, :, None, None]))
    out, mask = element(z)
    assert mask.shape == (2, 1, 3, 4)
    torch.testing.assert_close(out, z * (1 + element.gate * mask))


@pytest.mark.parametrize("gate", [0.0, 0.5])
def test_what_a_cell_sees_behind_triple_attention(gate: float) -> None:
    """Element attention sees its neighbours; channel and scale attention, as their page says, the whole image."""
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 8, 8)]
    others = [m.clone() for m in maps]
    for m in others:
        m[..., 0, 0] += 5.0

    def far(neck: Neck) -> float:
        for parameter in gates(neck):
            parameter.data.fill_(gate)
        with torch.no_grad():
            change = neck(*maps[-neck.maps :]) - neck(*others[-neck.maps :])
        return float(change.abs()[..., 2:, 2:].max())

    def attention(**on: bool) -> Neck:
        return TripleAttention((4, 8), 2, **({"channel": False, "element": False, "scale": False} | on))

    assert far(attention(element=True)) == 0
    assert (far(attention(channel=True)) > 0) == (gate > 0)
    assert (far(attention(scale=True)) > 0) == (gate > 0)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cross_scale_graph", {"neighbours": 0}, "expected neighbours of at least 1; found 0"),
        ("cross_scale_graph", {"width": 0}, "expected width of at least 1; found 0"),
        ("cross_scale_graph", {"edges": "none"}, "expected edges among learned, uniform, random; found 'none'"),
        ("cross_scale_graph", {"scales": 2}, "expected scales among two, one; found '2'"),
        ("triple_attention", {"channel": False, "element": False, "scale": False}, "expected at least one of channel"),
        ("triple_attention", {"reduction": 0}, "expected a reduction of at least 1; found 0"),
        ("triple_attention", {}, "expected a backbone of several maps for scale attention"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        NECKS.load(name)((8,), 2, **options)
