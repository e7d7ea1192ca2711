"""The names of findings. The first eighteen are torchxrayvision's, spelled as it spells them."""

from __future__ import annotations

from hilum.errors import UnknownName

NO_FINDING = "No Finding"

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
    NO_FINDING,
    "Tuberculosis",
    "Active Tuberculosis",
    "Obsolete Tuberculosis",
    "COVID-19",
    "Bacterial Pneumonia",
    "Viral Pneumonia",
    "Support Devices",
    "Pleural Other",
    "Severe COVID-19",
    "Nodule/Mass",
    "Interstitial Lung Disease",
    "Calcification",
    "Other Lesion",
    "Other Disease",
    "Lung Tumor",
    "Lung Metastasis",
    "Lung Cavity",
    "Lung Cyst",
    "Granuloma",
    "Bronchiectasis",
    "COPD",
    "Hyperinflation",
    "Flattened Diaphragm",
    "Subcutaneous Emphysema",
    "Aortic Enlargement",
    "Aortic Elongation",
    "Enlarged Pulmonary Artery",
    "Hilar Enlargement",
    "Mediastinal Shift",
    "Hiatal Hernia",
    "Azygos Lobe",
    "Scoliosis",
    "Rib Fracture",
    "Clavicle Fracture",
    "Pacemaker",
)

ANATOMY: tuple[str, ...] = ("Left Lung", "Right Lung")
"""What a mask may show besides findings; left and right are the patient's."""


def require_finding(name: str) -> str:
    """Return ``name`` if it is in the vocabulary; raises ``UnknownName`` with the nearest name."""
    if name not in FINDINGS:
        raise UnknownName("finding", name, FINDINGS)
    return name
