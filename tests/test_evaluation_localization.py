"""Localization figures on hand-made maps, exact cover of boxes, and controls that mean what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from hilum.errors import DataError
from hilum.evaluation.bootstrap import MACRO
from hilum.evaluation.boxes import check_boxes, cover, overlaps
from hilum.evaluation.controls import (
    average_box_prior,
    centre_prior_control,
    gaussian_prior,
    random_map_control,
    random_maps,
)
from hilum.evaluation.localization import (
    LocalizationEstimate,
    evaluate_detections,
    evaluate_findings,
    evaluate_localization,
    evaluate_per_image,
    evaluate_rodeo,
    measure_controls,
    measure_findings,
    paired_localization,
)
from hilum.evaluation.maps import (
    box_energy,
    false_boxes,
    hottest_points,
    iobb,
    iou,
    iou_boxes,
    measure,
    pixel_auprc,
    pointing_game,
)
from hilum.localization.components import connected_boxes, detect

SIDES = [1, 2, 3, 5, 8, 10]
QUARTER = [[0.0, 0.0, 0.5, 0.5]]


def heat(*cells, shape=(4, 4)):
    m = np.zeros((1, *shape))
    for row, column, value in cells:
        m[0, row, column] = value
    return m


def box_sets(largest=3):
    edge = st.integers(0, 24)
    pair = st.tuples(edge, edge).filter(lambda p: p[0] != p[1]).map(sorted)
    box = st.tuples(pair, pair).map(lambda b: (b[0][0], b[1][0], b[0][1], b[1][1]))
    return st.lists(box, min_size=1, max_size=largest).map(lambda b: np.array(b, dtype=float) / 24)


@given(boxes=box_sets(), height=st.sampled_from(SIDES), width=st.sampled_from(SIDES))
@settings(max_examples=60, deadline=None)
def test_cover_is_exact_for_overlapping_boxes(boxes, height, width):
    """Oracle: count pixels of a raster on which every cell and box edge falls."""
    side = 120
    centre = (np.arange(side) + 0.5) / side
    raster = np.zeros((side, side), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        raster |= ((y0 < centre) & (centre < y1))[:, None] & ((x0 < centre) & (centre < x1))
    expected = raster.reshape(height, side // height, width, side // width).mean(axis=(1, 3))
    np.testing.assert_allclose(cover(boxes, (height, width)), expected, atol=1e-12)


def test_pointing_game():
    assert pointing_game(heat((1, 1, 1.0)), [QUARTER]) == 1
    assert pointing_game(heat((1, 2, 1.0)), [QUARTER]) == 0
    assert pointing_game(heat((1, 2, 1.0)), [[[0.6, 0.3, 0.7, 0.4], *QUARTER]]) == 1
    assert pointing_game(heat((0, 0, 1.0), (3, 3, 1.0)), [QUARTER]) == 1  # a tie: the first
    assert pointing_game(-5 - heat((3, 3, 1.0)), [QUARTER]) == 1
    assert np.isnan(pointing_game(heat(), [[]]))


def test_hottest_point_is_the_centre_of_the_highest_cell():
    wide = np.zeros((2, 4, 5))
    wide[0, 3, 1] = wide[1, 0, 4] = 1
    np.testing.assert_allclose(hottest_points(wide), [[0.3, 0.875], [0.9, 0.125]])


def test_iou_of_mask_and_boxes():
    left = np.zeros((1, 4, 4))
    left[:, :, :2] = 7.0
    assert iou(left, [QUARTER]) == pytest.approx(0.5)
    assert iou(left, [[[0, 0, 0.25, 0.5], [0.25, 0, 0.5, 1]]]) == pytest.approx(0.75)
    assert iou(left, [[[0.0, 0.0, 0.125, 1.0]]]) == pytest.approx(0.25)  # half of a column of cells
    assert iou(heat((0, 0, 1.0), (0, 1, 0.4)), [QUARTER], 0.3) == pytest.approx(0.5)
    assert iou(heat((0, 0, 1.0), (0, 1, 0.4)), [QUARTER], 0.5) == pytest.approx(0.25)
    assert iou(np.ones((1, 4, 4)), [QUARTER]) == 0  # no contrast, no mask


def test_connected_boxes_join_sides_not_corners():
    m = heat((0, 0, 1.0), (0, 1, 1.0), (1, 2, 0.6), (3, 3, 0.2), shape=(4, 8))[0]
    np.testing.assert_allclose(connected_boxes(m, 0.5), [[0, 0, 0.25, 0.25], [0.25, 0.25, 0.375, 0.5]])
    assert connected_boxes(np.zeros((4, 4)), 0.5).shape == (0, 4)


def test_detected_boxes_against_annotated_ones():
    two = heat((0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0), (3, 3, 1.0))
    assert iobb(two, [QUARTER]) == pytest.approx(2 / 3)
    assert iou_boxes(two, [QUARTER]) == pytest.approx(2 / 5)
    assert false_boxes(two, [QUARTER]) == 1
    assert iobb(heat((0, 0, 1.0)), [QUARTER]) == 1
    assert [f(heat(), [QUARTER])[0] for f in (iobb, iou_boxes, false_boxes)] == [0, 0, 0]
    assert np.isnan([f(two, [[]])[0] for f in (iobb, iou_boxes, false_boxes, iou, box_energy)]).all()


def test_overlaps_by_hand():
    ious, ratios = overlaps(np.array([[0, 0, 0.5, 0.5]]), np.array([[0.25, 0.25, 1, 1], [0.6, 0.6, 1, 1]]))
    np.testing.assert_allclose(ious, [[0.0625 / 0.75, 0]])
    np.testing.assert_allclose(ratios, [[0.25, 0]])


def test_box_energy():
    assert box_energy(heat((0, 0, 3.0), (3, 3, 1.0)), [QUARTER]) == 0.75
    assert box_energy(np.full((1, 4, 4), 0.3), [[[0, 0, 0.125, 1], [0, 0, 0.125, 0.5]]]) == pytest.approx(0.125)
    assert box_energy(heat((0, 0, 3.0), (3, 3, 1.0)) - 1, [QUARTER]) == 0.75
    assert box_energy(heat(), [QUARTER]) == 0  # nothing found, as in every other figure


@given(boxes=box_sets(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_figures_are_shares_and_flip_with_the_image(boxes, seed):
    maps = random_maps(1, (6, 5), np.random.default_rng(seed))
    values, flipped = (
        measure(maps, [boxes]),
        measure(maps[:, :, ::-1], [1 - boxes[:, [2, 1, 0, 3]] * [1, -1, 1, -1] - [0, 1, 0, 1]]),
    )
    for name, value in values.items():
        assert value[0] >= 0
        assert name.startswith("false_boxes") or value[0] <= 1 + 1e-12
    for name in ("box_energy", "iou", "iou_boxes", "iobb"):
        assert flipped[name][0] == pytest.approx(values[name][0])


def test_random_control_is_the_area_and_what_random_maps_reach():
    boxes = [[[0.25, 0.25, 0.5, 0.75], [0.25, 0.5, 0.75, 0.75]], QUARTER, []]
    control = random_map_control(boxes, (8, 8))
    np.testing.assert_allclose(control["pointing_game"], [0.1875, 0.25])
    maps = random_maps(4000, (8, 8), np.random.default_rng(0))
    hits = [pointing_game(maps, [b] * 4000).mean() for b in boxes[:2]]
    energy = [box_energy(maps, [b] * 4000).mean() for b in boxes[:2]]
    assert np.mean(hits) == pytest.approx(np.mean(control["pointing_game"]), abs=0.015)
    assert np.mean(energy) == pytest.approx(np.mean(control["box_energy"]), abs=0.01)
    np.testing.assert_array_equal(control["iou"], random_map_control(boxes, (8, 8))["iou"])
    assert (control["iou"] != random_map_control(boxes, (8, 8), seed=1)["iou"]).all()


def test_centre_prior_leaves_the_patient_out():
    right = [[0.5, 0.5, 1, 1]]
    prior = average_box_prior([QUARTER, QUARTER, right, []], ["a", "a", "b", "c"], (2, 2))
    np.testing.assert_allclose(prior[0], [[0, 0], [0, 0.5]])
    np.testing.assert_allclose(prior[2], [[2 / 3, 0], [0, 0]])
    prior = centre_prior_control([QUARTER, [], QUARTER, QUARTER], (4, 4), patients=["a", "a", "b", "c"])
    np.testing.assert_array_equal(prior["iou"], [1, 1, 1])
    alone = centre_prior_control([QUARTER, QUARTER], (4, 4), patients=["a", "a"])
    assert np.isnan(np.stack([*alone.values()])).all()


def test_gaussian_prior_points_at_the_middle():
    prior = gaussian_prior((5, 7))
    assert np.unravel_index(prior.argmax(), prior.shape) == (2, 3)
    np.testing.assert_allclose(prior, prior[::-1, ::-1])


def test_evaluation_beside_its_controls():
    rng = np.random.default_rng(0)
    corner = rng.random((40, 2)) * 0.6
    boxes = [[[x, y, x + 0.3, y + 0.3]] if k % 4 else [] for k, (x, y) in enumerate(corner)]
    maps = np.array([cover(b, (10, 10)) for b in check_boxes(boxes)])
    found = evaluate_localization(maps, boxes, np.arange(40) // 2, resamples=200)
    game = found["pointing_game"]
    assert (game.value, game.low, game.high, game.n, game.findings) == (1, 1, 1, 30, 1)
    assert game.random_map == pytest.approx(0.09)
    assert 0 < game.centre_prior < 1
    assert found["iou"].low < found["iou"].value < found["iou"].high
    assert found["iou"].random_map < found["iou"].value
    blind = np.broadcast_to(gaussian_prior((10, 10)), (40, 10, 10))
    level = evaluate_localization(blind, boxes, np.arange(40), resamples=20)
    assert all(f.value == pytest.approx(f.gaussian_prior) for f in level.values())


def test_a_figure_exceeds_its_highest_control_on_the_same_images():
    """Corner boxes of 40 patients, half of them in another corner: the prior hits 20, the maps 25, the noise few."""
    corners = [[0, 0, 0.3, 0.3], [0.7, 0.7, 1, 1]]
    boxes = [[corners[k % 2 and k < 36]] for k in range(40)]
    prior = average_box_prior(boxes, np.arange(40), (10, 10))
    hit = np.array([pointing_game(p[None], [b])[0] for p, b in zip(prior, boxes, strict=True)], dtype=bool)

    def game(missed: int) -> LocalizationEstimate:
        right = np.array([cover(np.array(b), (10, 10)) for b in boxes])
        wrong = right[:, ::-1, ::-1]
        also = np.flatnonzero(~hit)[missed:]  # the maps hit what the prior hits, and of the others all but some
        maps = np.where((hit | np.isin(np.arange(40), also))[:, None, None], right, wrong)
        return evaluate_localization(maps, boxes, np.arange(40), resamples=500)["pointing_game"]

    assert 0 < hit.sum() < 40
    some, none = game(int((~hit).sum()) - 6), game(int((~hit).sum()))
    assert some.centre_prior == none.value == pytest.approx(hit.mean())
    assert some.value == pytest.approx(hit.mean() + 6 / 40)
    assert some.low <= some.centre_prior < some.centre_prior + some.excess_low < some.value  # paired, so narrower
    assert none.excess_low == 0
    assert np.isnan(evaluate_localization(np.zeros((2, 4, 4)), [QUARTER, QUARTER], ["a", "b"])["iou"].excess_low)


def test_seeds_findings_and_macro():
    rng = np.random.default_rng(1)
    maps = random_maps(60, (6, 6), rng).reshape(2, 10, 3, 6, 6)
    boxes = {
        "Mass": [QUARTER] * 10,
        "Edema": [[[0.4, 0.4, 0.9, 0.9]] if k < 5 else [] for k in range(10)],
        "Hernia": [[]] * 10,
    }
    table = evaluate_findings(
        maps, boxes, np.arange(10), resamples=100, threshold={"Mass": 0.5, "Edema": 0.4, "Hernia": 0.5}
    )
    each = [box_energy(m[:, 0], boxes["Mass"]).mean() for m in maps]
    mass, edema, macro = (table[f]["box_energy"] for f in ("Mass", "Edema", "macro"))
    assert mass.value == pytest.approx(np.mean(each))
    assert mass.sd == pytest.approx(np.std(each, ddof=1))
    assert macro.value == pytest.approx((mass.value + edema.value) / 2)
    assert (mass.n, edema.n, macro.n, macro.findings) == (10, 5, 15, 2)
    assert macro.random_map == pytest.approx(0.25)
    assert np.isnan(table["Hernia"]["iou"].value)
    assert table["Hernia"]["iou"].n == 0
    assert table["Edema"]["iou"].value == pytest.approx(
        np.mean([np.nanmean(iou(m[:, 1], boxes["Edema"], 0.4)) for m in maps])
    )


def test_models_of_other_findings_share_controls():
    """A model that knows one finding has fewer images with boxes than the controls' first user."""
    boxes = {"Mass": [QUARTER if k % 3 else [] for k in range(12)], "Edema": [[[0.4, 0.4, 0.9, 0.9]]] * 12}
    maps = random_maps(24, (6, 6), np.random.default_rng(3)).reshape(12, 2, 6, 6)
    controls = {f: measure_controls(b, np.arange(12), (6, 6)) for f, b in boxes.items()}
    whole = evaluate_findings(maps, boxes, np.arange(12), resamples=50, controls=controls)["Mass"]
    rows = [k for k in range(12) if k % 3]
    fewer = {"Mass": [QUARTER] * len(rows)}
    part = evaluate_findings(maps[rows, :1], fewer, np.array(rows), resamples=50, controls=controls)["Mass"]
    for field in ("value", "random_map", "centre_prior"):
        here, there = ([getattr(e, field) for e in one.values()] for one in (part, whole))
        assert here == pytest.approx(there)
    again = evaluate_findings(maps[rows, :1], fewer, np.array(rows), resamples=50)["Mass"]
    assert [e.excess_low for e in again.values()] == pytest.approx([e.excess_low for e in part.values()], nan_ok=True)


