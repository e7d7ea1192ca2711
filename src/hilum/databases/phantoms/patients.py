"""Who is radiographed and with what: patients, their visits and their co-occurring findings.

Findings come from a Gaussian copula: marginals are the hospital's prevalences, the correlations of the
latent normals those of ``CO_OCCURRENCE``; a patient's visits share most of the latent vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hilum.databases.phantoms.anatomy import Anatomy, draw_anatomy
from hilum.databases.phantoms.hospitals import Hospital
from hilum.databases.phantoms.render import PHANTOM_FINDINGS
from hilum.randomness import numpy_generator

DEVICE = "Support Devices"
PERSISTENCE = 0.7  # share of the latent variance that a patient's visits have in common

CO_OCCURRENCE: dict[tuple[str, str], float] = {
    ("Effusion", "Atelectasis"): 0.42,
    ("Effusion", "Cardiomegaly"): 0.30,
    ("Effusion", "Mass"): 0.25,
    ("Effusion", "Edema"): 0.30,
    ("Effusion", "Pneumonia"): 0.15,
    ("Edema", "Cardiomegaly"): 0.35,
    ("Infiltration", "Pneumonia"): 0.25,
    ("Infiltration", "Atelectasis"): 0.15,
    ("Infiltration", "Edema"): 0.20,
    ("Mass", "Nodule"): 0.35,
    ("Fibrosis", "Tuberculosis"): 0.25,
}


@dataclass(frozen=True)
class Visit:
    """One radiograph to be drawn."""

    image: int
    patient: int
    view: str
    age_years: float
    sex_male: int
    findings: frozenset[str]
    anatomy: Anatomy


@lru_cache(maxsize=1)
def _correlation_root() -> NDArray[np.float64]:
    matrix = np.eye(len(PHANTOM_FINDINGS))
    for (a, b), value in CO_OCCURRENCE.items():
        i, j = PHANTOM_FINDINGS.index(a), PHANTOM_FINDINGS.index(b)
        matrix[i, j] = matrix[j, i] = value
    return np.asarray(np.linalg.cholesky(matrix), np.float64)


def visits(hospital: Hospital, images: int, seed: int) -> Iterator[Visit]:
    """Yield the first ``images`` radiographs of a hospital; asking for more leaves the first as they are."""
    thresholds = ndtri([hospital.prevalence.get(name, 0.0) for name in PHANTOM_FINDINGS])
    image = patient = 0
    while image < images:
        rng = numpy_generator(seed, hospital.name, "patient", patient)
        male = bool(rng.random() < hospital.male)
        age = float(np.clip(np.round(rng.normal(*hospital.age)), 16, 95))
        anatomy, latent = draw_anatomy(rng, male), rng.standard_normal(len(PHANTOM_FINDINGS))
        for _ in range(min(1 + int(rng.choice(3, p=hospital.visits)), images - image)):
            own = rng.standard_normal(len(PHANTOM_FINDINGS))
            normal = np.sqrt(PERSISTENCE) * latent + np.sqrt(1 - PERSISTENCE) * own
            present = _correlation_root() @ normal < thresholds
            drawn = {name for name, p in zip(PHANTOM_FINDINGS, present, strict=True) if p}
            drawn |= {DEVICE for name, p in hospital.device.items() if rng.random() < p and name in drawn}
            view = "PA" if rng.random() < hospital.pa else "AP"
            yield Visit(image, patient, view, age, int(male), frozenset(drawn), anatomy)
            image += 1
        patient += 1


def default_images(hospital: Hospital) -> int:
    """Return the expected number of images of a hospital's patients."""
    return round(hospital.patients * (1 + hospital.visits[1] + 2 * hospital.visits[2]))


def labels_of(hospital: Hospital, findings: frozenset[str]) -> dict[str, int | None]:
    """Return what a hospital writes for an image: 1, 0 or None (unknown), one entry a labelled finding."""
    recorded = hospital.labelled if hospital.positives is None else hospital.positives
    healthy = findings <= {DEVICE}
    return {name: int(name in findings) if name in recorded else (0 if healthy else None) for name in hospital.labelled}


def known_positives(hospital: Hospital, findings: frozenset[str]) -> tuple[str, ...]:
    """Return the findings that a hospital records as present in an image."""
    return tuple(name for name, label in labels_of(hospital, findings).items() if label == 1)
