"""Partitioners: no patient in two parts, the same parts in any order of the rows, and the sizes that are promised."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hilum.databases.layout import image_table
from hilum.databases.manifest import Manifest
from hilum.errors import DataError, HilumError, StudyError, UnknownName
from hilum.sites.partitioners import PARTITIONERS
from hilum.sites.site import keep_images

FINDING = "Effusion"
OPTIONS: dict[str, dict[str, Any]] = {
    "natural_id": {"partition_by": "hospital"},
    "view": {},
    "iid": {"num_partitions": 4},
    "dirichlet": {"num_partitions": 4, "partition_by": FINDING, "alpha": 1.0, "min_partition_size": 5},
    "shard": {"num_partitions": 4, "partition_by": FINDING},
    "size": {"partition_sizes": [40, 20, 10]},
    "linear": {"num_partitions": 4},
    "square": {"num_partitions": 4},
    "exponential": {"num_partitions": 4},
}
DRAWN = [name for name in OPTIONS if name not in ("natural_id", "view")]


def database(patients: int = 200, positive: float = 0.5, unknown: float = 0.0, seed: int = 0) -> Manifest:
    """A database in which patients have one to three images, one hospital and several views."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 4, patients)
    who = np.repeat(np.arange(patients), images)
    classes = np.where(np.arange(patients) < round(positive * patients), 1.0, 0.0)
    classes[rng.permutation(patients)[: round(unknown * patients)]] = np.nan
    columns = {
        "image_id": [f"{k}.png" for k in range(len(who))],
        "path": [f"{k}.png" for k in range(len(who))],
        "patientid": [f"p{k}" for k in who],
        "view": rng.choice(["PA", "AP", "LATERAL"], len(who)),
        "hospital": np.array(list("ABC"))[who % 3],
    }
    labels = pd.DataFrame({FINDING: classes[who]})
    return Manifest("made_up", Path(), image_table(columns), labels)


def with_images(manifest: Manifest, **columns: list[object]) -> Manifest:
    return replace(manifest, images=manifest.images.assign(**columns))


def six_images(**columns: list[object]) -> Manifest:
    manifest = database(6)
    return with_images(keep_images(manifest, np.arange(6)), **columns)


def cut(name: str, manifest: Manifest, seed: int = 0, **options: Any) -> dict[str, np.ndarray]:
    parts: dict[str, np.ndarray] = PARTITIONERS.load(name)(**{**OPTIONS[name], **options}).partition(manifest, seed)
    return parts


def patients_of(manifest: Manifest, parts: dict[str, np.ndarray]) -> dict[str, set[str]]:
    return {name: set(manifest.images["patientid"].iloc[rows]) for name, rows in parts.items()}


def sizes(manifest: Manifest, parts: dict[str, np.ndarray]) -> list[int]:
    return [len(patients) for patients in patients_of(manifest, parts).values()]


def positives(manifest: Manifest, parts: dict[str, np.ndarray]) -> np.ndarray:
    """Share of positive patients of each part."""
    first = ~manifest.images["patientid"].duplicated().to_numpy()
    raw = manifest.labels[FINDING].to_numpy()
    return np.array([raw[rows[first[rows]]].mean() for rows in parts.values()])


def test_every_partitioner_is_tested() -> None:
    assert set(OPTIONS) == set(PARTITIONERS)


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_are_in_one_part_and_no_patient_in_two(name: str) -> None:
    manifest = database(unknown=0.2)
    parts = cut(name, manifest)
    rows = np.concatenate(list(parts.values()))
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == len(rows)
    assert all(len(own) and (np.diff(own) > 0).all() for own in parts.values())
    together = [patient for own in patients_of(manifest, parts).values() for patient in own]
    assert len(set(together)) == len(together)
    if name not in ("view", "size"):
        assert len(rows) == len(manifest)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    manifest = database(unknown=0.2)
    order = np.random.default_rng(1).permutation(len(manifest))
    mixed = replace(
        manifest,
        images=manifest.images.iloc[order].reset_index(drop=True),
        labels=manifest.labels.iloc[order].reset_index(drop=True),
    )
    parts, again = cut(name, manifest), cut(name, mixed)
    assert list(parts) == list(again)
    for part, rows in parts.items():
        assert set(manifest.images["image_id"].iloc[rows]) == set(mixed.images["image_id"].iloc[again[part]])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_seed_alone_decides(name: str) -> None:
    manifest = database()
    first, again, other = cut(name, manifest), cut(name, manifest), cut(name, manifest, seed=1)
    assert all(np.array_equal(first[part], again[part]) for part in first)
    same = list(first) == list(other) and all(np.array_equal(first[part], other[part]) for part in first)
    assert same == (name not in DRAWN)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("iid", {"num_partitions": 3}, [34, 33, 33]),
        ("size", {"partition_sizes": [60, 1, 30]}, [60, 1, 30]),
        ("linear", {"num_partitions": 4}, [10, 20, 30, 40]),
        ("linear", {"num_partitions": 3}, [16, 33, 51]),
        ("square", {"num_partitions": 3}, [7, 28, 65]),
        ("exponential", {"num_partitions": 3}, [9, 24, 67]),
        ("exponential", {"num_partitions": 1}, [100]),
    ],
)
def test_sizes_are_those_promised(name: str, options: dict[str, Any], expected: list[int]) -> None:
    manifest = database(100)
    parts = cut(name, manifest, **options)
    assert sizes(manifest, parts) == expected
    assert list(parts) == [str(k) for k in range(len(expected))]