@pytest.mark.parametrize(
    ("maps", "boxes", "message"),
    [
        (np.full((1, 2, 2), np.nan), [QUARTER], "finite maps"),
        (np.ones((1, 2, 2)), [QUARTER, QUARTER], "one map"),
        (np.ones((2, 2)), [QUARTER, QUARTER], "one map"),
        (np.ones((1, 2, 2)), [[[0, 0, 224, 224]]], "fractions"),
        (np.ones((1, 2, 2)), [[[0.5, 0, 0.5, 1]]], "fractions"),
        (np.ones((1, 2, 2)), [[0, 0, 1, 1]], r"\(boxes, 4\)"),
    ],
)
def test_refuses_what_does_not_fit(maps, boxes, message):
    with pytest.raises(DataError, match=message):
        iou(maps, boxes)


def test_refuses_patients_that_do_not_fit():
    with pytest.raises(DataError, match="a patient for each image"):
        evaluate_localization(np.ones((2, 4, 4)), [QUARTER, QUARTER], ["a"])


def test_pixel_auprc():
    """By hand: of the four cells, called from the hottest, the first and third lie in the box."""
    m = np.array([[[0.9, 0.8], [0.7, 0.1]]])
    left = [[0.0, 0.0, 0.5, 1.0]]
    assert pixel_auprc(m, [left]) == pytest.approx((1 + 2 / 3) / 2)
    assert pixel_auprc(np.ones((1, 2, 2)), [left]) == 0.5  # no contrast: the area
    assert pixel_auprc(m, [[[0.0, 0.0, 0.25, 0.5]]]) == pytest.approx(0.5)  # half of the hottest cell
    assert np.isnan(pixel_auprc(m, [[]]))


