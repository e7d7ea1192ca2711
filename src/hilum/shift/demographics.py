"""Who the patients of two sites are, and how they were imaged: age, sex and view."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hilum.databases.manifest import VIEWS
from hilum.errors import DataError
from hilum.shift.proportions import Tally, difference
from hilum.shift.samples import Floats

COLUMNS = ("patientid", "view", "age_years", "sex_male")


@dataclass(frozen=True)
class Difference:
    """A figure of two sites: ``value`` = ``a`` − ``b`` with its 95 % interval, and what is known of each.

    ``n_a``, ``n_b``: patients (images for views) of whom it is known; all is NaN where that is too few.
    """

    value: float
    low: float
    high: float
    a: float
    b: float
    n_a: int
    n_b: int


@dataclass(frozen=True)
class Demographics:
    """Differences between two sites: ``age`` in years, ``age_standardized`` in deviations, the share of men
    ``male`` and of each view ``views``, in [−1, 1]."""

    age: Difference
    age_standardized: float
    male: Difference
    views: dict[str, Difference]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON holds them."""
        return asdict(self)


def compare(images_a: pd.DataFrame, images_b: pd.DataFrame) -> Demographics:
    """Compare two tables of images with the columns ``COLUMNS`` (as in a manifest).

    Age and sex count once a patient (mean age over the images; the sex stated most often, unknown on a draw).
    Age: difference of means with Welch's interval, and divided by the root of the mean variance (Cohen's d with
    equal weights). Sex: Newcombe's interval (1998, method 10). Views: shares of the images whose view is stated;
    Newcombe's interval at the effective number of images, as the images of a patient are alike.
    Raises ``DataError``.
    """
    for images in (images_a, images_b):
        missing = [c for c in COLUMNS if c not in images]
        if missing:
            raise DataError(f"Expected the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}.")
    ages = [_of_patients(images, "age_years") for images in (images_a, images_b)]
    sexes = [_of_patients(images, "sex_male") for images in (images_a, images_b)]
    men = [Tally.of(s[s != 0.5] > 0.5, np.arange((s != 0.5).sum())) for s in sexes]
    found = [view for view in VIEWS if any((i["view"] == view).any() for i in (images_a, images_b))]
    views = {view: _shares(_view_tally(images_a, view), _view_tally(images_b, view)) for view in found}
    age, standardized = _means(*ages)
    return Demographics(age, standardized, _shares(*men), views)


def _of_patients(images: pd.DataFrame, column: str) -> Floats:
    values = images[column].astype(np.float64).groupby(images["patientid"].to_numpy()).mean()
    return np.asarray(values.dropna(), np.float64)


def _view_tally(images: pd.DataFrame, view: str) -> Tally:
    stated = images[images["view"].isin(VIEWS)]
    return Tally.of(stated["view"] == view, pd.factorize(stated["patientid"])[0])


def _shares(a: Tally, b: Tally) -> Difference:
    value, low, high = difference(a, b)
    return Difference(value, low, high, a.rate, b.rate, a.images, b.images)


def _means(a: Floats, b: Floats) -> tuple[Difference, float]:
    """Return the difference of means with Welch's interval, and the standardized difference."""
    from scipy.stats import t

    mean_a, mean_b = (float(x.mean()) if len(x) else math.nan for x in (a, b))
    nothing = Difference(mean_a - mean_b, math.nan, math.nan, mean_a, mean_b, len(a), len(b))
    if min(len(a), len(b)) < 2:
        return nothing, math.nan
    var_a, var_b = float(a.var(ddof=1)), float(b.var(ddof=1))
    parts = var_a / len(a), var_b / len(b)
    if not sum(parts) > 0:
        return nothing, math.nan
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    value, half = mean_a - mean_b, float(t.ppf(0.975, freedom)) * math.sqrt(sum(parts))
    age = Difference(value, value - half, value + half, mean_a, mean_b, len(a), len(b))
    return age, value / math.sqrt((var_a + var_b) / 2)
