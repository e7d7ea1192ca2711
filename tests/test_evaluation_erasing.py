"""Disease or site: a score that looks at lesions, one that knows the hospital, one that reads the border."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from hilum.evaluation.erasing import border_effect, lesion_effect

N = 60
PATIENTS = np.arange(N) // 2


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, shape or (N,))


def test_a_score_that_looks_at_lesions_loses_more_with_them() -> None:
    whole = 3 + noise(0)
    effect = lesion_effect(whole, whole - 2 + noise(1), whole - 0.1 + noise(2), PATIENTS, resamples=200)
    assert effect.lesions.value == pytest.approx(2, abs=0.2)
    assert effect.control.value == pytest.approx(0.1, abs=0.2)
    assert effect.difference.value == pytest.approx(effect.lesions.value - effect.control.value)
    assert effect.difference.low > 1.5
    assert effect.p < 1e-4


def test_a_score_that_knows_the_hospital_loses_as_little_with_either() -> None:
    effect = lesion_effect(6 + noise(0), 6 + noise(1), 6 + noise(2), PATIENTS, resamples=200)
    assert effect.difference.low < 0 < effect.difference.high
    assert effect.p > 0.05
    still = lesion_effect(np.ones(N), np.ones(N), np.ones(N), PATIENTS, resamples=20)
    assert (still.difference.value, still.p) == (0, 1)


def test_a_patient_is_one_witness_and_seeds_are_averaged() -> None:
    whole, lesions, control = (5 + noise(k, 2, N) for k in (0, 1, 2))
    effect = lesion_effect(whole, lesions, control, PATIENTS, resamples=20)
    beyond = (control - lesions).mean(axis=0).reshape(-1, 2).mean(axis=1)
    assert effect.p == pytest.approx(wilcoxon(beyond).pvalue)
    assert effect.difference.value == pytest.approx(beyond.mean())


def test_few_images_have_no_p() -> None:
    assert np.isnan(lesion_effect(np.ones(9), np.zeros(9), np.ones(9), np.arange(9), resamples=20).p)


def test_one_film_has_no_interval() -> None:
    effect = lesion_effect([1.0], [0.0], [1.0], ["a"], resamples=20)
    assert effect.difference.value == 1
    assert np.isnan([effect.difference.low, effect.difference.high]).all()


def test_what_the_border_alone_tells() -> None:
    targets = np.arange(N) % 2
    disease, marker = 2 * targets + noise(0), 2 * targets + noise(1)
    looks = border_effect(disease, noise(2), targets, PATIENTS, resamples=200)
    assert looks.whole.low > 0.9
    assert looks.border.low < 0.5 < looks.border.high
    assert looks.odds == pytest.approx(disease[targets == 1].mean())
    reads = border_effect(disease, marker, targets, PATIENTS, resamples=200)
    assert reads.border.low > 0.9
    assert reads.border_odds == pytest.approx(marker[targets == 1].mean())