def test_pixel_auprc_is_average_precision_of_cells():
    rng = np.random.default_rng(2)
    maps = random_maps(5, (8, 6), rng).round(1)
    inside = cover(np.array(QUARTER), (8, 6)).ravel() > 0
    expected = [average_precision_score(inside, m.ravel()) for m in maps]
    np.testing.assert_allclose(pixel_auprc(maps, [QUARTER] * 5), expected)


def test_false_boxes_are_counted_at_every_accuracy():
    """Boxes with IoBB 1, 2/3 and 0, and IoU 1/12, 1/6 and 0, of a box of 12 cells."""
    m = heat((0, 0, 1.0), (1, 1, 1.0), (1, 2, 1.0), (1, 3, 1.0), (3, 3, 1.0), shape=(4, 8))
    figures = measure(m, [[[0.0, 0.0, 0.375, 1.0]]])
    assert [figures[f"false_boxes_iobb@{t:g}"][0] for t in (0.1, 0.6, 0.7)] == [1, 1, 2]
    assert [figures[f"false_boxes_iou@{t:g}"][0] for t in (0.1, 0.2)] == [2, 3]
    assert figures["iobb>0.7"] == 1


def test_otsu_cuts_each_map_by_itself():
    maps = np.array([[[0.0, 0.2, 0.9, 1.0]], [[0.0, 0.6, 0.65, 1.0]]])
    boxes = [[[0.5, 0, 1, 1]], [[0.25, 0, 1, 1]]]
    np.testing.assert_allclose(iou(maps, boxes, "otsu"), [1, 1])
    controls = evaluate_localization(maps, boxes, ["a", "b"], resamples=100, threshold="otsu")
    assert controls["iou"].value == 1
    assert 0 < controls["iou"].random_map < 1


