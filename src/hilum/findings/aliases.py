"""What each database calls a finding."""

from __future__ import annotations

from typing import NamedTuple

from hilum.errors import DataError
from hilum.findings.vocabulary import FINDINGS


class Alias(NamedTuple):
    """One name as a database writes it, and the finding that it means."""

    name: str
    database: str
    finding: str


ALIASES: tuple[Alias, ...] = (
    Alias("Infiltrate", "nih14", "Infiltration"),  # BBox_List_2017.csv
    Alias("ActiveTuberculosis", "tbx11k", "Active Tuberculosis"),
    Alias("ObsoletePulmonaryTuberculosis", "tbx11k", "Obsolete Tuberculosis"),
    Alias("PulmonaryTuberculosis", "tbx11k", "Tuberculosis"),
    Alias("PNEUMONIA", "kermany", "Pneumonia"),
    Alias("NORMAL", "kermany", "No Finding"),
    Alias("bacteria", "kermany", "Bacterial Pneumonia"),
    Alias("virus", "kermany", "Viral Pneumonia"),
    Alias("Airspace opacity", "nih14_google", "Lung Opacity"),  # test_labels.csv, validation_labels.csv
    Alias("Nodule or mass", "nih14_google", "Nodule/Mass"),
    Alias("Pleural Thickening", "nih14_google", "Pleural_Thickening"),  # all_findings_expert_labels
    Alias("Pleural Effusion", "chexpert", "Effusion"),  # train.csv, valid.csv
    Alias("Pleural Effusion", "chexlocalize", "Effusion"),  # val_labels.csv, test_labels.csv, gt_segmentations_*.json
    Alias("Airspace Opacity", "chexlocalize", "Lung Opacity"),  # gt_segmentations_*.json
    Alias("Pleural Effusion", "mimic_cxr", "Effusion"),  # mimic-cxr-2.0.0-chexpert.csv.gz, -negbio.csv.gz
    Alias("Airspace Opacity", "mimic_cxr", "Lung Opacity"),  # mimic-cxr-2.1.0-test-set-labeled.csv
    Alias("Aortic enlargement", "vindr", "Aortic Enlargement"),  # train.csv; annotations_*.csv, image_labels_*.csv
    Alias("Clavicle fracture", "vindr", "Clavicle Fracture"),
    Alias("Enlarged PA", "vindr", "Enlarged Pulmonary Artery"),
    Alias("ILD", "vindr", "Interstitial Lung Disease"),
    Alias("Lung cavity", "vindr", "Lung Cavity"),
    Alias("Lung cyst", "vindr", "Lung Cyst"),
    Alias("Lung tumor", "vindr", "Lung Tumor"),
    Alias("Mediastinal shift", "vindr", "Mediastinal Shift"),
    Alias("No finding", "vindr", "No Finding"),
    Alias("Other disease", "vindr", "Other Disease"),
    Alias("Other diseases", "vindr", "Other Disease"),
    Alias("Other lesion", "vindr", "Other Lesion"),
    Alias("Pleural effusion", "vindr", "Effusion"),
    Alias("Pleural thickening", "vindr", "Pleural_Thickening"),
    Alias("Pulmonary fibrosis", "vindr", "Fibrosis"),
    Alias("Rib fracture", "vindr", "Rib Fracture"),
)

_TABLE = {(alias.database, alias.name): alias.finding for alias in ALIASES}


def finding_of(database: str, name: str) -> str:
    """Return the finding that ``database`` calls ``name``; raises ``DataError`` for an unknown name."""
    name = name.strip()
    if name in FINDINGS:
        return name
    try:
        return _TABLE[database, name]
    except KeyError:
        raise DataError(
            f"{database}: expected a finding of the vocabulary or one of its aliases; found '{name}'. "
            "Correct the label file; 'hilum list findings' names the vocabulary."
        ) from None
