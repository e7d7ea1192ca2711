"""From a study to a finished run directory: load, train, predict, evaluate. Each step is kept as it is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hilum.allocator import keep_freed_memory
from hilum.errors import HilumError, RunError
from hilum.progress import progress
from hilum.sites.site import Site
from hilum.study.arms import (
    choose_precision,
    initial_model,
    is_trained,
    model_keys,
    most_patients,
    require_confounders,
    require_effect,
    train_model,
)
from hilum.study.describe import describe_run, describe_site, images_digest
from hilum.study.directory import ModelKey, RunDirectory, now
from hilum.study.divergences import write_divergences
from hilum.study.donors import check_donor
from hilum.study.erasures import write_erased
from hilum.study.federations import check_federations
from hilum.study.figures import Figures
from hilum.study.gallery import choose_gallery, choose_misses, write_gallery
from hilum.study.hospitals import cache_of, load_sites, training_sites
from hilum.study.kept import require_sound
from hilum.study.localizer import build_localizer
from hilum.study.outcomes import Outcomes
from hilum.study.predictions import held_out, identify, write_predictions, write_shuffled, write_table
from hilum.study.shared import describe_shared, lacking, load_shared
from hilum.study.spec import Study, dump_study, parse_study, read_mapping
from hilum.study.voices import adjust_at, check_adjust
from hilum.study.watch import Watch
from hilum.training.state import write_atomically

SECONDS_BETWEEN = 1.0  # two writings of progress.json within a round
SAME_NUMBERS = ("torch", "numpy")  # another version of these may give other digits
Train = Callable[[Study, Sequence[ModelKey], Sequence[Site], RunDirectory, str, Mapping[str, Site]], None]
NEEDED = (("images_sha256",), ("precision",), ("machine", "threads"), *(("packages", n) for n in SAME_NUMBERS))


def run_study(
    study: Study, out: Path, resume: bool = False, source: Path | None = None, train: Train | None = None
) -> RunDirectory:
    """Run a study into ``out``, or go on where a stopped run left off; return its directory.

    ``source``: the study file, which is never written over. ``train``: another way to train all models. A resumed
    run computes with the threads that it was begun with. Raises ``RunError`` when ``out`` holds another study's run,
    a run and ``resume`` is False, or files that are not of a run.
    """
    run = RunDirectory(out)
    check_run(study, run, resume, source)
    if (run.root / "run.json").is_file():
        run.remove_unfinished()
        threads = run.fact("machine", "threads")
        _tell_other_packages(run)
    else:
        write_atomically(run.study, dump_study(study).encode())
        threads = study.training.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    sites = load_sites(study, cache_of(study))
    training = training_sites(sites)
    _tell_unlabelled(sites)
    check_federations(study, sorted(site.name for site in training))
    check_adjust(study, sites)
    if not (run.root / "run.json").is_file():
        require_confounders(study, most_patients(study, training))
    donor = check_donor(study, sites)
    shared = load_shared(study, sites, cache_of(study), study.arms)
    precision = _describe(study, sites, shared, donor, run)
    keys = list(model_keys(study, training))
    (train or train_here)(study, keys, training, run, precision, shared)
    write_divergences(study, run, keys)
    _predict(study, sites, keys, run, precision)
    run.write_json("metrics.json", Figures(study, run, keys).records())
    description = run.read_json("run.json")
    run.write_json("run.json", description | {"finished": now()})
    return run


def train_here(
    study: Study,
    keys: Sequence[ModelKey],
    sites: Sequence[Site],
    run: RunDirectory,
    precision: str,
    shared: Mapping[str, Site],
) -> None:
    """Train all models of a study in this process."""
    rounds = study.training.rounds
    with (
        progress("training", len(keys) * rounds) as advance,
        Watch(run.root, len(keys), rounds, advance, SECONDS_BETWEEN) as watch,
    ):
        for key in keys:
            if not is_trained(run, key):
                train_model(study, key, sites, run, precision, watch, shared)
            watch.model_done()


def load_run_study(run: RunDirectory) -> Study:
    """Return the resolved study of a run directory; raises ``RunError`` where there is none."""
    if not run.study.is_file():
        raise RunError(
            f"Expected study.yaml in {run.root}; there is none. Name a directory that 'hilum study' has written."
        )
    return parse_study(read_mapping(run.study), str(run.study))


def check_run(study: Study, run: RunDirectory, resume: bool, source: Path | None = None) -> None:
    """Refuse, before anything is written, a study that ``run`` cannot take (``StudyError``, ``RunError``).

    A directory in which nothing was computed yet may take another study.
    """
    if (run.root / "run.json").is_file():
        initial_model(study, study.seeds[0])
    else:
        require_effect(study)
    build_localizer(study)
    if run.root.exists() and not run.root.is_dir():
        raise RunError(f"Expected a directory for the run; {run.root} is a file. Give another --out.")
    if not (run.root / "run.json").is_file():
        if source is not None and run.study.is_file() and run.study.samefile(source):
            raise RunError(
                f"Expected another directory for the run than that of the study file {source}, which the run's own "
                "study.yaml would replace. Give another --out."
            )
        _require_nothing_else(run)
        return
    for keys in NEEDED:
        run.fact(*keys)
    old, new = _decisive(load_run_study(run)), _decisive(study)
    if old != new:
        changed = ", ".join(sorted(k for k in new if old.get(k) != new[k]))
        raise RunError(
            f"Expected the study that {run.root} was begun with; found other values in: {changed}. "
            "Give another --out, or undo the change."
        )
    if not resume:
        raise RunError(f"{run.root} already holds a run of this study. Add --resume to go on, or give another --out.")


def _decisive(study: Study) -> dict[str, Any]:
    """Return what a study's figures depend on: all but how many sites train at once."""
    values = study.model_dump(mode="json")
    for federation in (values["federation"], *values["federations"].values()):
        del federation["processes"]
    return values


