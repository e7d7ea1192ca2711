"""Four kinds of features of a site's images, computed once and kept without ids."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import MissingExtra
from hilum.images.cache import CacheSpec
from hilum.models import BACKBONES
from hilum.models.backbones.base import Backbone
from hilum.progress import progress
from hilum.shift.features import downsampled_pixels, intensity_histogram
from hilum.study.arms import load_model, new_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.run import load_run_study
from hilum.study.shift.sample import Sample
from hilum.study.spec import NamedOptions, Study
from hilum.training.state import copy_state, fingerprint, write_atomically

BATCH = 64
VERSION = 1  # of what is kept; raise it where the same images would give other features
Features = NDArray[np.float32]
Compute = Callable[[NDArray[np.uint8], NDArray[np.float32]], Features]


@dataclass(frozen=True)
class Kind:
    """A kind of features: ``compute`` maps squares (n, S, S) and frames (n, 4) to features (n, d).

    ``source``: where they come from, in words; ``digest`` changes with whatever changes the features.
    """

    name: str
    source: str
    digest: str
    compute: Compute


def feature_kinds(study: Study, run: RunDirectory | None) -> tuple[list[Kind], dict[str, str]]:
    """Return the kinds that can be computed, and kind → why another cannot.

    The last is of the trunk that ``run`` trained, or else of EfficientNet-Lite0 with ImageNet weights.
    """
    untrained = _fresh(study)
    kinds = [
        Kind("histogram", "32 grey levels, padding left out", "32", intensity_histogram),
        Kind("pixels", "the image on 16 × 16 cells", "16", downsampled_pixels),
        _of_trunk("untrained", f"{study.model.backbone.name} with random weights", untrained),
    ]
    absent: dict[str, str] = {}
    trained = run and _trained(run)
    if trained:
        return [*kinds, trained], absent
    if run:
        absent["trained"] = "The run has no federated and no pooled model, and a local one has seen one hospital only."
    try:
        weights = BACKBONES.load("efficientnet_lite0")()
    except MissingExtra as missing:
        absent["pretrained"] = f"{missing} Or name a finished run of the study with --run."
        return kinds, absent
    return [*kinds, _of_trunk("pretrained", "EfficientNet-Lite0 with ImageNet weights", weights)], absent


def features_of(
    kind: Kind, samples: Sequence[Sample], images: CacheSpec, folder: Path
) -> tuple[list[Features], list[str]]:
    """Return the features (n, d) of every site and their digests; from ``folder`` where they lie there."""
    found, digests = [], []
    with progress(f"features: {kind.name}", sum(len(s.drawn) for s in samples)) as advance:
        for sample in samples:
            path, digest = (
                folder / kind.name / f"{sample.site.name}.npz",
                digest_of(
                    VERSION, torch.__version__, kind.name, kind.digest, images.key, *sample.site.content[sample.drawn]
                ),
            )
            features = _read(path, digest)
            if features is None:
                features = _compute(kind, sample, advance)
                _write(path, features, digest)
            found.append(features)
            digests.append(digest)
    return found, digests


def digest_of(*parts: object) -> str:
    """Return a hash of the texts of ``parts``."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def _compute(kind: Kind, sample: Sample, advance: Callable[[int], None]) -> Features:
    frames, parts = sample.site.frames, []
    for start in range(0, len(sample.drawn), BATCH):
        rows = sample.drawn[start : start + BATCH]
        parts.append(kind.compute(sample.site.images(rows), frames[rows]))
        advance(len(rows))
    return np.concatenate(parts)


def _read(path: Path, digest: str) -> Features | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["features"] if str(kept["digest"]) == digest else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _write(path: Path, features: Features, digest: str) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=features, digest=np.array(digest))
    write_atomically(path, buffer.getvalue())


def _of_trunk(name: str, source: str, trunk: Backbone) -> Kind:
    trunk = trunk.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(squares: NDArray[np.uint8], frames: NDArray[np.float32]) -> Features:
        images = torch.from_numpy(squares).unsqueeze(1).float().div_(255)
        with torch.inference_mode():
            cells = trunk(images.contiguous(memory_format=torch.channels_last))
        pooled: Features = cells.mean((2, 3)).numpy()
        return pooled

    return Kind(name, f"{source}, mean over its cells", fingerprint(copy_state(trunk)), compute)


def _fresh(study: Study) -> Backbone:
    """Return the study's trunk with random weights, also where it would begin with those of ImageNet."""
    backbone = study.model.backbone
    options = backbone.model_dump()
    if "pretrained" in signature(BACKBONES.load(backbone.name)).parameters:
        options["pretrained"] = False
    model = study.model.model_copy(update={"backbone": NamedOptions(**options)})
    return new_model(study.model_copy(update={"model": model}), study.seeds[0]).backbone


def _trained(run: RunDirectory) -> Kind | None:
    """Return the trunk that all hospitals trained, with statistics that are no hospital's own."""
    study = load_run_study(run)
    arm = next((arm for arm in ("federated", "pooled") if arm in study.arms), None)
    if arm is None:
        return None
    key = ModelKey(study.seeds[0], arm, arm)
    source = f"{study.model.backbone.name}, the {arm} model of seed {key.seed}"
    return _of_trunk("trained", source, load_model(study, run, key).backbone)
