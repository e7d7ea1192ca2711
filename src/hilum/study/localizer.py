"""What makes the maps of a study."""

from __future__ import annotations

from hilum.errors import StudyError
from hilum.localization.localizers import LOCALIZERS
from hilum.localization.localizers.base import Localizer
from hilum.study.spec import Study


def build_localizer(study: Study) -> Localizer | None:
    """Return what makes maps after the fact; None where the model's own are wanted, which come with its predictions.

    Raises ``StudyError`` for options out of range, ``MissingExtra``.
    """
    spec = study.evaluation.localizer
    if spec.name == "map":
        return None
    try:
        localizer: Localizer = LOCALIZERS.load(spec.name)(**(spec.model_extra or {}))
    except (TypeError, ValueError) as error:
        raise StudyError(f"evaluation.localizer: {error}.") from error
    return localizer
