"""The label strings of PadChest, and the findings that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hilum.databases.positive_lists import NOTHING_SAID, Listed, by_name, columns_of, union
from hilum.findings.vocabulary import NO_FINDING

NORMAL, UNCHANGED, SUBOPTIMAL, EXCLUDE = "normal", "unchanged", "suboptimal study", "exclude"
NOT_FINDINGS = frozenset({UNCHANGED, SUBOPTIMAL, EXCLUDE})
"""'unchanged': the report compares with an earlier one; 'exclude': it describes no finding; or the film is poor."""

_GROUPS = {
    "Atelectasis": (
        "atelectasis; laminar atelectasis; lobar atelectasis; round atelectasis; "
        "segmental atelectasis; total atelectasis"
    ),
    "Consolidation": "consolidation",
    "Infiltration": (
        "infiltrates; interstitial pattern; ground glass pattern; reticular interstitial pattern; "
        "reticulonodular interstitial pattern; miliary opacities; alveolar pattern; consolidation; air bronchogram"
    ),
    "Pneumothorax": "pneumothorax; hydropneumothorax",
    "Edema": "pulmonary edema",
    "Emphysema": "emphysema",
    "Fibrosis": "pulmonary fibrosis",
    "Effusion": "pleural effusion; loculated pleural effusion",
    "Pneumonia": "pneumonia; atypical pneumonia",
    "Pleural_Thickening": "pleural thickening; apical pleural thickening; calcified pleural thickening",
    "Cardiomegaly": "cardiomegaly",
    "Nodule": "nodule; multiple nodules",
    "Mass": "mass; pulmonary mass",
    "Nodule/Mass": "nodule; multiple nodules; mass; pulmonary mass",
    "Hernia": "hiatal hernia",
    "Hiatal Hernia": "hiatal hernia",
    "Fracture": "fracture; clavicle fracture; humeral fracture; rib fracture; callus rib fracture; vertebral fracture",
    "Rib Fracture": "rib fracture",
    "Clavicle Fracture": "clavicle fracture",
    "Enlarged Cardiomediastinum": "mediastinal enlargement; superior mediastinal enlargement",
    "Tuberculosis": "tuberculosis",
    "Obsolete Tuberculosis": "tuberculosis sequelae",
    "Support Devices": (
        "NSG tube; endotracheal tube; tracheostomy tube; chest drain tube; gastrostomy tube; "
        "ventriculoperitoneal drain tube; nephrostomy tube; double J stent; catheter; central venous catheter; "
        "central venous catheter via jugular vein; central venous catheter via subclavian vein; "
        "central venous catheter via umbilical vein; reservoir central venous catheter; pacemaker; dai; "
        "dual chamber device; single chamber device; electrical device; artificial heart valve; "
        "artificial aortic heart valve; artificial mitral heart valve"
    ),
    "Pacemaker": "pacemaker",
    "Calcification": (
        "calcified densities; calcified granuloma; calcified adenopathy; calcified mediastinal adenopathy; "
        "calcified pleural thickening; calcified pleural plaques"
    ),
    "Granuloma": "granuloma; calcified granuloma",
    "Lung Metastasis": "lung metastasis",
    "Lung Cavity": "cavitation",
    "Bronchiectasis": "bronchiectasis",
    "COPD": "COPD signs",
    "Hyperinflation": "hyperinflated lung",
    "Flattened Diaphragm": "flattened diaphragm",
    "Subcutaneous Emphysema": "subcutaneous emphysema",
    "Aortic Enlargement": "aortic aneurysm; aortic button enlargement",
    "Aortic Elongation": "aortic elongation; ascendent aortic elongation; descendent aortic elongation",
    "Enlarged Pulmonary Artery": "pulmonary artery enlargement",
    "Hilar Enlargement": "hilar enlargement; vascular hilar enlargement",
    "Mediastinal Shift": "mediastinal shift",
    "Azygos Lobe": "azygos lobe",
    "Scoliosis": "scoliosis",
    NO_FINDING: NORMAL,
}

_LEFT_OPEN = {
    "Atelectasis": "atelectasis basal",
    "Effusion": "loculated fissural effusion; hydropneumothorax; empyema",
    "Consolidation": "air bronchogram",
    "Emphysema": "bullas",
    "Fibrosis": "fibrotic band; asbestosis signs",
    "Fracture": "vertebral compression; vertebral anterior compression",
    "Rib Fracture": "callus rib fracture; fracture",
    "Clavicle Fracture": "fracture",
    "Enlarged Cardiomediastinum": "cardiomegaly; mediastinal mass",
    "Tuberculosis": "tuberculosis sequelae",
    "Pacemaker": "dual chamber device; single chamber device; electrical device",
    "Calcification": "heart valve calcified; calcified fibroadenoma; aortic atheromatosis",
    "Hyperinflation": "air trapping",
    "Aortic Elongation": "supra aortic elongation; aortic button enlargement",
    "Hilar Enlargement": "adenopathy; pulmonary artery enlargement",
}

_OTHERS = (
    "abnormal foreign body; abscess; adenopathy; air fluid level; air trapping; aortic atheromatosis; "
    "atelectasis basal; loculated fissural effusion; empyema; "
    "aortic endoprosthesis; asbestosis signs; axial hyperostosis; azygoesophageal recess shift; "
    "blastic bone lesion; bone cement; bone metastasis; breast mass; bronchovascular markings; bullas; "
    "calcified fibroadenoma; central vascular redistribution; cervical rib; Chilaiditi sign; chronic changes; "
    "costochondral junction hypertrophy; costophrenic angle blunting; cyst; dextrocardia; diaphragmatic eventration; "
    "end on vessel; endoprosthesis; esophagic dilatation; external foreign body; fibrotic band; fissure thickening; "
    "goiter; gynecomastia; heart insufficiency; heart valve calcified; hemidiaphragm elevation; hilar congestion; "
    "humeral prosthesis; hypoexpansion; hypoexpansion basal; increased density; kerley lines; kyphosis; "
    "lepidic adenocarcinoma; lipomatosis; lung vascular paucity; lymphangitis carcinomatosa; lytic bone lesion; "
    "major fissure thickening; mammary prosthesis; mastectomy; mediastinal mass; mediastinic lipomatosis; metal; "
    "minor fissure thickening; nipple shadow; non axial articular degenerative changes; obesity; osteopenia; "
    "osteoporosis; osteosynthesis material; pectum carinatum; pectum excavatum; pericardial effusion; pleural mass; "
    "pleural plaques; pneumomediastinum; pneumoperitoneo; post radiotherapy changes; prosthesis; pseudonodule; "
    "pulmonary artery hypertension; pulmonary hypertension; pulmonary venous hypertension; respiratory distress; "
    "right sided aortic arch; sclerotic bone lesion; soft tissue mass; sternoclavicular junction hypertrophy; "
    "sternotomy; subacromial space narrowing; supra aortic elongation; surgery; surgery breast; surgery heart; "
    "surgery humeral; surgery lung; surgery neck; suture material; thoracic cage deformation; tracheal shift; "
    "vascular redistribution; vertebral anterior compression; vertebral compression; vertebral degenerative changes; "
    "volume loss"
)


FINDINGS_OF = by_name(_GROUPS)
"""String → the findings that it means; groups follow the tree of radiological findings of Bustos et al. 2020."""
LEFT_OPEN = by_name(_LEFT_OPEN)
"""String → findings that it is near to without naming them, which are unknown on such an image."""
STRINGS = frozenset({*FINDINGS_OF, *_OTHERS.split("; "), *NOT_FINDINGS})
COLUMNS = columns_of(FINDINGS_OF)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def strings_of(cell: str) -> list[str] | None:
    """Return the strings of a cell such as "['pneumonia', ' unchanged']", or None where it is no such list.

    An empty string in the list is a sentence of the report to which no label was given; it is left out.
    """
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    found = ((single or double).strip() for single, double in _QUOTED.findall(text))
    return list(dict.fromkeys(string for string in found if string))


def listed_by(strings: Iterable[str]) -> Listed:
    """Return what the strings of one image say of the findings."""
    named = frozenset(strings)
    if not named - NOT_FINDINGS:
        return NOTHING_SAID
    present, left_open = union(FINDINGS_OF, named), union(LEFT_OPEN, named)
    whole, abnormal = not named & NOT_FINDINGS, bool(named - NOT_FINDINGS - {NORMAL})
    return Listed(present, left_open, whole, abnormal)
