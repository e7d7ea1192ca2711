"""How far the weights of every arm are from those of the pooled one: divergence.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from hilum.federation.divergence import weight_divergence
from hilum.study.arms import WEIGHTS, new_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.spec import Study
from hilum.training.state import load_state


def write_divergences(study: Study, run: RunDirectory, keys: Sequence[ModelKey]) -> None:
    """Write the divergence of every model of several sites from the pooled one of its seed, if there is one."""
    if "pooled" in study.arms:
        run.write_json("divergence.json", {"schema": 1, "divergence": list(_records(study, run, keys))})


def _records(study: Study, run: RunDirectory, keys: Sequence[ModelKey]) -> Iterator[dict[str, Any]]:
    groups = new_model(study, study.seeds[0]).state_groups()
    weights = [name for name, group in groups.items() if group not in ("norm_stats", "sums")]
    pooled = {key.seed: load_state(run.model(key) / WEIGHTS) for key in keys if key.arm == "pooled"}
    for key in keys:
        if key.arm not in ("local", "pooled"):
            state = load_state(run.model(key) / WEIGHTS)
            yield {**asdict(key), "against": "pooled", **asdict(weight_divergence(state, pooled[key.seed], weights))}