def test_one_part_a_hospital() -> None:
    manifest = database()
    parts = cut("natural_id", manifest)
    assert list(parts) == ["A", "B", "C"]
    assert all((manifest.images["hospital"].iloc[rows] == name).all() for name, rows in parts.items())


def test_a_patient_of_two_hospitals_goes_where_most_images_are() -> None:
    manifest = six_images(
        patientid=["a", "a", "a", "b", "b", "c"],
        hospital=["Y", "X", "Y", "X", "Y", None],
    )
    parts = cut("natural_id", manifest)
    assert {name: rows.tolist() for name, rows in parts.items()} == {"X": [3], "Y": [0, 2]}


def test_a_value_that_is_nobodys_most_frequent_has_no_part() -> None:
    manifest = six_images(patientid=list("aaabbb"), hospital=list("XXYXXX"))
    assert {name: rows.tolist() for name, rows in cut("natural_id", manifest).items()} == {"X": [0, 1, 3, 4, 5]}


def test_a_column_of_extra_and_names_that_a_site_can_have() -> None:
    manifest = six_images(patientid=list("aabcde"))
    maker = ["AGFA / GEVAERT", "AGFA / GEVAERT", "Siemens", "Siemens", None, "Siemens"]
    extra = pd.DataFrame({"Manufacturer": maker, "release": [1.0, 1.0, 2.0, 2.0, 2.5, 1.0]})
    manifest = replace(manifest, extra=extra)
    assert list(cut("natural_id", manifest, partition_by="Manufacturer")) == ["AGFA_GEVAERT", "Siemens"]
    assert list(cut("natural_id", manifest, partition_by="release")) == ["1", "2", "2_5"]
    clash = replace(manifest, extra=extra.assign(Manufacturer=["A/B", "A B"] * 3))
    with pytest.raises(StudyError, match="differ in letters and digits; found A B, A/B"):
        cut("natural_id", clash, partition_by="Manufacturer")


def test_a_column_that_is_absent_or_blank_is_an_error() -> None:
    manifest = database()
    with pytest.raises(DataError, match=r"^made_up: expected a column 'clinic' .*; found .*view, hospital\. Change"):
        cut("natural_id", manifest, partition_by="clinic")
    with pytest.raises(DataError, match="found a column without values"):
        cut("natural_id", manifest, partition_by="age_years")


def test_views_leave_a_patients_other_images_out() -> None:
    manifest = six_images(
        patientid=["a", "a", "a", "b", "b", "c"],
        view=["PA", "LATERAL", "PA", "AP", "LATERAL", np.nan],
    )
    assert {name: rows.tolist() for name, rows in cut("view", manifest).items()} == {"AP": [3], "PA": [0, 2]}


def test_a_patient_is_positive_if_any_image_is_and_unknown_if_none_is_certain() -> None:
    manifest = six_images(patientid=list("aabbcd"))
    manifest = replace(manifest, labels=pd.DataFrame({FINDING: [0, 1, 0, -1, np.nan, -1]}))
    options = {"num_partitions": 2, "num_shards_per_partition": 1}
    whose = [patients_of(manifest, cut("shard", manifest, seed, **options)) for seed in range(20)]
    assert all((parts["0"] >= {"a"}) != (parts["0"] >= {"b"}) for parts in whose)
    assert all((parts["0"] >= {"c"}) != (parts["0"] >= {"d"}) for parts in whose)
    assert len({frozenset(parts["0"]) for parts in whose}) > 1


def test_dirichlet_shares_have_the_mean_and_the_spread_of_the_distribution() -> None:
    manifest = database(100)
    first = ~manifest.images["patientid"].duplicated().to_numpy()
    positive = first & (manifest.labels[FINDING] == 1).to_numpy()
    draws = [cut("dirichlet", manifest, seed, alpha=2.0, min_partition_size=0) for seed in range(400)]
    shares = np.array([[positive[rows].sum() / 50 for rows in parts.values()] for parts in draws])
    assert shares.sum(1) == pytest.approx(1.0)
    assert shares.mean(0) == pytest.approx(0.25, abs=0.03)
    # Var = m (1 − m) / (4 α + 1), m = 1/4.
    assert shares.var(0) == pytest.approx(0.1875 / 9, rel=0.3)


