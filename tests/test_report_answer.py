"""The answer in words: from the figures alone, whatever they say, and honest about what a run lacks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_run import write_fake_evaluation, write_fake_run
from hilum.report.answer import Answer, answer
from hilum.report.erasing import judge
from hilum.report.evidence import MEANING
from hilum.report.page import render
from hilum.report.read import read_run
from hilum.report.results import Figure, Results
from hilum.report.rows import in_words
from hilum.report.summary import summarise


def answer_of(run: Path) -> Answer:
    read = read_run(run)
    found = answer(read, Results(read))
    assert found is not None
    return found


def text(found: Answer) -> str:
    return "\n".join([found.short, *(s for _, said in found.evidence for s in said), *found.missing])


def change(run: Path, name: str, edit: Any) -> None:
    content = json.loads((run / name).read_text())
    edit(content)
    (run / name).write_text(json.dumps(content))


def set_pointing(content: dict[str, Any], low: float) -> None:
    for record in content["localization"]:
        record["low"] = low


def test_tells_and_finds_on_phantoms(tmp_path: Path) -> None:
    found = answer_of(write_fake_run(tmp_path))
    assert found.short.startswith("On phantoms: In part. The federated model tells 3 of 3 findings")
    assert "Pneumonia (told at north, children and valley, found at north)" in found.short
    assert "Macro, mean over 3 training sites: average precision 0.8" in found.short
    assert "; AUROC 0.8" in found.short
    assert found.short.endswith(" Not tested whether it is the disease or the site.")
    assert "say nothing about patients" in text(found)
    assert "Not evaluated" in text(found)


def test_maps_that_do_not_beat_a_control_find_nothing(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, data="real")
    change(run, "metrics.json", lambda c: set_pointing(c, 0.1))
    found = answer_of(run)
    assert found.short.startswith("Not shown.")
    failed = dict(found.evidence)["Where localization fails"]
    assert [s.partition(":")[0] for s in failed] == ["Pneumonia at north", "Tuberculosis at harbour"]
    assert "phantom" not in text(found)


def test_differences_are_better_worse_or_equal_within() -> None:
    assert in_words(Figure(0.05, 0.02, 0.08)).startswith("better (+0.050")
    assert in_words(Figure(-0.05, -0.08, -0.02)).startswith("worse (−0.050")
    assert in_words(Figure(0.01, -0.01, 0.03)).startswith("equal within ±0.030")
    assert in_words(Figure(0.01)).startswith("too few to tell")
    assert in_words(Figure(0.05, 0.02, 0.08)).endswith("+0.080], not corrected)")
    assert in_words(Figure(0.05, 0.02, 0.08), 0.049).startswith("better (+0.050")
    assert in_words(Figure(-0.05, -0.08, -0.02), 0.05).startswith("no difference shown (−0.050")
    assert in_words(Figure(0.01, -0.01, 0.03), 0.5).startswith("equal within ±0.030")
    assert in_words(Figure(0.01, -0.01, 0.03), 0.01).startswith("no difference shown")
    assert in_words(Figure(reason="no label")) == "no label"


def test_every_arm_is_compared_site_by_site(tmp_path: Path) -> None:
    evidence = dict(answer_of(write_fake_run(tmp_path)).evidence)
    for k, (metric, gap, within) in enumerate((("average precision", "0.032", "0.100"), ("AUROC", "0.016", "0.050"))):
        assert evidence["Federated against pooled"][k].startswith(f"Macro {metric} by site: north worse (−{gap}")
        assert f"north equal within ±{within}" in evidence["Federated against local"][k]
    start = "Single findings worse in AUROC, not corrected for the number of comparisons: "
    assert any(s.startswith(start) for s in evidence["Federated against pooled"])
    assert "north worse (−0.016 [−0.030, −0.003], not corrected)" in evidence["Federated against pooled"][1]


def with_p(run: Path, p: float) -> None:
    """Give every difference between the arms the corrected p of an evaluation."""
    compared = json.loads((run / "metrics.json").read_text())["comparisons"]
    outside = {site["name"] for site in json.loads((run / "sites.json").read_text()) if site["role"] == "outside"}
    keys = [
        {k: r[k] for k in ("against", "site", "finding", "metric")}
        | ({"against_model": r["against_model"]} if r["against"] == "local" and r["site"] in outside else {})
        for r in compared
        if r["against"] != "local" or r["site"] in outside or r["against_model"] == r["site"]
    ]

    def corrected(content: dict[str, Any]) -> None:
        kept = [r for r in content["comparisons"] if r["metric"] not in ("auroc", "average_precision")]
        tested = [{**key, "arm": "federated", "p": p / 2, "p_holm": p} for key in keys]
        empty = {"n": 34, "value": None, "low": None, "high": None, "tests": len(tested)}
        content["comparisons"] = [r | {"p_holm": p} for r in kept] + [empty | r for r in tested]

    change(run, "evaluation.json", corrected)


def test_an_arm_is_better_or_worse_only_where_the_corrected_p_says_so(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    with_p(run, 0.02)
    found = answer_of(run)
    said = dict(found.evidence)["Federated against pooled"]
    worse = [s for s in said if s.startswith("Single findings")]  # the main figure first
    assert worse[0].startswith("Single findings worse in average precision: Pneumonia at north (−0.03")
    assert worse[1].startswith("Single findings worse in AUROC: Pneumonia at north (−0.016, p 0.020 corrected)")
    assert "p 0.020 corrected)" in said[0]
    assert "not corrected" not in text(found)
    with_p(run, 0.11)
    found = answer_of(run)
    said = dict(found.evidence)["Federated against pooled"]
    assert not any(s.startswith("Single findings") for s in said)
    assert "north no difference shown (−0.016 [−0.030, −0.003], p 0.110 corrected)" in said[1]
    assert any("no difference shown" in cell for row in found.rows for cell in row.against)
    maps = [s for s in dict(found.evidence)["Localization"] if s.startswith("Maps against")]
    none = "no difference shown in 2 of 2 comparisons"
    assert maps == [
        f"Maps against those of {arm}, on the same images: pointing game {none}. IoU {none}."
        for arm in ("local", "pooled")
    ]


@pytest.mark.parametrize(
    ("adjust", "said"), [("sites", "average over the training sites"), ("images", "statistics of")]
)
def test_says_what_models_adjust_to_and_of_whom_their_donor_is(tmp_path: Path, adjust: str, said: str) -> None:
    run = write_fake_run(tmp_path)
    assert "evaluation.adjust" not in render(read_run(run))
    change(run, "run.json", lambda c: c.update(adjust=adjust, donor="unknown"))
    assert any(line.startswith("No run tells all that the donor") for line in answer_of(run).missing)
    assert f"only tested, by models {'that' if adjust == 'sites' else 'with'} {said}" in render(read_run(run))


def test_says_what_is_missing(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, seeds=1)

    def poor(content: dict[str, Any]) -> None:
        content["localization"] = []

    change(run, "metrics.json", poor)
    change(run, "run.json", lambda c: c.update(arms=["federated"]))
    found = answer_of(run)
    assert found.short.startswith("On phantoms: Half answered")
    for said in ("No local arm", "No pooled arm", "One seed", "No boxes"):
        assert any(line.startswith(said) for line in found.missing), said
    change(run, "run.json", lambda c: c.update(arms=["local"]))
    read = read_run(run)
    assert answer(read, Results(read)) is None
    assert 'id="answer"' not in render(read)


LESIONS = {"n": 40, "low": 0.2, "high": 0.9}
BORDER = {"whole": 0.9, "whole_low": 0.85, "whole_high": 0.95, "negatives_of": "own"}
BORDER |= {"value": 0.55, "low": 0.45, "high": 0.65}
INVERTED = {"value": 0.2, "low": 0.1, "high": 0.28}
MUCH = {"value": 0.8, "low": 0.72, "high": 0.88}
UNSURE = {"value": 0.8, "low": 0.6, "high": 1.0}


@pytest.mark.parametrize(
    ("lesions", "border", "word"),
    [
        (LESIONS, BORDER, "disease"),
        (LESIONS, BORDER | {"value": 0.6, "low": 0.52}, "disease, partly border"),
        (LESIONS, BORDER | MUCH, "disease and border"),
        (LESIONS, BORDER | UNSURE, "disease, partly border"),
        (LESIONS | {"low": -0.1}, BORDER | MUCH | {"negatives_of": "others"}, "site"),
        (LESIONS | {"low": -0.1}, BORDER | UNSURE, "partly border"),
        (None, BORDER | MUCH, "border, lesions not tested"),
        (LESIONS | {"n": 4}, BORDER | MUCH, "border, lesions not tested"),
        (None, BORDER | UNSURE | {"negatives_of": "others"}, "partly site, lesions not tested"),
        (None, BORDER, "open, lesions not tested"),
        (None, BORDER | INVERTED, "border, lesions not tested"),
        (LESIONS | {"low": -0.1}, BORDER | INVERTED | {"negatives_of": "others"}, "site"),
        (
            LESIONS,
            BORDER | {"value": 0.45, "low": 0.42, "high": 0.48, "negatives_of": "others"},
            "disease, partly site",
        ),
        (
            LESIONS | {"low": -0.1},
            BORDER | INVERTED | {"whole": 0.1, "whole_low": 0.05, "whole_high": 0.15},
            "border",
        ),
        (None, BORDER | {"whole_low": 0.45}, "not known"),
        (LESIONS | {"low": -0.1}, BORDER, "open"),
        (LESIONS, None, "disease, border not tested"),
        (LESIONS, BORDER | {"low": None}, "disease, border not tested"),
        (LESIONS | {"n": 4}, None, "not known"),
        (None, BORDER | {"low": None}, "not known"),
    ],
)
def test_disease_or_site(lesions: dict[str, Any] | None, border: dict[str, Any] | None, word: str) -> None:
    verdict = judge(lesions, border)
    assert verdict.word == word
    assert verdict.text.startswith(f"{word}: ")


def test_a_verdict_names_what_is_inverted_and_what_is_ranked_across_sites() -> None:
    told = "75 % [55, 100] of what it tells is told by the border alone"
    assert judge(None, BORDER | INVERTED).text.endswith(f"{told}, inverted")
    assert judge(None, BORDER | MUCH).text.endswith(told.replace("100", "95"))
    others = judge(None, BORDER | INVERTED | {"negatives_of": "others"}).text
    assert others.endswith("told by the border alone, inverted, ranked across sites")
    assert "ranked" not in judge(None, BORDER).text


def test_an_evaluated_run_is_answered_with_its_tail_failures_and_verdicts(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    found = answer_of(run)
    evidence = dict(found.evidence)
    assert found.short.startswith("On phantoms: Yes. ")
    assert evidence["Long tail"] == [
        "Medium (Pneumonia and Effusion): average precision 0.800 [0.70, 0.90] where chance is 0.447.",
        "Tail (Tuberculosis): average precision 0.800 [0.70, 0.90] where chance is 0.480.",
    ]
    assert evidence["Disease or site"] == ["Disease: Pneumonia at north; Tuberculosis at harbour."]
    assert evidence["Where localization fails"] == [
        "Nowhere: pointing game and IoU are above every control, with their intervals, for 2 pairs of finding and site."
    ]
    assert "random map, centre prior, middle of the image and shuffled weights" in evidence["Localization"][0]
    assert not any(line.startswith(("Not evaluated", "No films")) for line in found.missing)
    page = render(read_run(run))
    assert "boxes never enter training" in page
    assert "Disease: Pneumonia at north; Tuberculosis at harbour." in page


def test_a_group_of_one_finding_at_one_site_is_compared_as_that_finding(tmp_path: Path) -> None:
    """Not with the mean of whatever local model comes last: at south, harbour's model is at chance."""
    run = write_fake_evaluation(write_fake_run(tmp_path))
    head = {"arm": "federated", "site": "south", "finding": "Tuberculosis", "metric": "average_precision", "n": 90}
    compared = head | {"against": "local", "value": -0.1, "low": -0.15, "high": -0.05, "p": 0.001, "p_holm": 0.004}
    wrong = head | {"arm": "local", "model": "harbour", "seeds": 3, "site": "macro", "finding": "tail", "value": 0.48}
    change(run, "evaluation.json", lambda c: c["comparisons"].append(compared))
    change(run, "evaluation.json", lambda c: c["classification"].append(wrong | {"low": 0.4, "high": 0.6}))
    said = dict(answer_of(run).evidence)["Long tail"][1]
    assert said.endswith("; against local worse (−0.100 [−0.150, −0.050], p 0.004 corrected).")
    assert "0.480 [" not in said


