"""The MeSH terms of the Indiana University reports, and the findings that they mean.

A term such as 'Opacity/lung/base/left' is a heading with qualifiers. An entry below holds for a term that has its
heading and all of its qualifiers.
"""

from __future__ import annotations

from collections.abc import Iterable

from hilum.databases.positive_lists import NOTHING_SAID, Listed, by_name, columns_of, union
from hilum.findings.vocabulary import NO_FINDING

NORMAL = "normal"
NOT_FINDINGS = frozenset({"no indexing", "technical quality of image unsatisfactory"})

FINDINGS_OF = by_name(
    {
        "Atelectasis": "pulmonary atelectasis",
        "Consolidation": "consolidation",
        "Infiltration": "infiltrate",
        "Pneumothorax": "pneumothorax",
        "Edema": "pulmonary edema",
        "Emphysema": "emphysema; pulmonary emphysema; bullous emphysema",
        "Fibrosis": "pulmonary fibrosis; fibrosis",
        "Effusion": "pleural effusion",
        "Pneumonia": "pneumonia",
        "Pleural_Thickening": "thickening/pleura",
        "Cardiomegaly": "cardiomegaly",
        "Nodule": "nodule/lung",
        "Mass": "mass/lung",
        "Nodule/Mass": "nodule/lung; mass/lung",
        "Hernia": "hernia, hiatal; hernia, diaphragmatic",
        "Hiatal Hernia": "hernia, hiatal",
        "Fracture": "fractures, bone",
        "Rib Fracture": "fractures, bone/ribs",
        "Clavicle Fracture": "fractures, bone/clavicle",
        "Lung Opacity": "opacity/lung; airspace disease",
        "Enlarged Cardiomediastinum": "mediastinum/enlarged",
        "Tuberculosis": "tuberculosis",
        "Support Devices": "catheters, indwelling; implanted medical device; medical device; tube, inserted",
        "Interstitial Lung Disease": "lung diseases, interstitial",
        "Calcification": (
            "calcified granuloma; calcinosis/lung; calcinosis/hilum; calcinosis/lymph nodes; calcinosis/mediastinum; "
            "calcinosis/pleura"
        ),
        "Granuloma": "granuloma; calcified granuloma",
        "Lung Cavity": "cavitation",
        "Lung Cyst": "cysts/lung",
        "Bronchiectasis": "bronchiectasis",
        "COPD": "pulmonary disease, chronic obstructive",
        "Hyperinflation": "lung/hyperdistention",
        "Flattened Diaphragm": "diaphragm/flattened",
        "Subcutaneous Emphysema": "subcutaneous emphysema",
        "Aortic Enlargement": "aorta/enlarged; aorta, thoracic/enlarged; aortic aneurysm",
        "Aortic Elongation": "aorta/tortuous; aorta, thoracic/tortuous",
        "Enlarged Pulmonary Artery": "pulmonary artery/enlarged",
        "Hilar Enlargement": "lung/hilum/enlarged",
        "Mediastinal Shift": "shift/mediastinum",
        "Azygos Lobe": "lung/azygos lobe",
        "Scoliosis": "scoliosis",
        NO_FINDING: NORMAL,
    }
)
"""Entry → the findings that it means."""

LEFT_OPEN = by_name(
    {
        "Pneumothorax": "hydropneumothorax; hemopneumothorax",
        "Effusion": "hydropneumothorax; hemopneumothorax; hemothorax",
        "Cardiomegaly": "cardiac shadow/enlarged; heart atria/enlarged; heart ventricles/enlarged",
        "Enlarged Cardiomediastinum": "cardiac shadow/enlarged; cardiomegaly; mediastinum/prominent",
        "Lung Opacity": (
            "opacity; density/lung; infiltrate; consolidation; pneumonia; pulmonary atelectasis; pulmonary edema; "
            "nodule; mass"
        ),
        "Nodule": "nodule",
        "Mass": "mass",
        "Nodule/Mass": "nodule; mass",
        "Fibrosis": "cicatrix/lung",
        "Emphysema": "blister/lung",
        "Lung Cyst": "blister/lung",
        "Granuloma": "granulomatous disease",
        "Calcification": "calcinosis",
        "Hyperinflation": "lung, hyperlucent",
        "Enlarged Pulmonary Artery": "pulmonary artery/prominent",
        "Hilar Enlargement": "lung/hilum/prominent",
        "Rib Fracture": "deformity/ribs",
    }
)
"""Entry → findings that it is near to without naming them, which are unknown in such a report."""

COLUMNS = columns_of(FINDINGS_OF)
_ENTRIES = {entry: frozenset(entry.split("/")) for entry in {*FINDINGS_OF, *LEFT_OPEN}}


def listed_by(terms: Iterable[str]) -> Listed:
    """Return what the terms of one report say of the findings."""
    parts = [[" ".join(part.split()).casefold() for part in term.split("/")] for term in terms]
    headings = {part[0] for part in parts}
    if not headings - NOT_FINDINGS:
        return NOTHING_SAID
    held = {entry for part in parts for entry, names in _ENTRIES.items() if _holds(entry, names, part)}
    whole, abnormal = not headings & NOT_FINDINGS, bool(headings - NOT_FINDINGS - {NORMAL})
    return Listed(union(FINDINGS_OF, held), union(LEFT_OPEN, held), whole, abnormal)


def _holds(entry: str, names: frozenset[str], part: list[str]) -> bool:
    return entry.partition("/")[0] == part[0] and names <= set(part)
