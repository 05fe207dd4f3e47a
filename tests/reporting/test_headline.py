"""The first lines of a report."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.published import find_published
from surgvivqa.reporting.headline import (
    group_verdict,
    headline_notes,
    headline_rows,
    lead,
    picture_rows,
    published_rows,
    stored_verdicts,
)
from surgvivqa.reporting.results import read_results
from surgvivqa.reporting.sections import Verdict
from tests.helpers import sections
from tests.helpers.evaluations import write_evaluation

METRICS = {"acc": 0.6, "mAF1": 0.5, "n": 1000}


def content(**changes: Any) -> dict[str, Any]:
    intervals = {"acc": [0.5, 0.7]}
    plain = {**METRICS, "intervals": intervals, "by_video": {"VID02": {}, "VID22": {}}, "by_type": {}}
    return plain | {"baselines": None, "verdicts": []} | changes


def baseline(acc: float, low: float | None, *, sees_frames: bool = False, note: str | None = None) -> dict[str, Any]:
    difference = {"difference": 0.6 - acc, "low": low, "high": 0.9}
    metrics = {"acc": acc, "mAF1": 0.2, "intervals": None}
    found = {"name": "x", "title": "question only", "sees_frames": sees_frames, "metrics": metrics, "note": note}
    return found | {"difference": difference}


@pytest.mark.parametrize(
    ("baselines", "mark", "words"),
    [
        (None, "unknown", "what the questions alone give was not measured"),
        ([baseline(0.4, 0.1)], "pass", "The best baseline that never sees a frame reaches 40.0%."),
        ([baseline(0.4, -0.1)], "warn", "too few or too uneven videos to call it better"),
        ([baseline(0.4, None)], "warn", "too few or too uneven videos to call it better"),
        ([baseline(0.65, None)], "warn", "does not beat a baseline that never sees a frame: 60.0% of 1,000 questions"),
        ([baseline(0.4, 0.1), baseline(0.9, 0.1, sees_frames=True)], "pass", "reaches 40.0%"),
    ],
)
def test_the_first_sentence_says_whether_the_questions_alone_are_beaten(
    baselines: list[dict[str, Any]] | None, mark: str, words: str
) -> None:
    found = lead(content(baselines=baselines))
    assert found.mark == mark and words in found.text


def test_the_first_sentence_has_the_interval() -> None:
    assert "60.0% of 1,000 questions right (95% interval over 2 videos: 50.0 to 70.0%)" in lead(content()).text
    assert "interval" not in lead(content(intervals=None)).text


def test_the_evaluations_own_verdict_on_the_baselines_leads() -> None:
    own = "The model does not beat the question-only baseline: accuracy 60.0% against 65.0%."
    assert lead(content(baselines=[baseline(0.65, None)], verdicts=[own])) == Verdict("warn", own)
    below = "Below the question-only baseline: mAF1 20.0% against 22.0%."
    assert lead(content(verdicts=[below, own])).text == own
    assert "was not measured" in lead(content(verdicts=["With 5 videos the 95% interval is wide."])).text


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("The model beats the question-only baseline: ...", "pass"),
        ("The model does not beat the question-only baseline: ...", "warn"),
        ("Below the question-only baseline: mAF1 ...", "warn"),
        ("Also below it: mAF1 ...", "warn"),
        ("The model was shown black pictures, so ...", "warn"),
        ("The model is above it, but one video does not show that it is better: ...", "warn"),
        ("Whether the model beats a baseline without frames is not known: ...", "unknown"),
        ("The model is above it, but 5 videos do not show that it is better: ...", "warn"),
        ("With 5 videos the 95% interval of the accuracy is ...", "plain"),
    ],
)
def test_the_evaluations_own_verdicts_are_marked(text: str, mark: str) -> None:
    assert [verdict.mark for verdict in stored_verdicts(content(verdicts=[text]))] == [mark]


def test_rows_are_ordered_by_accuracy_below_the_run() -> None:
    rows = headline_rows("lora", content(baselines=[baseline(0.2, 0.1), baseline(0.9, 0.1, sees_frames=True)]))
    assert [(row.title, row.accuracy, row.is_ours) for row in rows] == [
        ("lora", 0.6, True),
        ("Question only", 0.9, False),
        ("Question only", 0.2, False),
    ]
    assert [row.note for row in rows] == ["", "", "never sees a frame"]


def test_a_baseline_that_could_not_be_computed_is_a_note() -> None:
    missing = baseline(0.2, 0.1, note="the training questions are not there") | {"metrics": None, "difference": None}
    assert len(headline_rows("lora", content(baselines=[missing]))) == 1
    assert headline_notes(content(baselines=[missing])) == ["question only: the training questions are not there."]
    assert "surgvivqa eval" in headline_notes(content())[0]


def test_the_same_model_without_its_frames_is_a_row() -> None:
    rows = picture_rows(sections.picture())
    assert [(row.title, row.accuracy) for row in rows] == [
        ("Same model on frames of another video", 0.35),
        ("Same model on black frames", 0.3),
    ]
    assert picture_rows(None) == []


def test_published_rows_need_all_questions_of_the_official_split(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "eval", [Prediction(video, 1, "?", 12, 12) for video in sorted(TEST_VIDEOS)])
    report = dataclasses.replace(read_results(tmp_path / "eval").report, synthetic=False)
    assert published_rows(report) == []
    overall = dataclasses.replace(report.metrics.overall, n=90_000)
    report = dataclasses.replace(report, metrics=dataclasses.replace(report.metrics, overall=overall))
    rerun = find_published("SSG-VQA-Net rerun")
    assert (rerun.title, rerun.figures["acc"] / 100) in [(row.title, row.accuracy) for row in published_rows(report)]


def test_the_weakest_and_the_strongest_type_are_named() -> None:
    types = {"counting": {"n": 50, "acc": 0.4}, "object": {"n": 50, "acc": 0.8}, "existence": {"n": 5, "acc": 0.1}}
    found = group_verdict(content(by_type=types))
    assert found is not None
    assert found.text == "Weakest on counting questions (40.0%), strongest on object questions (80.0%)."
    assert group_verdict(content()) is None
