from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilum.databases.phantoms.anatomy import draw_anatomy
from hilum.databases.phantoms.placement import NIH_BOXES
from hilum.databases.phantoms.render import PHANTOM_FINDINGS, VIEWS, render
from hilum.databases.phantoms.scanner import Scanner
from hilum.errors import DataError, UnknownName
from hilum.findings.vocabulary import FINDINGS

QUIET = Scanner(noise=0.0, exposure_sd=0.0)
LUNG_FINDINGS = [f for f in PHANTOM_FINDINGS if f != "Support Devices"]


def test_findings_are_of_the_vocabulary() -> None:
    assert set(PHANTOM_FINDINGS) <= set(FINDINGS)
    assert len(LUNG_FINDINGS) >= 8


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    findings=st.sets(st.sampled_from(PHANTOM_FINDINGS)),
    view=st.sampled_from(VIEWS),
    size=st.sampled_from((32, 96, 130)),
)
def test_one_seed_one_radiograph_whose_boxes_are_the_extents_of_its_masks(
    seed: int, findings: set[str], view: str, size: int
) -> None:
    one, again = (render(seed, findings, view, size) for _ in range(2))
    assert one.pixels.shape == (size, size)
    assert one.pixels.dtype == np.uint8
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert one.boxes == again.boxes
    assert {lesion.finding for lesion in one.lesions} == findings == set(one.masks)
    for lesion in one.lesions:
        rows, columns = np.nonzero(lesion.mask)
        _, *corners = (round(v * size, 6) if isinstance(v, float) else v for v in lesion.box)
        assert corners == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_another_seed_another_radiograph() -> None:
    assert (render(1).pixels != render(2).pixels).mean() > 0.5


def test_a_generator_draws_a_new_radiograph_each_time() -> None:
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    first, second = render(rng).pixels, render(rng).pixels
    assert (first != second).any()
    np.testing.assert_array_equal(first, render(same).pixels)


@pytest.mark.parametrize("finding", LUNG_FINDINGS)
def test_contrast_strengthens_a_finding_and_zero_removes_it(finding: str) -> None:
    contrasts = (0.0, 0.2, 0.4, 0.7, 1.0)
    energies = np.zeros(len(contrasts))
    for seed in range(4):
        healthy = render(seed, (), "PA", 96, 1.0, QUIET).pixels.astype(float)
        for i, contrast in enumerate(contrasts):
            ill = render(seed, (finding,), "PA", 96, contrast, QUIET).pixels
            energies[i] += ((ill - healthy) ** 2).sum()
    assert energies[0] == 0
    assert (np.diff(energies) > 0).all()


@pytest.mark.parametrize("finding", LUNG_FINDINGS)
def test_a_finding_changes_nothing_outside_the_thorax(finding: str) -> None:
    """Neither noise nor exposure may tell that a finding was drawn."""
    for seed in range(6):
        healthy, ill = (render(seed, names, "PA", 96).pixels for names in ((), (finding,)))
        outside = np.ones((96, 96), bool)
        outside[6:88, 4:92] = False
        np.testing.assert_array_equal(healthy[outside], ill[outside])


def test_a_factor_scales_the_contrast_of_one_finding() -> None:
    a = render(5, {"Mass": 0.5}, "PA", 96, 0.8)
    b = render(5, ("Mass",), "PA", 96, 0.4)
    np.testing.assert_array_equal(a.pixels, b.pixels)


@pytest.mark.parametrize("view", VIEWS)
def test_sizes_show_the_same_patient(view: str) -> None:
    for seed in range(3):
        small, large = (render(seed, ("Mass",), view, size, 1.0, QUIET) for size in (112, 224))
        halved = large.pixels.reshape(112, 2, 112, 2).mean((1, 3))
        assert np.corrcoef(small.pixels.ravel(), halved.ravel())[0, 1] > 0.98
        np.testing.assert_allclose(small.boxes[0][1:], large.boxes[0][1:], atol=0.025)


def test_a_patient_keeps_the_build_over_visits() -> None:
    anatomy = draw_anatomy(np.random.default_rng(0), male=True)

    def mean(first: int, patient: object) -> np.ndarray:
        images = [render(s, (), "PA", 64, 1.0, QUIET, patient).pixels for s in range(first, first + 8)]  # type: ignore[arg-type]
        return np.stack(images).std(0).mean()

    assert mean(0, anatomy) < mean(0, None)


def test_lungs_are_darker_than_mediastinum_and_air_is_darkest() -> None:
    mean = np.mean([render(s, (), "PA", 96, 1.0, QUIET).pixels for s in range(12)], axis=0)
    lungs = mean[30:45, 20:34].mean(), mean[30:45, 64:76].mean()
    heart, abdomen, air = mean[54:60, 50:60].mean(), mean[84:92, 20:76].mean(), mean[:3, :8].mean()
    assert air < min(lungs)
    assert max(lungs) + 40 < min(heart, abdomen)


def test_ap_enlarges_the_heart() -> None:
    def width(view: str) -> float:
        boxes = [render(s, ("Cardiomegaly",), view, 64).boxes[0] for s in range(20)]
        return float(np.mean([b[3] - b[1] for b in boxes]))

    assert width("AP") > 1.04 * width("PA")


@pytest.mark.parametrize("finding", sorted(NIH_BOXES))
def test_boxes_follow_the_nih_statistics(finding: str) -> None:
    """methods.md B.1: median size within a quarter, mean centre within 0.07 of the edge."""
    views = ("PA", "PA", "PA", "AP", "AP")
    boxes = np.array([b[1:] for s in range(150) for b in render(s, (finding,), views[s % 5], 96).boxes], np.float64)
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    target = NIH_BOXES[finding]
    np.testing.assert_allclose(np.median(sizes, 0), (target.width, target.height), rtol=0.25)
    np.testing.assert_allclose(centres.mean(0), (target.x, target.y), atol=0.07)
    assert abs(centres[:, 0].std() - target.x_sd) < 0.075


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'Mass'"):
        render(0, ("Masss",))
    with pytest.raises(UnknownName, match="view"):
        render(0, (), "LATERAL")
    with pytest.raises(DataError, match="size >= 32"):
        render(0, (), "PA", 16)
    with pytest.raises(DataError, match="contrast"):
        render(0, (), "PA", 64, -1.0)
