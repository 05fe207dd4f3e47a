"""The section ``evidence``: means over videos, intervals, and verdicts that follow from them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats

from surgvivqa.evaluation.evidence import (
    Evidence,
    EvidenceRecord,
    MethodResult,
    format_evidence,
    summarise_evidence,
)

TITLES = {"attention": "attention", "occlusion": "occlusion"}
HIT, MISS = MethodResult(True, False, 0.0, 0.5), MethodResult(False, False, 0.0, -0.1)


def record(video: str, *, asked: str = "color", attention: MethodResult = MISS, **values: Any) -> EvidenceRecord:
    given = {
        "changed_asked": True,
        "changed_elsewhere": 0.25,
        "drop_asked": 2.0,
        "drop_elsewhere": 0.5,
        "chance": 0.1,
        "centre_points": False,
    }
    methods = {"attention": attention, "occlusion": HIT}
    return EvidenceRecord(video, 0, "?", asked, 1, True, 0.9, methods=methods, **{**given, **values})


def summarise(records: list[EvidenceRecord]) -> Evidence:
    return summarise_evidence(records, TITLES, fill="surround", controls=4, left_out={"not grounded": 2})


VIDEOS = [
    record("VID02"),
    record("VID02", changed_asked=False, asked="count"),
    record("VID22", drop_asked=1.0),
    record("VID43", changed_elsewhere=0.0),
]


def test_shares_are_means_of_the_videos_means() -> None:
    evidence = summarise(VIDEOS)
    assert evidence.changed_asked.value == pytest.approx((0.5 + 1 + 1) / 3)
    assert evidence.changed_elsewhere.value == pytest.approx((0.25 + 0.25 + 0) / 3)
    assert evidence.drop_difference.value == pytest.approx((1.5 + 0.5 + 1.5) / 3)
    assert (evidence.n, evidence.videos, evidence.left_out) == (4, 3, {"not grounded": 2})


def test_intervals_are_students_over_videos() -> None:
    differences = [0.5 - 0.25, 1 - 0.25, 1 - 0.0]
    expected = stats.t.interval(0.95, 2, np.mean(differences), stats.sem(differences))
    difference = summarise(VIDEOS).changed_difference
    assert (difference.low, difference.high) == pytest.approx((expected[0], 1.0))  # it ends where the measure does
    drops = [1.5, 0.5, 1.5]
    difference = summarise(VIDEOS).drop_difference
    expected = stats.t.interval(0.95, 2, np.mean(drops), stats.sem(drops))
    assert (difference.low, difference.high) == pytest.approx(expected)


def test_copies_of_a_video_are_one_video() -> None:
    evidence = summarise([record("VID02"), record("VID02_clean", changed_asked=False), record("VID22")])
    assert evidence.videos == 2
    assert evidence.changed_asked.value == pytest.approx((0.5 + 1) / 2)


def test_the_groups_are_by_what_is_asked() -> None:
    groups = {group.asked: group for group in summarise(VIDEOS).by_asked}
    assert (groups["color"].n, groups["color"].changed_asked) == (3, 1.0)
    assert (groups["count"].n, groups["count"].changed_asked) == (1, 0.0)


def test_a_method_points_if_it_is_above_chance_and_above_random_weights() -> None:
    random = MethodResult(True, True, 0.0, 0.9)
    evidence = summarise([record(video, attention=random) for video in ("VID02", "VID22", "VID43")])
    attention, occlusion = evidence.methods
    assert (attention.pointing, attention.random_weights, attention.points) == (1.0, 1.0, False)
    assert (occlusion.pointing, occlusion.random_weights, occlusion.points) == (1.0, 0.0, True)
    assert occlusion.over_chance.value == pytest.approx(0.9)
    said = " ".join(evidence.verdicts)
    assert "occlusion (100%) points at the asked object, above chance (10%)" in said
    assert "not shown that attention (100%) points at it: 10% by chance, 100% with random weights" in said


def test_the_verdict_on_answers_needs_an_interval_above_0() -> None:
    assert "the answers depend on the asked object" in summarise([record(v) for v in ("VID02", "VID22")]).verdicts[0]
    equal = [record(v, changed_elsewhere=float(n)) for n, v in enumerate(("VID02", "VID22", "VID43"[:5]))]
    doubtful = [record("VID02", changed_elsewhere=1.0), *equal[1:], record("VID60", changed_asked=False)]
    assert "not shown that the answers depend" in summarise(doubtful).verdicts[0]


def test_a_map_that_is_the_same_for_other_questions_is_named() -> None:
    same = MethodResult(True, False, 1.0, 0.5)
    evidence = summarise([record(video, attention=same) for video in ("VID02", "VID22", "VID43")])
    assert evidence.verdicts[-1].startswith("It is not shown that attention depends on the question")


def test_one_video_has_neither_intervals_nor_verdicts() -> None:
    evidence = summarise([record("VID02"), record("VID02")])
    assert evidence.changed_difference.low is None
    assert evidence.methods[0].points is None
    assert "one video gives no interval" in evidence.verdicts[0]
    assert "One video gives no interval" in evidence.verdicts[1]


def test_questions_without_another_question_have_no_comparison() -> None:
    alone = MethodResult(True, False, None, None)
    attention = summarise([record(video, attention=alone) for video in ("VID02", "VID22")]).methods[0]
    assert attention.other_question is None and attention.over_other_question is None
    assert attention.randomisation_correlation is None


def test_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match="no question to summarise"):
        summarise([])


def test_the_section_comes_back_from_json() -> None:
    evidence = summarise(VIDEOS)
    adapter = TypeAdapter(Evidence)
    assert adapter.validate_json(adapter.dump_json(evidence)) == evidence
    assert adapter.validate_python(dataclasses.asdict(evidence)) == evidence


def test_the_table_for_the_terminal_has_a_row_for_each_map() -> None:
    text = format_evidence(summarise(VIDEOS))
    assert "Evidence on 4 questions of 3 videos (areas covered with surround)" in text
    assert "occlusion                      100.0     0.0     0.0    10.0    0.50" in text
