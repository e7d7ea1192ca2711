"""Phantom hospitals: each with its own scanner, patients, prevalence and label space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hilum.databases.phantoms.render import PHANTOM_FINDINGS
from hilum.databases.phantoms.scanner import Scanner
from hilum.errors import UnknownName


@dataclass(frozen=True)
class Hospital:
    """A synthetic hospital.

    ``prevalence``: share of images with a finding (absent: 0). ``labelled``: findings whose columns are
    written; what is drawn and not labelled is unknown. ``positives``: findings whose positives are recorded,
    None for all that are labelled; other labelled findings are then 0 on images without any finding and
    blank elsewhere. ``device``: finding → probability that a support device is drawn with it, on top of the
    prevalence of 'Support Devices'. ``pa``: share of PA views. ``patients``: how many it has unless asked
    for another number of images. ``visits``: probabilities of 1, 2, 3 images a patient.
    """

    name: str
    scanner: Scanner
    prevalence: Mapping[str, float]
    labelled: tuple[str, ...]
    positives: tuple[str, ...] | None = None
    device: Mapping[str, float] = field(default_factory=dict)
    pa: float = 1.0
    male: float = 0.54
    age: tuple[float, float] = (50.0, 17.0)
    patients: int = 1000
    visits: tuple[float, float, float] = (0.6, 0.25, 0.15)


def _share(*values: float) -> Mapping[str, float]:
    """Prevalences in the order of ``PHANTOM_FINDINGS``."""
    return dict(zip(PHANTOM_FINDINGS, values, strict=True))


# Cardiomegaly, Atelectasis, Effusion, Infiltration, Mass, Nodule, Pneumonia, Pneumothorax, Edema, Fibrosis,
# Tuberculosis, Support Devices
HARBOUR = Hospital(
    "harbour",
    Scanner(gamma=0.95, noise=0.025, blur=0.0040, marker="R", marker_y=0.04, collimation=0.015),
    _share(0.08, 0.20, 0.16, 0.28, 0.06, 0.10, 0.04, 0.02, 0.02, 0.03, 0.01, 0.03),
    ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule"),
    pa=0.75,
    patients=1250,
)
NORTHGATE = Hospital(
    "northgate",
    Scanner(
        gamma=1.25,
        latitude=0.85,
        exposure=0.03,
        exposure_sd=0.05,
        noise=0.045,
        blur=0.0055,
        collimation=0.05,
        vignette=0.06,
        marker="L",
        marker_y=0.86,
        marker_gray=0.35,
    ),
    _share(0.14, 0.22, 0.30, 0.18, 0.02, 0.03, 0.10, 0.08, 0.14, 0.01, 0.01, 0.05),
    ("Atelectasis", "Cardiomegaly", "Edema", "Effusion", "Pneumonia", "Pneumothorax"),
    device={"Pneumothorax": 0.85},
    pa=0.15,
    age=(63.0, 16.0),
    patients=650,
    visits=(0.4, 0.3, 0.3),
)
SUMMIT = Hospital(
    "summit",
    Scanner(
        gamma=0.80,
        latitude=1.15,
        exposure=-0.02,
        noise=0.016,
        blur=0.0030,
        sharpen=0.7,
        marker="L",
        marker_y=0.06,
        marker_gray=0.7,
    ),
    _share(0.04, 0.10, 0.14, 0.15, 0.12, 0.26, 0.07, 0.06, 0.01, 0.09, 0.08, 0.03),
    ("Effusion", "Fibrosis", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax", "Tuberculosis"),
    pa=0.95,
    age=(60.0, 13.0),
    patients=500,
)
MEADOW = Hospital(
    "meadow",
    Scanner(
        gamma=1.05,
        latitude=1.05,
        exposure=-0.05,
        noise=0.035,
        blur=0.0065,
        vignette=0.12,
        collimation=0.03,
        marker="R",
        marker_y=0.12,
        marker_gray=0.4,
    ),
    _share(0.02, 0.02, 0.03, 0.04, 0.01, 0.03, 0.03, 0.01, 0.0, 0.03, 0.15, 0.0),
    ("Effusion", "Infiltration", "Nodule", "Pneumonia", "Tuberculosis"),
    positives=("Tuberculosis",),
    male=0.5,
    age=(42.0, 18.0),
    patients=900,
    visits=(1.0, 0.0, 0.0),
)
OUTSIDE = Hospital(
    "outside",
    Scanner(
        gamma=1.10,
        latitude=0.95,
        exposure=0.01,
        exposure_sd=0.03,
        noise=0.030,
        blur=0.0048,
        sharpen=0.3,
        collimation=0.04,
        vignette=0.03,
        marker="R",
        marker_y=0.84,
    ),
    _share(0.10, 0.14, 0.18, 0.20, 0.06, 0.10, 0.07, 0.05, 0.05, 0.04, 0.04, 0.08),
    PHANTOM_FINDINGS,
    pa=0.6,
    patients=700,
)

HOSPITALS: dict[str, Hospital] = {h.name: h for h in (HARBOUR, NORTHGATE, SUMMIT, MEADOW, OUTSIDE)}


def hospital_named(name: str) -> Hospital:
    """Return a hospital of the table; raises ``UnknownName``."""
    if name not in HOSPITALS:
        raise UnknownName("phantom hospital", name, HOSPITALS)
    return HOSPITALS[name]
