"""How alike two models see the same images, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hilum.errors import RunError
from hilum.evaluation.similarity import linear_cka, svcca
from hilum.models.classifier import LocalizingClassifier
from hilum.study.arms import WEIGHTS, initial_model, load_model, new_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.hospitals import cache_of, load_sites, training_sites
from hilum.study.run import load_run_study
from hilum.study.spec import Study
from hilum.training.state import load_state

BATCH = 32
INITIAL = "initial"
SUFFIX = ".safetensors"


def compare_models(run: Path, model: str, other: str, other_run: Path, images: int) -> pd.DataFrame:
    """Return ``layer_similarity`` of two models of runs on test images of each training site of the first run.

    Models by seed, arm and name, as ``seed_0/federated/federated``, or ``seed_0/initial``, or files of weights. Raises
    ``RunError``.
    """
    study = load_run_study(RunDirectory(run))
    first, second = model_of(RunDirectory(run), model), model_of(RunDirectory(other_run), other)
    sites = training_sites(load_sites(study, cache_of(study)))
    pixels = np.concatenate([site.images(site.indices("test")[:images]) for site in sites])
    return layer_similarity(first, second, torch.from_numpy(pixels).unsqueeze(1).float().div_(255))


def model_of(run: RunDirectory, name: str) -> LocalizingClassifier:
    """Return a model of a run by its folder below ``models``, or that of ``seed_<n>/initial``; raises ``RunError``.

    The path of a ``.safetensors`` file gives the run's model with the trunk of that file, whatever head it was below.
    """
    study = load_run_study(run)
    if name.endswith(SUFFIX):
        return _with_trunk_of(Path(name), run, study)
    keys = {f"seed_{seed}/{INITIAL}": ModelKey(seed, INITIAL, INITIAL) for seed in study.seeds}
    for weights in sorted((run.root / "models").glob(f"*/*/*/{WEIGHTS}")):
        seed, arm, model = weights.parent.parts[-3:]
        keys[f"{seed}/{arm}/{model}"] = ModelKey(int(seed.removeprefix("seed_")), arm, model)
    if name not in keys:
        raise RunError(
            f"Expected a model of {run.root} among {', '.join(keys)}, or the path of a {SUFFIX} file; found '{name}'."
        )
    key = keys[name]
    return initial_model(study, key.seed).eval() if key.arm == INITIAL else load_model(study, run, key)


def _with_trunk_of(path: Path, run: RunDirectory, study: Study) -> LocalizingClassifier:
    model = new_model(study, study.seeds[0])
    try:
        state = load_state(path)
        trunk = {k.removeprefix("backbone."): tensor for k, tensor in state.items() if k.startswith("backbone.")}
        model.backbone.load_state_dict(trunk)
    except (RunError, RuntimeError) as error:
        found = "no file that can be read" if isinstance(error, RunError) else "others"
        raise RunError(
            f"Expected in {path} weights of the trunk '{study.model.backbone.name}' as the study of {run.root} has it; "
            f"found {found}. Give a {SUFFIX} file that a study with the same model.backbone wrote."
        ) from None
    return model.eval()


def layer_similarity(
    first: LocalizingClassifier, second: LocalizingClassifier, images: Tensor, cells: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """Return linear CKA and SVCCA of two models' trunks, stage by stage: columns ``layer``, ``linear_cka``, ``svcca``.

    ``images`` (B, 1, S, S) in [0, 1]. Every cell of a map is a sample, at most ``cells`` of them, drawn with ``seed``;
    of two maps the finer is averaged over the other's cells. SVCCA is missing where there are not more samples than
    channels. Raises ``RunError`` where the trunks have not as many stages.
    """
    pyramids = [_pyramid(model, images) for model in (first, second)]
    if len(pyramids[0]) != len(pyramids[1]):
        raise RunError(
            f"Expected two trunks of as many stages, to compare one by one; found {len(pyramids[0])} and "
            f"{len(pyramids[1])}. Name models of one backbone, or of backbones with as many."
        )
    generator = np.random.default_rng(seed)
    rows = []
    for layer, maps in enumerate(zip(*pyramids, strict=True), start=1):
        grid = (min(m.shape[2] for m in maps), min(m.shape[3] for m in maps))
        one, other = (F.adaptive_avg_pool2d(m, grid).permute(0, 2, 3, 1).flatten(0, 2).numpy() for m in maps)
        drawn = generator.permutation(len(one))[:cells]
        rows.append((layer, *_figures(one[drawn], other[drawn])))
    return pd.DataFrame(rows, columns=["layer", "linear_cka", "svcca"])


def _figures(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    enough = len(one) > max(one.shape[1], other.shape[1])
    return linear_cka(one, other), svcca(one, other) if enough else np.nan


def _pyramid(model: LocalizingClassifier, images: Tensor) -> list[Tensor]:
    """Return the maps of a trunk's stages, each (B, D, h, w), on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        parts = [model.backbone.pyramid(batch.to(device)) for batch in images.split(BATCH)]
    return [torch.cat([m.float().cpu() for m in maps]) for maps in zip(*parts, strict=True)]
