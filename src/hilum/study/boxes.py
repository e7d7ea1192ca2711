"""Maps of an image → boxes, cut and scored as 'hilum evaluate' cuts and scores those of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from hilum.localization.components import detect
from hilum.study.evaluation.tuning import Tuned

COLUMNS = ("image", "finding", "score", "x0", "y0", "x1", "y1")
Row = tuple[str, str, float, float, float, float, float]


def boxes_of(
    image: str,
    maps: Mapping[str, NDArray[np.float32]],
    probabilities: Mapping[str, float],
    shape: tuple[int, int],
    tuned: Mapping[str, Tuned],
) -> Iterator[Row]:
    """Yield the ``COLUMNS`` of an image's boxes, finding by finding and from the highest score to the lowest.

    ``maps``: finding → map (h, w) that covers the image; ``shape``: its height and width in px, in which corners are.
    A finding that is not ``tuned`` is cut by Otsu's method, and its scores are those of ``detect``, uncalibrated.
    """
    height, width = shape
    for finding, heat in maps.items():
        fitted = tuned.get(finding, Tuned())
        (found,) = detect(heat[None].astype(np.float64), [probabilities[finding]], fitted.threshold)
        scores = fitted.box_score(found.scores) if fitted.images else found.scores
        corners = found.boxes * (width, height, width, height)
        for k in np.argsort(-scores, kind="stable"):
            x0, y0, x1, y1 = corners[k].tolist()
            yield image, finding, float(scores[k]), x0, y0, x1, y1
