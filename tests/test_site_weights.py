"""How much a site counts, in the average of a federation and in a pooled draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeSite
from hilum.randomness import numpy_generator
from hilum.sites.examples import Examples
from hilum.sites.weights import label_evidence, shares, site_shares


def test_contrast_is_the_information_of_the_labels_and_falls_back_to_their_number() -> None:
    known, positive = np.array([[100, 40], [50, 30]]), np.array([[20, 40], [50, 30]])
    np.testing.assert_allclose(label_evidence(known, positive, "contrast"), [[16, 40], [0, 30]])
    np.testing.assert_array_equal(label_evidence(known, positive, "known"), known)


def test_a_site_counts_by_its_images_or_by_the_contrast_of_its_labels() -> None:
    images, known, positive = np.array([400, 100]), np.array([[400], [100]]), np.array([[400], [50]])
    np.testing.assert_allclose(site_shares(images, known, positive, 0.5), [2 / 3, 1 / 3])
    np.testing.assert_allclose(site_shares(images, known, positive, 0.5, "contrast"), [0, 1])
    np.testing.assert_allclose(site_shares(images, known, known, 0.5, "contrast"), [2 / 3, 1 / 3])


def test_positives_that_nobody_contrasts_give_no_voice() -> None:
    """Hannover labels COVID-19, which no other site does, and every image of it shows it."""
    known, positive = np.array([[500, 0], [0, 140]]), np.array([[250, 0], [0, 140]])
    np.testing.assert_allclose(site_shares(np.array([500, 140]), known, positive, 0.5, "contrast"), [1, 0])


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.sampled_from([0.0, 0.3, 1.0]))
def test_shares_sum_to_one_or_are_all_zero(amounts: list[int], tau: float) -> None:
    found = shares(np.array(amounts, np.float64), tau)
    assert found.sum() == pytest.approx(1.0 if any(amounts) else 0.0)
    assert all(share == 0 for share, amount in zip(found, amounts, strict=True) if amount == 0)


def test_a_pooled_draw_weighs_sites_as_a_federation_does() -> None:
    both = FakeSite("both", np.zeros((90, 2, 2), np.uint8), np.tile([[0.0], [1.0]], (45, 1)), np.full(90, "train"))
    one = FakeSite("one", np.zeros((810, 2, 2), np.uint8), np.ones((810, 1)), np.full(810, "train"))
    sites = Examples.of([both, one], "train")  # type: ignore[arg-type]
    for weighting, share in (("known", 1 / 4), ("contrast", 1.0)):
        batches = sites.draw(100 * 20, 20, 0.5, numpy_generator(0), weighting)
        sources = np.concatenate([batch.source.numpy() for batch in batches])
        assert (sources == 0).mean() == pytest.approx(share, abs=0.03)