def test_the_slice_of_true_positives_leaves_out_what_is_not_called():
    maps = np.stack([heat((0, 0, 1.0))[0], heat((3, 3, 1.0))[0], heat((0, 0, 1.0))[0]])[:, None]
    table = evaluate_findings(
        maps, {"Mass": [QUARTER] * 3}, np.arange(3), resamples=100, called=np.array([[[1], [1], [0]]])
    )
    assert table["Mass"]["iou"].value == pytest.approx((0.25 + 0 + 0.25) / 3)
    assert table["Mass"]["iou_called"].value == pytest.approx(0.25 / 2)
    assert table["Mass"]["iou_called"].n == 2
    assert np.isnan(table["Mass"]["iou_called"].random_map)


def test_detections_over_images_findings_and_seeds():
    """Seed 0 finds Mass in its image and raises a false alarm on the negative one; seed 1 finds nothing."""
    first = np.stack([heat((0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0), (1, 1, 1.0))[0], heat((2, 2, 1.0))[0]] * 2)
    second = np.zeros_like(first)
    probabilities = [0.4, 0.9, 0.9, 0.9]
    boxes = {"Mass": [QUARTER, [], [], []], "Edema": [[], [], QUARTER, []]}
    counted = np.array([[True, True], [True, True], [False, True], [False, False]])
    detections = {f: [detect(m, probabilities, 0.5) for m in (first, second)] for f in boxes}
    table = evaluate_detections(
        detections, boxes, counted, np.arange(4), resamples=100, controls={"Mass": ({"ap@0.3": 0.1}, {}, {})}
    )
    # Mass: the false alarm scores higher: precision 1/2 at its only hit. Edema: its hit ties with one false alarm.
    assert table["Mass"]["ap@0.3"].value == pytest.approx(0.5 / 2)
    assert table["Edema"]["ap@0.3"].value == pytest.approx(0.5 / 2)
    assert table[MACRO]["ap@0.3"].value == pytest.approx(0.25)
    assert (table["Mass"]["ap@0.3"].n, table[MACRO]["ap@0.3"].n, table[MACRO]["ap@0.3"].findings) == (1, 2, 2)
    assert table["Mass"]["ap@0.3"].random_map == 0.1
    assert table["Mass"]["froc@0.25"].value == 0  # one false alarm on two images comes first
    assert table["Mass"]["froc@0.5"].value == 0.5
    assert table["Edema"]["froc@0.5"].value == 0.5  # two false alarms on three images
    with pytest.raises(DataError, match="same findings"):
        evaluate_detections({"Mass": detections["Mass"]}, boxes, counted, np.arange(4))


