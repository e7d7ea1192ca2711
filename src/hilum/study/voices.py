"""Which models of a run speak of an image, of which findings, and how much each counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.errors import RunError, StudyError
from hilum.models.classifier import LocalizingClassifier
from hilum.randomness import fixed_order
from hilum.sites.site import Site
from hilum.study.arms import WEIGHTS, is_trained, load_model, new_model, own_file, run_device
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.federations import ALONE, federation_spec
from hilum.study.spec import Adjust, Study
from hilum.training.inference import Inferred, Localize, infer
from hilum.training.loop import MOMENT_IMAGES, estimate_norm_stats, feature_moments, trained_norms
from hilum.training.state import load_facts

ADAPT_BATCH = 64
LEAST_IMAGES = 50  # of which statistics are estimated


@dataclass(frozen=True)
class Voice:
    """A model and how much it counts in each finding (C,); over the voices of an image these add up to 1."""

    model: LocalizingClassifier
    weights: NDArray[np.float32]


def chosen_models(study: Study, run: RunDirectory, arm: str, site: str | None, seed: int | None) -> list[ModelKey]:
    """Return the models of an arm, one a seed; raises ``StudyError`` for an arm, site or seed the run lacks."""
    if arm not in study.arms:
        raise StudyError(f"Expected --arm among those of the run: {', '.join(study.arms)}; found '{arm}'.")
    roles = run.roles()
    training = training_names(run)
    if site is not None and site not in roles:
        raise StudyError(f"Expected --site among {', '.join(roles)}, or none for another hospital; found '{site}'.")
    if arm == "local" and site not in training:
        raise StudyError(f"--arm local has one model a hospital: name one with --site: {', '.join(training)}.")
    if seed is not None and seed not in study.seeds:
        raise StudyError(f"Expected --seed among {study.seeds}; found {seed}.")
    seeds = study.seeds if seed is None else [seed]
    keys = [ModelKey(s, arm, str(site) if arm == "local" else arm) for s in seeds]
    absent = [key for key in keys if not is_trained(run, key)]
    if absent:
        raise RunError(
            f"Expected trained models in {run.model(absent[0])}; there is none yet. "
            "Run 'hilum study … --resume' to the end, or choose another --seed."
        )
    return keys


def taught_findings(study: Study, run: RunDirectory, keys: Sequence[ModelKey]) -> dict[str, int]:
    """Return finding → column of those that the models have seen labels of; raises ``RunError``."""
    told = _told(run)
    if told is not None:
        return {finding: k for k, finding in enumerate(study.findings) if finding in told}
    teachers = [keys[0].model] if keys[0].arm == "local" else training_names(run)
    labelled = labelled_images(study, run, teachers).sum(axis=0)
    return {finding: k for k, finding in enumerate(study.findings) if labelled[k]}


def voices_of(
    study: Study, run: RunDirectory, keys: Sequence[ModelKey], site: str | None = None, adjust: Adjust = "none"
) -> list[Voice]:
    """Return who speaks of images of ``site``, or of another hospital: the models, one a seed, each as much.

    ``adjust`` 'sites', for another hospital: each model as it stands at every training hospital k, with the statistics
    and head rows kept there, so that P(y | x) = Σ_k P(k) P(y | x, k). P(k) is the share of k in the training images
    with a label of the finding, or with a taxonomy in the labels of all findings, since only the same weights keep a
    child below its parent: back-door adjustment over the hospital (Pearl 2009, theorem 3.3.2). 'images': the models,
    for ``adapt``. Raises ``StudyError`` for a site as well, for an arm in which hospitals keep nothing or statistics
    are frozen, and ``RunError`` where the run holds not what they keep.
    """
    if adjust != "none" and site is not None and keys[0].arm != "local":
        raise StudyError(f"Expected --site or --adjust {adjust}; found both. Images of '{site}' need no adjustment.")
    if adjust != "sites":
        alike = np.full(len(study.findings), 1 / len(keys), np.float32)
        voices = [Voice(load_model(study, run, key, site), alike) for key in keys]
        frozen = federation_spec(study, keys[0].arm).normalization == "frozen"
        if adjust == "images" and (frozen or not all(trained_norms(voice.model) for voice in voices)):
            raise StudyError(
                "Expected statistics that training moves, for --adjust images; they are frozen. Leave it out."
            )
        return voices
    if _told(run) is not None:
        raise RunError(
            f"Expected in {run.root} what is every hospital's own, for --adjust sites; in a run between hospitals "
            "each of them holds its own. Leave --adjust out."
        )
    speaking = _speaking(study, run)
    for key in keys:
        _require_kept(run, key, list(speaking))
    return [
        Voice(load_model(study, run, key, name), (weight / len(keys)).astype(np.float32))
        for key in keys
        for name, weight in speaking.items()
    ]


def check_adjust(study: Study, sites: Sequence[Site]) -> None:
    """Refuse, before anything is trained, an ``evaluation.adjust`` that could change nothing (``StudyError``)."""
    adjust, outside = study.evaluation.adjust, [site for site in sites if site.plan.role == "outside"]
    if adjust == "none":
        return
    if not outside:
        raise StudyError(
            f"Expected a site with the role 'outside' for evaluation.adjust {adjust}; found none. Leave it out."
        )
    if adjust == "sites" and not any(_keeps(study, arm) for arm in study.arms):
        raise StudyError(
            "Expected for evaluation.adjust sites an arm in which hospitals keep statistics or head rows "
            f"(federation.normalization site or local, federation.head site); found {', '.join(study.arms)}. Leave it "
            "out, or add such an arm."
        )
    if adjust == "images":
        frozen = all(federation_spec(study, arm).normalization == "frozen" for arm in study.arms)
        if frozen or not trained_norms(new_model(study, study.seeds[0])):
            raise StudyError(
                "Expected statistics that training moves, for evaluation.adjust images; they are frozen. Leave it out."
            )
        few = [site for site in outside if len(site.indices("test")) < LEAST_IMAGES]
        if few:
            raise StudyError(
                f"Expected {LEAST_IMAGES} images or more of '{few[0].name}' for evaluation.adjust images; found "
                f"{len(few[0].indices('test'))}. Leave it out, or the site."
            )


def adjust_at(study: Study, run: RunDirectory, key: ModelKey, site: Site) -> Adjust:
    """Return what a model of a study adjusts to at a site: nothing in training, nor where it has nothing to adjust."""
    adjust: Adjust = study.evaluation.adjust
    if adjust == "none" or site.plan.role == "training":
        return "none"
    if adjust == "images":
        return "none" if federation_spec(study, key.arm).normalization == "frozen" else "images"
    kept = load_facts(run.model(key) / WEIGHTS).get("beside", []) if _keeps(study, key.arm) else []
    return "sites" if all(own_file(name) in kept for name in _speaking(study, run)) else "none"


def voices_at(study: Study, run: RunDirectory, key: ModelKey, site: Site, precision: str) -> list[Voice]:
    """Return who speaks of images of a site in a study: the model as it is there, or as ``evaluation.adjust`` says."""
    adjust = adjust_at(study, run, key, site)
    voices = voices_of(study, run, [key], site.name if adjust == "none" else None, adjust)
    for voice in voices:
        voice.model.to(run_device(run))
    if adjust == "images":
        rows = site.indices("test")
        chosen = rows[np.linspace(0, len(rows) - 1, min(MOMENT_IMAGES, len(rows))).astype(np.int64)]
        adapt(voices, torch.from_numpy(site.images(chosen)).unsqueeze(1).float().div_(255), precision)
    return voices


def infer_voices(
    voices: Sequence[Voice], batches: Iterable[Tensor], precision: str, flip: bool, localize: Localize | None = None
) -> Inferred:
    """Return what the voices together say of batches (B, 1, S, S), as ``infer`` does of one model."""
    weights = np.stack([voice.weights for voice in voices])
    parts = []
    for images in batches:
        said = [infer(voice.model, [images], precision, flip, localize) for voice in voices]
        masks = [one.masks for one in said if one.masks is not None]
        parts.append(
            Inferred(
                np.einsum("vnc,vc->nc", np.stack([one.probabilities for one in said]), weights),
                np.einsum("vnchw,vc->nchw", np.stack([one.maps for one in said]), weights),
                np.einsum("vnchw,vc->nchw", np.stack(masks), weights) if masks else None,
            )
        )
    masks = [part.masks for part in parts if part.masks is not None]
    return Inferred(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.maps for part in parts]),
        np.concatenate(masks) if masks else None,
    )


def adapt(voices: Sequence[Voice], images: Tensor, precision: str) -> None:
    """Set the normalization statistics of every model to those of images (N, 1, S, S) of one hospital, without labels.

    AdaBN (Li et al. 2018). Whose rows speak is told by the statistics before. Raises ``StudyError`` for fewer than
    ``LEAST_IMAGES`` images.
    """
    if len(images) < LEAST_IMAGES:
        raise StudyError(
            f"Expected {LEAST_IMAGES} images or more of one hospital, for --adjust images; found {len(images)}. "
            "Leave --adjust out."
        )
    mixed = images[torch.from_numpy(fixed_order(len(images)))]
    for voice in voices:
        device, heads = next(voice.model.parameters()).device, voice.model.site_heads
        parts = mixed.split(ADAPT_BATCH)
        if heads is not None:
            heads.settle(torch.from_numpy(feature_moments(voice.model, parts, precision).mean).float())
        estimate_norm_stats(voice.model, (part.to(device) for part in parts), precision)


def training_names(run: RunDirectory) -> list[str]:
    """Return the hospitals that train, in the order of the study."""
    return [name for name, role in run.roles().items() if role == "training"]


def labelled_images(study: Study, run: RunDirectory, sites: Sequence[str]) -> NDArray[np.int64]:
    """Return how many training images of each site have a label of each finding, (K, C); raises ``RunError``."""
    entries = run.read_json("sites.json")
    try:
        findings = {entry["name"]: entry["findings"] for entry in entries}
        counts = [[findings[site][finding]["train"] for finding in study.findings] for site in sites]
        return np.array([[sum(c.values()) - c["unknown"] for c in row] for row in counts], np.int64)
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"Expected the label counts of every site in {run.root / 'sites.json'}; the file is damaged ({error!r}). "
            "Run the study again with --resume: it writes the file anew."
        ) from None


def _speaking(study: Study, run: RunDirectory) -> dict[str, NDArray[np.float32]]:
    """Return P(k) of each finding (C,) for every training hospital k that has labels: of ``voices_of``."""
    names = training_names(run)
    images = labelled_images(study, run, names).astype(np.float32)
    if study.model.taxonomy:
        images = np.repeat(images.sum(axis=1, keepdims=True), images.shape[1], axis=1)
    weights = images / np.maximum(images.sum(axis=0), 1)
    return {name: weight for name, weight in zip(names, weights, strict=True) if weight.any()}


def _keeps(study: Study, arm: str) -> bool:
    """Tell whether hospitals keep statistics or head rows in an arm."""
    spec = federation_spec(study, arm)
    return arm not in ALONE and (spec.normalization in ("site", "local") or spec.head == "site")


def _told(run: RunDirectory) -> list[str] | None:
    """Return the findings taught in a run between hospitals, where nobody is told the counts of the others."""
    facts = run.read_json("run.json")
    return facts.get("taught") if isinstance(facts, dict) else None


def _require_kept(run: RunDirectory, key: ModelKey, sites: Sequence[str]) -> None:
    folder = run.model(key)
    beside = load_facts(folder / WEIGHTS).get("beside", [])
    absent = [site for site in sites if own_file(site) not in beside]
    if absent == sites:
        raise StudyError(
            f"Expected for --adjust sites an arm in which hospitals keep statistics or head rows; in '{key.arm}' all "
            "images meet the same weights. Leave --adjust out, or choose another --arm."
        )
    if absent:
        raise RunError(
            f"Expected in {folder} what is every hospital's own, for --adjust sites; absent is that of "
            f"{', '.join(absent)}. Leave --adjust out."
        )
