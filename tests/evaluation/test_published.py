"""Published results are data, and are set beside a run only where both are about the same questions."""

import dataclasses

import pytest

from surgvivqa.data.frames import BadFrame
from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.format import format_published
from surgvivqa.evaluation.metrics import METRICS, TYPE_GROUPS
from surgvivqa.evaluation.published import find_published, load_published, why_not_comparable
from surgvivqa.evaluation.report import EvaluationReport
from tests.helpers.reports import answers, report_of, with_all_questions

REPORT = with_all_questions(report_of(answers({"exist": [9, 8, 7, 9, 9], "count": [2, 3, 4, 2, 2]})))


def test_every_row_says_what_a_reader_must_know() -> None:
    for result in load_published():
        assert result.source and result.definition and result.split and result.questions and result.caveats
        assert set(result.figures) <= set(METRICS)
        assert set(result.groups) <= {*TYPE_GROUPS.values(), "zero_hop", "one_hop", "single_and"}
        assert all(1 < figure <= 100 for figure in (*result.figures.values(), *result.groups.values()))


def test_names_are_unique_and_an_unknown_one_is_an_error() -> None:
    names = [result.name for result in load_published()]
    assert len(names) == len(set(names))
    with pytest.raises(KeyError):
        find_published("SurgViVQA")


def test_comparable_rows_are_about_the_five_test_videos() -> None:
    for result in load_published():
        if result.comparable:
            assert set(result.split.split(", ")) == TEST_VIDEOS


def test_the_rerun_has_all_metrics_and_names_its_author() -> None:
    rerun = find_published("SSG-VQA-Net rerun")
    assert set(rerun.figures) == set(METRICS)
    assert any("its author also wrote the recipe" in caveat for caveat in rerun.caveats)


def test_the_printed_mean_is_no_figure() -> None:
    """54.9 is the mAP of a table headed F1."""
    assert all(54.9 not in (*r.figures.values(), *r.groups.values()) for r in load_published())
    assert "it is the mAP" in find_published("SSG-VQA-Net").caveats[0]


def test_a_model_with_oracle_boxes_is_not_comparable() -> None:
    assert not find_published("GNN-SurgVQA").comparable
    assert "GNN" not in format_published(REPORT)


def test_a_run_on_all_questions_stands_in_the_table() -> None:
    assert why_not_comparable(REPORT) is None
    lines = format_published(REPORT).splitlines()
    rerun = next(line for line in lines if line.startswith("SSG-VQA-Net, weights run again"))
    assert rerun.split()[-5:] == ["60.8", "55.0", "49.2", "50.4", "60.4"]
    ours = next(line for line in lines if line.startswith("this model"))
    assert ours.split()[3] == f"{100 * REPORT.metrics.overall.acc:.1f}"
    counting = next(line for line in lines if line.startswith("counting"))
    group = REPORT.metrics.by_type["counting"]
    assert counting.split()[1:] == ["28.6", f"{100 * group.mAP:.1f}", f"{100 * group.mAF1:.1f}"]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"synthetic": True}, "synthetic set"),
        ({"synthetic": None}, "not known to be SSG-QA's own"),
        ({"split": "val"}, "not the five test videos"),
        ({"max_samples": 90_000}, "not all questions"),
        ({"skipped_frames": [BadFrame("VID02", 3, "it is missing")]}, "were left out"),
    ],
)
def test_any_other_run_stands_beside_nothing(change: dict, reason: str) -> None:
    report: EvaluationReport = dataclasses.replace(REPORT, **change)
    assert reason in (why_not_comparable(report) or "")
    assert format_published(report) == ""


def test_four_of_the_videos_are_not_enough() -> None:
    report = with_all_questions(report_of(answers({"exist": [9, 8, 7, 9]})))
    assert "not the five test videos" in (why_not_comparable(report) or "")
