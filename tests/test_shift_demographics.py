"""Age, sex and view: SciPy's Welch interval, patients counted once, what is not stated left out."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from hilum.errors import DataError
from hilum.shift.demographics import compare


def table(ages, male, views=None, patients=None):
    n = len(ages)
    columns = {"patientid": patients or [str(k) for k in range(n)], "view": views or ["PA"] * n}
    return pd.DataFrame({**columns, "age_years": ages, "sex_male": male})


def test_age_is_welch_and_the_standardized_difference():
    rng = np.random.default_rng(0)
    a, b = rng.normal(60, 10, 80), rng.normal(50, 20, 50)
    found = compare(table(a, [1.0] * 80), table(b, [0.0] * 50))
    oracle = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.age.low, found.age.high) == pytest.approx((oracle.low, oracle.high))
    assert found.age.value == pytest.approx(a.mean() - b.mean())
    pooled = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert found.age_standardized == pytest.approx((a.mean() - b.mean()) / pooled)
    assert (found.male.value, found.male.n_a, found.male.n_b) == (1, 80, 50)
    assert 0.9 < found.male.low < 1


def test_patients_count_once_and_the_unknown_not_at_all():
    patients = ["a", "a", "a", "b", "c", "d"]
    first = table([30, 30, 33, 50, np.nan, 40], [1, 1, 1, 0, np.nan, 1], patients=patients)
    second = table([np.nan] * 2, [np.nan] * 2, views=[np.nan, "LATERAL"])
    found = compare(first, second)
    assert (found.age.a, found.age.n_a, found.age.n_b) == (pytest.approx((31 + 50 + 40) / 3), 3, 0)
    assert np.isnan([found.age.value, found.age.low, found.age_standardized, found.male.value, found.male.low]).all()
    assert (found.male.a, found.male.n_a) == (pytest.approx(2 / 3), 3)
    assert list(found.views) == ["PA", "LATERAL"]
    assert (found.views["PA"].value, found.views["LATERAL"].value, found.views["LATERAL"].n_b) == (1, -1, 1)


def test_a_patient_of_both_sexes_is_unknown():
    found = compare(table([1, 2], [1, 0], patients=["a", "a"]), table([1, 2], [1, 0]))
    assert (found.male.n_a, found.male.n_b) == (0, 2)


def test_many_films_of_a_patient_do_not_narrow_the_interval_of_a_view():
    views = ["AP"] * 20 + ["PA"] * 20
    once = table([50] * 40, [1] * 40, views)
    often = once.loc[once.index.repeat(6)]
    other = table([50] * 40, [1] * 40, ["PA"] * 40)
    first, second = compare(once, other).views["AP"], compare(often, other).views["AP"]
    assert (second.value, second.low, second.high) == pytest.approx((first.value, first.low, first.high))
    assert (first.value, second.n_a) == (0.5, 240)
    assert first.low < 0.5 < first.high


def test_equal_ages_have_no_interval_and_it_all_goes_into_json():
    found = compare(table([50] * 4, [1, 0, 1, 0]), table([40] * 4, [1, 0, 1, 0]))
    assert found.age.value == 10
    assert np.isnan(found.age.low)
    assert json.loads(json.dumps(found.to_dict()))["male"]["value"] == 0


def test_refuses_a_table_without_the_columns():
    with pytest.raises(DataError, match="missing: sex_male"):
        compare(table([1], [1]).drop(columns="sex_male"), table([1], [1]))
