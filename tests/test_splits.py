"""Splits keep patients together and never move; examples give every image its turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeSite, fake_site
from hilum.errors import DataError
from hilum.randomness import numpy_generator
from hilum.sites.examples import Examples
from hilum.sites.splits import SPLITS, split_patients

PATIENTS = st.lists(st.sampled_from([f"p{i}" for i in range(12)]), min_size=1, max_size=40)


@given(PATIENTS, st.integers(0, 5))
def test_a_patient_is_in_one_split(patients: list[str], seed: int) -> None:
    splits = split_patients(patients, seed, 0.3, 0.3)
    assert set(splits) <= set(SPLITS)
    assert len({(p, s) for p, s in zip(patients, splits, strict=True)}) == len(set(patients))


@given(PATIENTS, PATIENTS, st.integers(0, 5))
def test_new_patients_and_another_order_move_nobody(patients: list[str], more: list[str], seed: int) -> None:
    alone = dict(zip(patients, split_patients(patients, seed, 0.3, 0.3), strict=True))
    together = patients + more
    mixed = dict(zip(together[::-1], split_patients(together[::-1], seed, 0.3, 0.3), strict=True))
    assert all(mixed[p] == split for p, split in alone.items())


def test_fractions_are_met_and_the_seed_matters() -> None:
    patients = [str(i) for i in range(4000)]
    splits = split_patients(patients, 0, 0.1, 0.25)
    assert np.mean(splits == "val") == pytest.approx(0.1, abs=0.02)
    assert np.mean(splits == "test") == pytest.approx(0.25, abs=0.02)
    assert (splits != split_patients(patients, 1, 0.1, 0.25)).mean() > 0.3


def test_more_validation_takes_no_test_patient() -> None:
    patients = [str(i) for i in range(500)]
    small, large = split_patients(patients, 0, 0.0, 0.2), split_patients(patients, 0, 0.4, 0.2)
    assert np.array_equal(small == "test", large == "test")


def test_no_fractions_are_all_training() -> None:
    assert set(split_patients([str(i) for i in range(50)], 0, 0.0, 0.0)) == {"train"}


def test_an_official_split_rules_whole_patients_and_test_rules_val() -> None:
    patients = ["a", "a", "b", "b", "c", "c", "d"]
    official = ["train", "test", "val", "train", "test", "val", "train"]
    assert list(split_patients(patients, 0, 0.9, 0.05, official)) == ["test"] * 2 + ["val"] * 2 + ["test"] * 2 + [
        "train"
    ]


def test_patients_without_an_official_split_draw_as_if_there_were_none() -> None:
    patients = [str(i) for i in range(200)]
    official = ["test" if i < 50 else float("nan") for i in range(200)]
    drawn, ruled = split_patients(patients, 3, 0.2, 0.2), split_patients(patients, 3, 0.2, 0.2, official)
    assert np.array_equal(ruled[50:], drawn[50:])
    assert set(ruled[:50]) == {"test"}


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (1.0, 0.0)])
def test_impossible_fractions_are_refused(val: float, test: float) -> None:
    with pytest.raises(DataError, match="val \\+ test < 1"):
        split_patients(["a"], 0, val, test)


def examples(*sites: FakeSite) -> Examples:
    return Examples.of(sites, "train")  # type: ignore[arg-type]


def numbered(name: str, count: int) -> FakeSite:
    """A site whose image k is k everywhere."""
    stored = np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    return FakeSite(name, stored, np.full((count, 1), np.nan, np.float32), np.full(count, "train"))


def drawn(sites: Examples, updates: int, size: int, tau: float, seed: int = 0) -> list[tuple[int, int]]:
    batches = list(sites.draw(updates * size, size, tau, numpy_generator(seed)))
    assert [len(b.images) for b in batches] == [size] * updates
    pairs = [(int(s), round(float(i[0, 0, 0]) * 255)) for b in batches for s, i in zip(b.source, b.images, strict=True)]
    return pairs


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6), st.integers(0, 3))
def test_a_site_shows_each_image_once_before_any_again(count: int, updates: int, size: int, seed: int) -> None:
    order = [image for _, image in drawn(examples(numbered("a", count)), updates, size, 0.5, seed)]
    for start in range(0, len(order), count):
        part = order[start : start + count]
        assert len(set(part)) == len(part)


def test_sources_are_drawn_by_size_to_the_tau() -> None:
    sites = examples(numbered("small", 10), numbered("large", 160))
    for tau, share in ((0.0, 1 / 2), (0.5, 1 / 5), (1.0, 1 / 17)):
        pairs = drawn(sites, 100, 40, tau)
        assert np.mean([source == 0 for source, _ in pairs]) == pytest.approx(share, abs=0.03)
        turns = np.bincount([image for source, image in pairs if source == 1], minlength=160)
        assert turns.max() - turns.min() <= 1


def test_the_same_generator_gives_the_same_batches_and_another_does_not() -> None:
    sites = examples(numbered("a", 30), numbered("b", 20))
    assert drawn(sites, 4, 8, 0.5) == drawn(sites, 4, 8, 0.5) != drawn(sites, 4, 8, 0.5, seed=1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 10)))
def test_chunks_show_each_image_at_most_once_and_all_without_a_limit(
    a: int, b: int, size: int, limit: int | None
) -> None:
    sites = examples(numbered("a", a), numbered("b", b))
    seen: list[tuple[int, int]] = []
    for batch in sites.chunks(size, limit):
        assert len(batch.images) <= size
        assert len(set(batch.source.tolist())) == 1
        seen += [(int(s), round(float(i[0, 0, 0]) * 255)) for s, i in zip(batch.source, batch.images, strict=True)]
    kept = [min(n, limit or n) for n in (a, b)]
    assert len(set(seen)) == len(seen) == sum(kept)
    assert seen == sorted(seen)
    mixed = [batch for _ in range(2) for batch in sites.mixed(size, limit)]
    pairs = [(int(s), round(float(i[0, 0, 0]) * 255)) for b in mixed for s, i in zip(b.source, b.images, strict=True)]
    assert pairs[: len(seen)] == pairs[len(seen) :]
    assert sorted(pairs[: len(seen)]) == seen


def test_a_batch_holds_the_pixels_and_the_targets_of_its_rows() -> None:
    site = fake_site("a", train=3, val=2, findings=3, unknown=[1])
    other = fake_site("b", train=2, val=0, findings=3, seed=1)
    sites = examples(site, other)
    batch = sites.batch(np.array([1, 0, 1]), np.array([1, 2, 0]))
    assert batch.images.shape == (3, 1, 16, 16)
    assert batch.images.dtype == torch.float32
    expected = np.stack([other.stored[1], site.stored[2], other.stored[0]]) / np.float32(255)
    np.testing.assert_allclose(batch.images[:, 0].numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(batch.targets.numpy(), [other.targets[1], site.targets[2], other.targets[0]])
    assert batch.source.tolist() == [1, 0, 1]


def test_counts_ignore_unknown_labels_other_splits_and_empty_sites() -> None:
    site = fake_site("a", train=6, val=5, findings=3, unknown=[1])
    nobody = fake_site("b", train=0, val=3, findings=3)
    sites = examples(site, nobody)
    assert len(sites.sources) == 1
    assert len(sites) == 6
    np.testing.assert_array_equal(sites.known(), [[6, 0, 6]])
    np.testing.assert_array_equal(sites.positive(), [np.nansum(site.targets[:6], 0)])
