"""Names resolve on use, unknown names say what is near, and generators depend on their keys alone."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hilum.databases import DATABASES
from hilum.errors import HilumError, UnknownName
from hilum.evaluation import METRICS
from hilum.federation.strategies import STRATEGIES
from hilum.localization.localizers import LOCALIZERS
from hilum.models import BACKBONES, INITIALIZATIONS, NECKS, POOLINGS
from hilum.randomness import derive_seed, numpy_generator, torch_generator
from hilum.registry import Registry
from hilum.sites.partitioners import PARTITIONERS
from hilum.training.cell_losses import CELL_LOSSES
from hilum.training.losses import LOSSES

REGISTRIES = [
    DATABASES,
    PARTITIONERS,
    METRICS,
    STRATEGIES,
    BACKBONES,
    NECKS,
    POOLINGS,
    INITIALIZATIONS,
    LOCALIZERS,
    LOSSES,
    CELL_LOSSES,
]
ENTRIES = [pytest.param(registry, name, id=f"{registry.kind}-{name}") for registry in REGISTRIES for name in registry]
SMALL = Registry("shape", {"square": "math:sqrt", "circle": "hilum.nowhere:Circle"})


@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_every_entry_loads_and_has_a_sentence_of_its_own_docstring(registry: Registry, name: str) -> None:
    loaded = registry.load(name)
    assert loaded.__module__ == registry[name].partition(":")[0]
    own = loaded.__doc__ or importlib.import_module(loaded.__module__).__doc__
    assert registry.summary(name) == own.strip().splitlines()[0]


def test_listing_resolves_nothing() -> None:
    assert list(SMALL) == ["square", "circle"]
    assert len(SMALL) == 2
    assert SMALL["circle"] == "hilum.nowhere:Circle"
    with pytest.raises(ModuleNotFoundError):
        SMALL.load("circle")


def test_a_later_change_of_the_table_does_not_reach_the_registry() -> None:
    table = {"a": "math:sqrt"}
    registry = Registry("letter", table)
    table["b"] = "math:cos"
    assert list(registry) == ["a"]


def test_an_unknown_name_lists_what_is_known_and_the_nearest() -> None:
    with pytest.raises(UnknownName, match=re.escape("Expected a shape among circle, square; found 'sqare'.")) as caught:
        SMALL.load("sqare")
    assert str(caught.value).endswith("Did you mean 'square'?")
    assert isinstance(caught.value, HilumError)
    assert "zzz" not in SMALL
    with pytest.raises(UnknownName) as far:
        SMALL["zzz"]
    assert "Did you mean" not in str(far.value)


KEYS = st.lists(st.one_of(st.integers(), st.text(alphabet="ab01", max_size=3)), min_size=1, max_size=4)


@given(KEYS, KEYS)
def test_seeds_differ_exactly_when_the_keys_do(a: list[int | str], b: list[int | str]) -> None:
    same = [str(k) for k in a] == [str(k) for k in b]
    assert (derive_seed(*a) == derive_seed(*b)) == same
    assert 0 <= derive_seed(*a) < 2**63


def test_seeds_stay_what_they_were_when_runs_were_made() -> None:
    assert derive_seed(0, 1, "north", "batches") == 5510308331238291252


def test_generators_repeat_and_leave_the_global_state_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert numpy_generator(1, "a").random() == numpy_generator(1, "a").random() != numpy_generator(2, "a").random()
    a, b, c = (torch.rand(3, generator=torch_generator(*keys)) for keys in ((1, "a"), (1, "a"), (1, "b")))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize(
    ("registry", "name", "options"),
    [
        (NECKS, "conta", {"weight": 1, "iterations": 2}),
        (NECKS, "triple_attention", {"channel": False}),
        (PARTITIONERS, "dirichlet", {"seed": None}),
        (BACKBONES, "residual", {"widths": [1, 2, 3], "dilation": 2}),
    ],
)
def test_values_of_the_kind_that_an_option_has_are_accepted(
    registry: Registry, name: str, options: dict[str, object]
) -> None:
    registry.check(name, options)


@pytest.mark.parametrize("value", ["3", 3.0, True, None, [3]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a whole number for the option 'blocks'; found "):
        BACKBONES.check("efficientnet_lite0", {"blocks": value})
    with pytest.raises(ValueError, match=r"^expected true or false for the option 'pretrained'; found "):
        BACKBONES.check("efficientnet_lite0", {"pretrained": "no" if value is True else value})