def test_a_mean_over_images_is_over_those_that_have_a_figure():
    estimate = evaluate_per_image([[0.2, np.nan, 0.6], [0.4, np.nan, 0.8]], ["a", "b", "c"], resamples=100)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.n == 2
    assert estimate.sd == pytest.approx(0.2 / np.sqrt(2))


@pytest.mark.parametrize("patients", [4, 5])
def test_figures_of_fewer_than_five_patients_have_no_interval(patients):
    who = np.arange(20) % patients
    rng = np.random.default_rng(0)
    boxes, maps = {"Mass": [QUARTER] * 20}, random_maps(20, (4, 4), rng)[:, None]
    found = [
        evaluate_per_image(rng.random(20), who, resamples=100),
        evaluate_findings(maps, boxes, who, resamples=100)["Mass"]["box_energy"],
        evaluate_detections(
            {"Mass": [detect(maps[:, 0], rng.random(20), 0.5)]}, boxes, np.ones((20, 1)), who, resamples=100
        )["Mass"]["ap@0.3"],
        evaluate_rodeo([{"Mass": [QUARTER] * 20}], boxes, who, resamples=100)["Mass"]["rodeo"],
    ]
    assert [np.isnan([f.low, f.high]).all() for f in found] == [patients < 5] * 4
    assert not np.isnan([f.value for f in found]).any()