def test_a_large_alpha_makes_parts_alike_and_a_small_one_gives_a_class_to_one_part() -> None:
    manifest = database(400, positive=0.3)
    alike = cut("dirichlet", manifest, alpha=1e9)
    assert sizes(manifest, alike) == [100] * 4
    assert positives(manifest, alike) == pytest.approx(0.3)
    apart = [cut("dirichlet", manifest, seed, alpha=1e-9, min_partition_size=0) for seed in range(8)]
    for parts in apart:
        assert sorted(sizes(manifest, parts))[:2] == [0, 0]
        assert all(n in (0, 120, 280, 400) for n in sizes(manifest, parts))
    assert any(400 in sizes(manifest, parts) for parts in apart)
    assert any(280 in sizes(manifest, parts) for parts in apart)


def test_self_balancing_gives_a_full_part_no_more() -> None:
    manifest = database(400, positive=0.5)
    options = {"alpha": 1e-9, "min_partition_size": 0}
    assert any(400 in sizes(manifest, cut("dirichlet", manifest, seed, **options)) for seed in range(8))
    for seed in range(8):
        parts = cut("dirichlet", manifest, seed, self_balancing=True, **options)
        assert sorted(sizes(manifest, parts)) == [0, 0, 200, 200]


def test_dirichlet_draws_again_for_the_smallest_size_and_gives_up() -> None:
    manifest = database(400)
    free = [min(sizes(manifest, cut("dirichlet", manifest, seed, min_partition_size=0))) for seed in range(20)]
    kept = [min(sizes(manifest, cut("dirichlet", manifest, seed, min_partition_size=30))) for seed in range(20)]
    assert min(free) < 30 <= min(kept)
    with pytest.raises(StudyError, match=r"at least 101 patients in every part; found parts of \d+ and fewer in 10"):
        cut("dirichlet", manifest, min_partition_size=101)


def test_dirichlet_may_have_a_seed_of_its_own() -> None:
    manifest = database()
    partitioner = PARTITIONERS.load("dirichlet")(**OPTIONS["dirichlet"], seed=3)
    first, second = partitioner.partition(manifest, 0), partitioner.partition(manifest, 1)
    of_study = cut("dirichlet", manifest, 3)
    assert all(np.array_equal(first[k], second[k]) and np.array_equal(first[k], of_study[k]) for k in first)


@pytest.mark.parametrize("name", ["dirichlet", "shard"])
def test_patients_of_unknown_class_are_dealt_out_evenly(name: str) -> None:
    manifest = database(400, unknown=0.5)
    raw = manifest.labels[FINDING].to_numpy()
    first = ~manifest.images["patientid"].duplicated().to_numpy()
    unknown = [int(np.isnan(raw[rows[first[rows]]]).sum()) for rows in cut(name, manifest).values()]
    assert unknown == [50] * 4


def test_a_part_has_its_number_of_shards() -> None:
    manifest = database(400, positive=0.25)
    shares = positives(manifest, cut("shard", manifest, num_shards_per_partition=1))
    assert sorted(shares) == [0, 0, 0, 1]
    parts = cut("shard", manifest, num_shards_per_partition=5)
    assert sizes(manifest, parts) == [100] * 4
    # 20 shards of 20 patients, 5 of them positive.
    assert set(positives(manifest, parts)) <= {0, 0.2, 0.4, 0.6, 0.8, 1}
    assert sum(positives(manifest, parts)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("iid", {"num_partitions": 21}),
        ("size", {"partition_sizes": [20, 1]}),
        ("linear", {"num_partitions": 7}),
        ("square", {"num_partitions": 5}),
        ("exponential", {"num_partitions": 4}),
        ("shard", {"num_partitions": 7, "num_shards_per_partition": 3}),
        ("dirichlet", {"num_partitions": 20, "min_partition_size": 2}),
    ],
)
def test_too_few_patients_are_an_error(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"^made_up: expected at least .*; found .*\. (Ask for fewer|Raise 'alpha')"):
        cut(name, database(20), **options)


@pytest.mark.parametrize("name", ["dirichlet", "shard"])
def test_a_finding_without_a_label_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match=r"label of 'Nodule' to partition by; found labels of Effusion\. Change"):
        cut(name, database(), partition_by="Nodule")
    blank = database(unknown=1.0)
    with pytest.raises(DataError, match="found labels of none"):
        cut(name, blank)
    with pytest.raises(UnknownName, match="Did you mean 'Effusion'"):
        PARTITIONERS.load(name)(**{**OPTIONS[name], "partition_by": "Efusion"})


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        *[(name, "num_partitions", (0, -1, 2.0, True, "3", None)) for name in DRAWN if name != "size"],
        ("size", "partition_sizes", ([], "12", 5, None, [3, 0], [3, 1.5], [True])),
        ("dirichlet", "alpha", (0, -1.0, math.inf, math.nan, True, "1")),
        ("dirichlet", "min_partition_size", (-1, 0.5, True)),
        ("dirichlet", "self_balancing", (1, "yes")),
        ("dirichlet", "seed", (-1, 0.5)),
        ("dirichlet", "partition_by", (3, None)),
        ("shard", "num_shards_per_partition", (0, 1.5, True)),
        ("natural_id", "partition_by", (3, None)),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, option: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(HilumError, match=rf"^Expected '{option}' of a partition .*; found "):
            PARTITIONERS.load(name)(**{**OPTIONS[name], option: value})
