"""Verdicts: the most important one first, true to the figures."""

import dataclasses
import json
from typing import Any

from surgvivqa.data.dataset_overlaps import find_seen_videos
from surgvivqa.data.question_lists import Selection
from surgvivqa.datasets.description import load_description
from surgvivqa.evaluation.baseline_rows import missing_baselines
from surgvivqa.evaluation.dataset_facts import DatasetFacts
from surgvivqa.evaluation.format import format_report
from surgvivqa.evaluation.published import why_not_comparable
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.evaluation.verdicts import points, strongest_blind, with_verdicts
from tests.helpers.reports import VIDEOS, answers, report_of, row, with_all_questions

GOOD = answers({"exist": [9, 8, 7, 9, 9], "count": [6, 7, 6, 5, 6]})
MIDDLE = answers({"exist": [5, 5, 6, 4, 5], "count": [3, 4, 4, 3, 3]})
UNEVEN = answers({"exist": [9, 8, 7, 9, 9], "count": [2, 3, 3, 2, 2]})


def verdicts(model: list, *others: list, **given: str) -> list[str]:
    rows = [row(model, other, **given) for other in others]
    return list(with_verdicts(report_of(model, rows)).verdicts)


def test_a_model_that_does_not_beat_the_questions_alone_says_so_first() -> None:
    found = verdicts(MIDDLE, GOOD)
    assert found[0].startswith("The model does not beat the question-only baseline: accuracy 42.0% against 72.0% (mean")
    assert "over the 5 videos -30.0 points, 95% interval -40.8 to -19.2)" in found[0]
    assert "accuracy on counting 34.0% against 60.0% (-26.0 points, " in found[1]


def test_an_equal_accuracy_does_not_beat_it() -> None:
    assert verdicts(GOOD, GOOD)[0].startswith("The model does not beat the question-only baseline")


def test_a_model_that_beats_it_says_by_how_much() -> None:
    found = verdicts(GOOD, MIDDLE)
    assert found[0].startswith("The model beats the question-only baseline: accuracy 72.0% against 42.0%")
    assert "+30.0 points, 95% interval +19.2 to +40.8" in found[0]


def test_a_figure_below_it_comes_before_the_gain() -> None:
    found = verdicts(UNEVEN, MIDDLE)
    assert found[0].startswith("Below the question-only baseline: accuracy on counting 24.0% against 34.0% (-10.0")
    assert "existence" not in found[0] and "accuracy on count " not in found[0]
    assert found[1].startswith("The model beats") or found[1].startswith("The model is above")


def test_a_gain_within_the_interval_is_not_called_one() -> None:
    model, other = answers({"exist": [9, 2, 9, 1, 9]}), answers({"exist": [5, 5, 5, 5, 5]})
    assert (
        "is above the question-only baseline, but 5 videos do not show that it is better" in verdicts(model, other)[0]
    )


def test_a_single_video_has_a_verdict_without_an_interval() -> None:
    found = verdicts(answers({"exist": [9]}), answers({"exist": [5]}))
    assert "but one video does not show that it is better" in found[0]
    assert "no interval from a single video" in found[0]
    assert "an interval needs at least two videos" in found[1]


def test_the_strongest_baseline_without_frames_counts() -> None:
    blank = row(MIDDLE, GOOD, name="runs/blank", title="blank, trained on a blank picture")
    report = with_verdicts(report_of(MIDDLE, [row(MIDDLE, MIDDLE), blank]))
    assert strongest_blind(report) is blank
    named = "the best baseline without frames (blank, trained on a blank picture)"
    assert report.verdicts[0].startswith(f"The model does not beat {named}")


def test_another_model_is_no_baseline_without_frames() -> None:
    report = report_of(MIDDLE, [row(MIDDLE, MIDDLE), row(MIDDLE, GOOD, name="runs/full", sees_frames=True)])
    found = strongest_blind(report)
    assert found is not None and found.name == "question_only"


def test_missing_training_questions_are_no_verdict_on_the_model() -> None:
    report = with_verdicts(report_of(GOOD, missing_baselines("the training questions are not there")))
    first = "Whether the model beats a baseline without frames is not known: the training questions are not there."
    assert report.verdicts[0] == first