def _require_nothing_else(run: RunDirectory) -> None:
    """Refuse a directory that holds more than what a run leaves that ended before it knew its images."""
    others = {path.name for path in run.root.iterdir()} if run.root.is_dir() else set()
    others -= {name for name in others if name.startswith((".study.yaml.", ".run.json.")) and name.endswith(".tmp")}
    if run.study.is_file():
        try:
            before = load_run_study(run)
            own = dump_study(before) == run.study.read_text(encoding="utf-8")
        except HilumError:
            own = False
        if own:
            others.discard("study.yaml")
            root, cache = run.root.resolve(), cache_of(before).resolve()
            if root in cache.parents:
                others.discard(cache.relative_to(root).parts[0])
    if others:
        raise RunError(
            f"Expected an empty directory for the run; {run.root} holds other files, such as {min(others)}. "
            "Give another --out."
        )


def _tell_other_packages(run: RunDirectory) -> None:
    before = {name: run.fact("packages", name) for name in SAME_NUMBERS}
    other = [f"{name} {was} (now {version(name)})" for name, was in before.items() if was != version(name)]
    if other:
        print(
            f"hilum: this run was begun with {', '.join(other)}: its figures may not repeat to the last digit.",
            file=sys.stderr,
        )


def _tell_unlabelled(sites: Sequence[Site]) -> None:
    for site in sites:
        if site.plan.role == "outside" and np.isnan(site.targets).all():
            print(
                f"hilum: {site.name} labels none of the findings of the study, so that nothing there is tested.",
                file=sys.stderr,
            )