def test_lesions_without_a_border_to_test_are_no_plain_yes(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    change(run, "evaluation.json", lambda c: c.update(borders=[]))
    assert "whether the border of the film does too could not be tested: Pneumonia at north" in answer_of(run).short


def test_findings_of_few_patients_are_named_as_no_part_of_a_mean(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def few(content: dict[str, Any]) -> None:
        for r in content["classification"]:
            if (r["site"], r["finding"], r["metric"]) == ("north", "Effusion", "average_precision"):
                r.update(value=0.075, low=None, high=None)

    change(run, "evaluation.json", few)
    said = dict(answer_of(run).evidence)["Long tail"]
    left = ", without Effusion at north (0.075), of which there are fewer than 5 test patients of a class"
    assert [left in line for line in said if line.startswith(("Medium", "Tail", "Macro"))] == [True, False, True]


def test_a_site_of_few_patients_is_named_as_no_part_of_a_mean_over_sites(tmp_path: Path) -> None:
    """Its figures have no interval, and the mean is over the sites that have one."""
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def few(content: dict[str, Any]) -> None:
        for r in content["classification"]:
            if (r["site"], r["metric"]) == ("north", "average_precision"):
                r.update(value=0.075, low=None, high=None)

    change(run, "evaluation.json", few)
    macro = dict(answer_of(run).evidence)["Long tail"][-1]
    assert "without Pneumonia at north (0.075)" in macro
    assert "Effusion at north (0.075), of which" in macro


def test_the_first_screen_compares_a_mean_of_one_finding_as_that_finding(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    head = {"arm": "federated", "site": "north", "finding": "Pneumonia", "metric": "auroc", "n": 90, "findings": 1}
    compared = head | {"against": "pooled", "value": 0.05, "low": 0.01, "high": 0.09, "p": 0.001, "p_holm": 0.004}
    change(run, "evaluation.json", lambda c: c["comparisons"].append(compared))
    read = read_run(run)
    (pooled,) = (row for row in summarise(read, Results(read)).rows if row.arm == "pooled")
    assert (pooled.against["auroc"].value, pooled.p["auroc"]) == (0.05, 0.004)


def test_at_an_outside_site_local_models_of_other_findings_are_averaged_finding_by_finding(tmp_path: Path) -> None:
    read = read_run(write_fake_run(tmp_path))
    results, (outside,) = Results(read), (site for site in read.sites if site.outside)
    each = [results.of_arm("local", outside, finding).value for finding in read.run.findings]
    known = [value for value in each if value is not None]
    assert len(known) > 1
    assert results.of_arm("local", outside, "macro").value == pytest.approx(sum(known) / len(known))


def test_nothing_is_above_a_control_without_an_interval(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def few(content: dict[str, Any]) -> None:
        for record in content["localization"]:
            record |= {"low": None, "high": None, "excess_low": None}

    change(run, "evaluation.json", few)
    assert "Where localization fails" not in dict(answer_of(run).evidence)


def test_yes_is_for_what_is_told_and_found_everywhere(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    assert answer_of(run).short.startswith("On phantoms: Yes. ")

    def untold(content: dict[str, Any]) -> None:
        for record in content["classification"]:
            if (record["arm"], record["site"], record["finding"]) == ("federated", "children", "Pneumonia"):
                record["low"] = 0.4

    change(run, "metrics.json", untold)
    found = answer_of(run).short
    assert found.startswith("On phantoms: In part. ")
    assert "Of pairs of finding and site, 5 of 6 are told, and in 2 of 2 with enough boxes lesions are found." in found


def test_chance_is_left_out_where_it_is_not_that_of_the_mean(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def other(content: dict[str, Any]) -> None:
        content["groups"]["tail"], content["groups"]["medium"] = [], ["Effusion"]

    change(run, "evaluation.json", other)
    tail = dict(answer_of(run).evidence)["Long tail"]
    assert tail[0] == "Medium (Effusion): average precision 0.800 [0.70, 0.90]."
    assert tail[1].startswith("No finding has fewer than 100 training images that show it")


@pytest.mark.parametrize("control", ["random_map", "centre_prior", "gaussian_prior", "shuffled"])
def test_maps_find_only_what_every_control_of_the_evaluation_misses(tmp_path: Path, control: str) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def as_good(content: dict[str, Any]) -> None:
        for record in content["localization"]:
            if (record["finding"], record["metric"]) == ("Tuberculosis", "pointing_game"):
                record[control] = record["low"]

    change(run, "evaluation.json", as_good)
    found = answer_of(run)
    assert found.short.startswith("On phantoms: In part. ")
    assert "its maps find 1 of the 2" in found.short
    (failed,) = dict(found.evidence)["Where localization fails"][1:]
    assert failed.startswith("Tuberculosis at harbour: pointing game")


@pytest.mark.parametrize(("excess", "found"), [(-0.01, False), (0.01, True)])
def test_maps_find_what_exceeds_its_controls_on_the_same_images(tmp_path: Path, excess: float, found: bool) -> None:
    """The interval of the difference decides, not whether the figure's own one reaches down to the control."""
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def paired(content: dict[str, Any]) -> None:
        for record in content["localization"]:
            if (record["finding"], record["metric"]) == ("Tuberculosis", "pointing_game"):
                record |= {"excess_low": excess, "centre_prior": record["low"]}

    for name in ("metrics.json", "evaluation.json"):
        change(run, name, paired)
    assert (f"its maps find {1 + found} of the 2" in answer_of(run).short) is True


def test_maps_are_compared_with_those_of_the_other_arms(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    said = dict(answer_of(run).evidence)["Localization"]
    assert said[1:] == [
        f"Maps against those of {arm}, on the same images: pointing game better for Pneumonia at north (+0.120 "
        "[+0.070, +0.170], p 0.020 corrected), no difference shown in 1 of 2 comparisons. IoU worse for "
        "Pneumonia at north (−0.080 [−0.130, −0.030], p 0.020 corrected); Tuberculosis at harbour (−0.080 [−0.130, "
        "−0.030], p 0.020 corrected)."
        for arm in ("local", "pooled")
    ]
    page = render(read_run(run))
    assert "<h3>Maps of the arms on the same images</h3>" in page
    assert 'href="#tests"' not in page  # maps of the arms are no rows of the table of scores
    for missing in ([], None):  # an older evaluation compares no maps; of few images there is no p
        change(run, "evaluation.json", lambda c, m=missing: drop(c, m))
        assert not any(s.startswith("Maps against") for s in dict(answer_of(run).evidence)["Localization"])


def drop(content: dict[str, Any], records: list[Any] | None) -> None:
    if records is None:
        content["comparisons"] = [r | {"p": None, "p_holm": None} for r in content["was"]]
    else:
        content["was"], content["comparisons"] = content["comparisons"], records


@pytest.mark.parametrize("check", ["shuffled", "other_findings"])
def test_maps_that_fail_a_check_are_found_in_doubt_only(tmp_path: Path, check: str) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    assert answer_of(run).rows[0].maps == "found"

    def alike(content: dict[str, Any], value: float) -> None:
        for record in content["checks"]:
            if (record["site"], record["check"]) == ("north", check):
                record["value"] = value

    change(run, "evaluation.json", lambda c: alike(c, 0.5))
    assert answer_of(run).short.startswith("On phantoms: Yes. ")
    change(run, "evaluation.json", lambda c: alike(c, 0.62))
    found = answer_of(run)
    what = {"shuffled": "shuffled weights", "other_findings": "other findings"}[check]
    assert found.short.startswith("On phantoms: In part. ")
    assert "its maps find 2 of the 2 with enough boxes (1 in doubt)" in found.short
    assert found.short.endswith(f"Found, but in doubt: Pneumonia at north, maps resemble those of {what} (0.62).")
    said = dict(found.evidence)["Localization"]
    start = f"Maps resemble those of {what}, rank correlation above 0.5: Pneumonia at north (0.62): they show"
    assert sum(s.startswith(start) for s in said) == 1
    maps = f"found, but in doubt; maps resemble those of {what} (0.62)"
    assert [row.maps for row in found.rows if row.pointing.value is not None] == [maps, "found"]
    assert maps in render(read_run(run))


@pytest.mark.parametrize(("negatives", "word"), [("own", "border"), ("others", "site")])
def test_what_is_told_by_the_border_is_no_plain_yes(tmp_path: Path, negatives: str, word: str) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def border(content: dict[str, Any]) -> None:
        content["lesions"][0] |= {"low": -0.1}
        content["borders"][0] |= {"value": 0.85, "low": 0.8, "high": 0.9, "negatives_of": negatives}

    change(run, "evaluation.json", border)
    short = answer_of(run).short
    assert short.startswith("On phantoms: In part. ")
    start = "Told at least in part by the border of the film, lesions not shown to count"
    assert short.endswith(f"{start}: Pneumonia at north ({word}).")


LARGE = {"value": 0.85, "low": 0.8, "high": 0.9}
SMALL = {"value": 0.52, "low": 0.45, "high": 0.59}


@pytest.mark.parametrize(
    ("lesions", "border", "said"),
    [
        (
            {},
            LARGE | {"negatives_of": "others"},
            "Lesions count, and so does the border of the film: {} (disease and site).",
        ),
        (
            {},
            LARGE | {"low": 0.55},
            "Lesions count, and so does the border of the film: {} (disease, partly border).",
        ),
        ({"low": -0.1}, SMALL, "Neither lesions nor the border of the film are shown to count: {}."),
        ({"p_holm": 0.07}, SMALL, "Neither lesions nor the border of the film are shown to count: {}."),
        ({"n": 3}, {"low": None}, "Neither lesions nor the border of the film are shown to count: {}."),
        (None, None, "Not tested whether it is the disease or the site: {}."),
    ],
)
def test_what_may_be_the_site_is_no_plain_yes(
    tmp_path: Path, lesions: dict[str, Any] | None, border: dict[str, Any] | None, said: str
) -> None:
    """At the hospital of positives only, too."""
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def harbour(content: dict[str, Any]) -> None:
        for name, values in (("lesions", lesions), ("borders", border)):
            content[name] = [content[name][0], *([content[name][1] | values] if values is not None else [])]

    assert answer_of(run).short.startswith("On phantoms: Yes. ")
    change(run, "evaluation.json", harbour)
    short = answer_of(run).short
    assert short.startswith("On phantoms: In part. ")
    assert said.format("Tuberculosis at harbour") in short


def test_a_finding_is_told_only_where_the_corrected_p_says_so(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def chance(content: dict[str, Any], p: float) -> None:
        for record in content["classification"]:
            if record["metric"] == "auroc" and record["finding"] == "Tuberculosis":
                record |= {"p": p / 3, "p_holm": p}

    change(run, "evaluation.json", lambda c: chance(c, 0.01))
    assert "tells 3 of 3 findings" in answer_of(run).short
    change(run, "evaluation.json", lambda c: chance(c, 0.06))
    found = answer_of(run)
    assert found.short.startswith("On phantoms: In part. The federated model tells 2 of 3 findings")
    said = dict(found.evidence)["Classification"]
    assert "and p < 0.05 corrected for the number of pairs" in said[0]
    assert said[1].startswith("Not shown to be above 0.5: Tuberculosis at south")


def test_an_outside_site_is_compared_with_every_local_model(tmp_path: Path) -> None:
    said = dict(answer_of(write_fake_run(tmp_path)).evidence)["Federated against local"]
    assert "valley (against north's model) better" in said[0]
    assert not any("No such figure at valley" in s for s in said)


def test_the_tail_and_the_mean_over_sites_are_compared(tmp_path: Path) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))
    head = {"arm": "federated", "site": "macro", "metric": "average_precision", "n": 100, "findings": 2, "tests": 3}

    def means(content: dict[str, Any]) -> None:
        content["comparisons"] += [
            {**head, "against": arm, "finding": name, "value": -0.08, "low": -0.13, "high": -0.03, "p": p, "p_holm": p}
            for arm, p in (("local", 0.2), ("pooled", 0.01), ("fedprox", 0.03), ("scaffold", 0.4))
            for name in ("macro", "tail")
        ]

    change(run, "evaluation.json", means)
    evidence = dict(answer_of(run).evidence)
    worse, open_ = "worse (−0.080 [−0.130, −0.030], p 0.010 corrected)", "no difference shown (−0.080"
    assert evidence["Federated against pooled"][0] == f"Macro, mean over the training sites: average precision {worse}."
    assert f"; against local {open_}" in evidence["Long tail"][1]
    assert evidence["Long tail"][1].endswith(f"; against pooled {worse}.")
    read = read_run(run)
    arms = [*read.run.arms, "fedprox", "scaffold"]
    first = summarise(replace(read, run=replace(read.run, arms=arms)), Results(read)).results
    assert any(
        s.startswith(f"Federated minus pooled, on the same patients: average precision {worse}; ") for s in first
    )
    assert any(s.startswith(f"Federated minus local, on the same patients: average precision {open_}") for s in first)
    assert (
        "average precision on the same patients: worse than fedprox; no difference shown from the other 1." in first[-3]
    )


@pytest.mark.parametrize(
    ("low", "boxes", "word", "meaning"),
    [
        (0.8, True, "Border", "lesions are not shown to count: this points to how, where or of whom"),
        (0.8, False, "Border, lesions not tested", "no boxes, or too few, tell whether lesions count."),
        (0.6, True, "Partly border", "the border of the film counts, and lesions are not shown to."),
        (0.6, False, "Partly border, lesions not tested", "no boxes, or too few, tell whether lesions count."),
    ],
)
def test_the_border_is_judged_by_its_low_bound_and_lesions_only_with_boxes(
    tmp_path: Path, low: float, boxes: bool, word: str, meaning: str
) -> None:
    run = write_fake_evaluation(write_fake_run(tmp_path))

    def border(content: dict[str, Any]) -> None:
        content["lesions"] = [content["lesions"][0] | {"low": -0.1}] if boxes else []
        content["borders"] = [content["borders"][0] | {"value": 0.86, "low": low, "high": 0.88}]

    change(run, "evaluation.json", border)
    (said,) = dict(answer_of(run).evidence)["Disease or site"]
    share = f"90 % [{75 if low == 0.8 else 25}, 95] by the border alone"
    assert said.startswith(f"{word}: Pneumonia at north ({share}) – ")
    assert meaning in said
    assert ("points to" in said) == (boxes and low == 0.8)


def test_the_border_of_a_tightly_cropped_film_is_said_to_hold_lung(tmp_path: Path) -> None:
    page = render(read_run(write_fake_evaluation(write_fake_run(tmp_path))))
    assert "unless the film is tightly cropped: its border then holds some lung" in page
    assert "hardly by the lungs" not in page


@pytest.mark.parametrize("lesions", [LESIONS, LESIONS | {"low": -0.1}, None])
@pytest.mark.parametrize("border", [MUCH, UNSURE, {}, {"low": None}])
@pytest.mark.parametrize("negatives", ["own", "others"])
def test_every_verdict_has_a_meaning(lesions: Any, border: dict[str, Any], negatives: str) -> None:
    assert judge(lesions, BORDER | border | {"negatives_of": negatives}).word in MEANING


def test_a_site_below_chance_is_named_and_is_no_plain_yes(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)

    def inverted(content: dict[str, Any]) -> None:
        for record in content["classification"]:
            if (record["arm"], record["site"], record["finding"]) == ("federated", "south", "Tuberculosis"):
                record |= {"value": 0.283, "low": 0.24, "high": 0.32}

    change(run, "metrics.json", inverted)
    found = answer_of(run)
    assert found.short.startswith("On phantoms: In part. ")
    assert "Below 0.5: Tuberculosis at south (0.283 [0.24, 0.32])." in found.short
    said = dict(found.evidence)["Classification"]
    assert said[1].startswith(
        "Below 0.5, with the whole interval, so ranked the wrong way round: Tuberculosis at south"
    )
    assert not any(line.startswith("Not shown") for line in said)


def test_a_class_of_few_patients_is_told(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)

    def few(content: dict[str, Any]) -> None:
        for record in content["classification"]:
            if record["site"] == "south" and record["finding"] in ("Tuberculosis", "macro"):
                record |= {"low": None, "high": None, "positives": record["n"] - 1}

    change(run, "metrics.json", few)
    page = render(read_run(run))
    assert "too few: 1 negative" in page
    assert "Too few patients of a class to say: Tuberculosis at south." in text(answer_of(run))

    def many_of_few(content: dict[str, Any]) -> None:
        for record in content["classification"]:
            if record["site"] == "south" and record["finding"] == "Tuberculosis":
                record |= {"low": None, "high": None, "positives": record["n"] - 6}

    change(run, "metrics.json", many_of_few)
    assert "too few patients of a class" in render(read_run(run))


def test_worst_misses_are_shown_apart(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path)
    assert "Worst misses" not in render(read_run(run))

    def missed(content: list[dict[str, Any]]) -> None:
        content[-1]["why"] = next(e for e in content if e["finding"])["why"] = "miss"

    change(run, "gallery/gallery.json", missed)
    random, _, misses = render(read_run(run)).partition("<h3>Worst misses</h3>")
    before = random[random.index('<section id="gallery">') :].count('<figure class="row">')
    assert (before, misses.count('<figure class="row">')) == (5, 1)