def test_a_report_without_baselines_still_has_verdicts() -> None:
    found = with_verdicts(report_of(GOOD)).verdicts
    assert found[0].startswith("With 5 videos the 95% interval of the accuracy is ")


def test_the_split_is_judged() -> None:
    report = report_of(GOOD)
    assert with_verdicts(with_all_questions(report)).verdicts[-1].startswith("All questions of SSG-QA's test split")
    drawn = with_verdicts(dataclasses.replace(report, synthetic=True)).verdicts[-1]
    assert drawn.endswith("beside these figures: the questions are those of the synthetic set.")


def test_training_questions_are_named_as_such_first() -> None:
    report = dataclasses.replace(report_of(MIDDLE, [row(MIDDLE, GOOD)]), split="train")
    assert with_verdicts(report).verdicts[0].startswith("These are the training questions, which the baselines were")


def test_an_interval_without_width_is_no_precision() -> None:
    found = with_verdicts(report_of(answers({"exist": [10, 10, 10]}))).verdicts
    assert found[0].startswith("All 3 videos have the same accuracy, so its 95% interval has no width")


def test_points_have_a_sign_and_no_negative_zero() -> None:
    assert [points(x, signed=True) for x in (0.0123, -0.0592, -0.0001)] == ["+1.2", "-5.9", "+0.0"]
    assert points(-0.0001) == "0.0"


def test_videos_that_were_seen_before_are_a_verdict() -> None:
    def said(*models: str) -> tuple[list[str], str]:
        found = find_seen_videos(VIDEOS, {f"--part-{n}": model for n, model in enumerate(models)})
        report = with_verdicts(report_of(GOOD, [row(GOOD, MIDDLE)], pretraining=found))
        return [v for v in report.verdicts if "before" in v], format_report(report)

    verdict, text = said("endovit_SPR.pth", "gpt2")
    assert verdict[0].startswith(
        "The figures may be too high, because videos of the split were seen before: --part-0 end"
    )
    assert "Pretraining: gpt2 has seen none of the videos, by docs/overlaps.md." in text
    assert "may have been seen before" in said("TimJaspersTue/SurgeNetModels")[0][0]
    verdict, text = said("gpt2", "me/mine")
    assert not verdict and "Pretraining: --part-1 me/mine is not in the table" in text


def test_a_list_of_questions_is_named() -> None:
    only = Selection("confirmed.jsonl", "0" * 64, listed=90, missing=2, selected=88, of=1000)
    report = with_verdicts(report_of(GOOD, [row(GOOD, MIDDLE)], only=only))
    assert (
        "All figures are about the questions that confirmed.jsonl lists: 88 of the 1,000 questions of the test split; "
        "2 of the 90 listed ones are not in it." in report.verdicts
    )
    assert why_not_comparable(report) == "only the questions that confirmed.jsonl lists were scored"
    assert EvaluationReport.from_json(json.loads(json.dumps(report.to_json()))).only == only


def test_published_results_on_another_data_set_need_all_of_its_test_questions() -> None:
    own = DatasetFacts.of_description(load_description("surgcheck"))
    only = Selection("confirmed.jsonl", "0" * 64, listed=90, missing=2, selected=88, of=1000)

    def said(**fields: Any) -> str:
        return with_verdicts(report_of(GOOD, [row(GOOD, MIDDLE)], **{"dataset": own} | fields)).verdicts[-1]

    assert "so published results may be set beside these" in said(skipped={"dropped": 3})
    assert "only some of the questions were scored (--only)" in said(only=only)
    assert "lines that cannot be used were left out" in said(skipped={"malformed": 1})
    other = dataclasses.replace(own, own_splits=False)
    assert "not those of the data set's own test split" in said(dataset=other)


def test_published_results_are_printed_where_they_may_be_compared_only() -> None:
    own = DatasetFacts.of_description(load_description("surgcheck"))
    title = own.published[0].title
    assert title in format_report(report_of(GOOD, dataset=own))
    assert title not in format_report(report_of(GOOD, dataset=own, split="val"))