def _describe(
    study: Study, sites: Sequence[Site], shared: Mapping[str, Site], donor: str | None, run: RunDirectory
) -> str:
    """Write what the run and its sites are, and return the precision that the run computes with."""
    digest, beside = images_digest(site.content for site in sites), _describe_shared(shared)
    if (run.root / "run.json").is_file():
        if run.fact("images_sha256") != digest or run.read_json("run.json").get("shared", {}) != beside:
            raise RunError(
                f"Expected the images that {run.root} was begun with; some have changed, come or gone since. "
                "Restore them, or give another --out."
            )
        precision = str(run.fact("precision"))
    else:
        precision = choose_precision(study)
        description = describe_run(study, sites, precision, now())
        run.write_json("run.json", description | {"images_sha256": digest, "shared": beside, "donor": donor})
    run.write_json("sites.json", [describe_site(site) for site in sites])
    for site in sites:
        everything = np.arange(len(site.manifest))
        write_table(run.table("splits", site.name), identify(site, everything).assign(split=site.split))
        _describe_held_out(site, site.indices("test"), run)
        _describe_held_out(site, site.indices("val"), run.validation)
    return precision


def _describe_held_out(site: Site, rows: NDArray[np.int64], into: RunDirectory) -> None:
    labels = pd.DataFrame(site.targets[rows], columns=list(site.findings))
    write_table(into.table("labels", site.name), identify(site, rows).join(labels))
    boxes = site.manifest.boxes
    inside = boxes["image_id"].isin(site.manifest.images["image_id"].to_numpy()[rows])
    write_table(into.table("boxes", site.name), boxes[inside & boxes["finding"].isin(site.findings)])


def _describe_shared(shared: Mapping[str, Site]) -> dict[str, Any]:
    """Return arm → its shared set, counted; say what none of its images shows."""
    for arm, site in shared.items():
        for finding in lacking(site):
            print(f"hilum: the shared images of '{arm}' hold no positive image of '{finding}'.", file=sys.stderr)
    return {
        arm: describe_shared(site) | {"images_sha256": images_digest([site.content])} for arm, site in shared.items()
    }


def _predict(study: Study, sites: Sequence[Site], keys: Sequence[ModelKey], run: RunDirectory, precision: str) -> None:
    chosen = {s.name: choose_gallery(s, study.evaluation.gallery, study.split.seed) for s in sites}
    write_gallery(list(sites), chosen, run)
    held = []
    for site in sites:
        ids = site.manifest.images["image_id"].to_numpy()
        shown = [str(ids[row]) for row in chosen[site.name]]
        held.append((held_out(site, "test", shown), run))
        held.append((held_out(site, "val"), run.validation))
    training = training_sites(sites)
    _tell_unadjusted(study, sites, keys, run)
    with progress("predicting", len(keys) * len(held)) as advance:
        for key in keys:
            for patients, into in held:
                require_sound(study, key, patients, into)
                write_predictions(study, key, patients, training, run, precision, into)
                if into is run:
                    write_shuffled(study, key, patients, run, precision)
                    write_erased(study, key, patients, training, run, precision)
                advance(1, str(key.path))
    if study.evaluation.gallery:
        arm = "federated" if "federated" in study.arms else study.arms[0]
        outcomes, lead = Outcomes(study, run), [key for key in keys if key.arm == arm]
        misses = {s.name: choose_misses(outcomes, _of_site(lead, s.name), s) for s in sites}
        write_gallery(list(sites), chosen, run, misses)


def _tell_unadjusted(study: Study, sites: Sequence[Site], keys: Sequence[ModelKey], run: RunDirectory) -> None:
    if study.evaluation.adjust == "none":
        return
    outside = [site for site in sites if site.plan.role == "outside"]
    left = {key.arm: None for key in keys for site in outside if adjust_at(study, run, key, site) == "none"}
    if left:
        print(
            f"hilum: nothing to adjust in {', '.join(left)}: evaluation.adjust {study.evaluation.adjust} leaves what "
            "these say of outside hospitals as it is.",
            file=sys.stderr,
        )


def _of_site(keys: Sequence[ModelKey], site: str) -> list[ModelKey]:
    """Return the models of one arm that a site would use: a local one of its own, where there is one."""
    return [key for key in keys if key.arm != "local" or key.model == site]