def test_a_mean_over_findings_leaves_out_those_of_too_few_patients():
    maps = random_maps(40, (4, 4), np.random.default_rng(0)).reshape(1, 20, 2, 4, 4)
    boxes = {"Mass": [QUARTER] * 20, "Edema": [QUARTER] * 4 + [[]] * 16}
    table = evaluate_findings(maps, boxes, np.arange(20), resamples=100)
    for name, figure in table[MACRO].items():
        mass = table["Mass"][name]
        assert (figure.value, figure.low, figure.high, figure.n) == (mass.value, mass.low, mass.high, 20)
    few = {"Edema": boxes["Edema"]}
    alone = evaluate_findings(maps[:, :, 1:], few, np.arange(20), resamples=100)[MACRO]["box_energy"]
    assert (alone.n, alone.findings) == (4, 1)
    assert np.isnan([alone.low, alone.high]).all()


def test_maps_of_two_arms_are_paired_by_image():
    """What both arms share cancels: the interval of a constant gap is the gap."""
    rng = np.random.default_rng(0)
    boxes = {"Mass": [QUARTER] * 20, "Edema": [QUARTER if k < 10 else [] for k in range(20)]}
    maps = random_maps(40, (4, 4), rng).reshape(1, 20, 2, 4, 4)
    names, values = measure_findings(maps, boxes, {"Mass": 0.5, "Edema": 0.5})
    k = names.index("box_energy")
    gap = np.full_like(values, 0.1) * [1, 2]
    row = paired_localization(values + gap, values, np.arange(20), resamples=100)[k]
    assert [r.value for r in row] == pytest.approx([0.1, 0.2, 0.15])
    assert [(r.low, r.high) for r in row] == [pytest.approx((r.value, r.value)) for r in row]
    assert [(r.n, r.findings) for r in row] == [(20, 1), (10, 1), (30, 2)]
    assert row[0].p == pytest.approx(2 / 101)


def test_a_handful_of_images_proves_nothing():
    boxes = {"Mass": [QUARTER] * 12, "Edema": [QUARTER if k < 9 else [] for k in range(12)]}
    maps = random_maps(24, (4, 4), np.random.default_rng(0)).reshape(1, 12, 2, 4, 4)
    names, values = measure_findings(maps, boxes, {"Mass": 0.5, "Edema": 0.5})
    mass, edema, mean = paired_localization(values + 0.1, values, np.arange(12), resamples=100)[names.index("iou")]
    assert edema.value == pytest.approx(0.1)
    assert np.isnan(edema.p)
    assert (mean.n, mean.findings) == (mass.n, 1) == (12, 1)
    none = paired_localization(values[:, 9:] + 0.1, values[:, 9:], np.arange(3), resamples=100)[0]
    assert np.isnan([none[-1].value, none[-1].p]).all()
    assert none[-1].n == 0
    of_four = paired_localization(values + 0.1, values, np.arange(12) % 4, resamples=100)[names.index("iou")]
    assert of_four[0].value == pytest.approx(0.1)
    assert np.isnan([of_four[0].low, of_four[0].high, of_four[0].p, of_four[-1].value]).all()
