"""The checklist of what a reader needs to trust the figures."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.data.dataset_overlaps import find_seen_videos
from surgvivqa.data.question_lists import Selection
from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.crossval import CrossValidation
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.results import RunResults, read_results
from surgvivqa.reporting.trust import recipe, trust_points
from tests.helpers.evaluations import write_evaluation

PREDICTIONS = [Prediction(video, 1, "?", 12, 12) for video in sorted(TEST_VIDEOS)]


@pytest.fixture
def results(tmp_path: Path) -> RunResults:
    write_evaluation(tmp_path / "eval", PREDICTIONS)
    return read_results(tmp_path / "eval")


def marks(results: RunResults, content: dict[str, Any] | None = None, **changes: Any) -> dict[str, str]:
    results = dataclasses.replace(results, report=dataclasses.replace(results.report, **changes))
    found = content if content is not None else results.report.to_json()
    return {point.title: point.mark for point in trust_points(results, found)}


def why(results: RunResults, title: str, **changes: Any) -> str:
    results = dataclasses.replace(results, report=dataclasses.replace(results.report, **changes))
    return next(p.why for p in trust_points(results, results.report.to_json()) if p.title == title)


def test_synthetic_questions_are_no_official_split_but_have_exact_labels(results: RunResults) -> None:
    found = marks(results)
    assert (found["Official test split"], found["Exact labels"]) == ("warn", "pass")


def test_ssg_qas_labels_are_said_to_come_from_detectors(results: RunResults) -> None:
    assert marks(results, synthetic=False)["Exact labels"] == "warn"
    assert "detectors, not people" in why(results, "Exact labels", synthetic=False)


def test_the_five_test_videos_of_ssg_qa_are_the_official_split(results: RunResults) -> None:
    assert marks(results, synthetic=False)["Official test split"] == "pass"
    assert marks(results, synthetic=None)["Official test split"] == "unknown"
    assert marks(results, synthetic=False, split="val")["Official test split"] == "warn"


def test_a_cross_validation_is_not_the_test_split(results: RunResults) -> None:
    assert "A cross-validation:" in why(results, "Official test split", synthetic=False, crossval=CrossValidation(None))


def test_a_sample_and_a_part_of_ssg_qa_are_not_all_questions(results: RunResults) -> None:
    assert marks(results)["All questions"] == "pass"
    assert marks(results, max_samples=10)["All questions"] == "warn"
    assert marks(results, synthetic=False)["All questions"] == "warn"


def test_a_mask_that_leaks_is_a_warning(results: RunResults) -> None:
    assert marks(results)["No answer leak"] == "pass"
    assert marks(results, mask="bidirectional")["No answer leak"] == "warn"


@pytest.mark.parametrize(("low", "high", "mark"), [(0.01, 0.2, "pass"), (-0.01, 0.2, "warn"), (None, None, "unknown")])
def test_a_baseline_without_frames_is_beaten_only_with_an_interval_above_zero(
    results: RunResults, low: float | None, high: float | None, mark: str
) -> None:
    difference = {"difference": 0.1, "low": low, "high": high}
    metrics = {"acc": 0.3, "mAF1": 0.1}
    blind = {"title": "question only", "sees_frames": False, "metrics": metrics, "difference": difference}
    content = results.report.to_json() | {"baselines": [blind]}
    assert marks(results, content)["Better than without the frame"] == mark


def test_a_model_below_a_baseline_is_a_warning_without_an_interval_too(results: RunResults) -> None:
    difference = {"difference": -0.1, "low": None, "high": None}
    blind = {"title": "question only", "sees_frames": False, "metrics": {"acc": 1.1}, "difference": difference}
    assert marks(results, results.report.to_json() | {"baselines": [blind]})["Better than without the frame"] == "warn"


@pytest.mark.parametrize(("low", "high", "mark"), [(0.2, 0.5, "pass"), (-0.1, 0.5, "warn"), (None, None, "unknown")])
def test_the_frame_is_used_only_with_an_interval_above_zero(
    results: RunResults, low: float | None, high: float | None, mark: str
) -> None:
    gain = {"value": 0.3, "low": low, "high": high}
    content = results.report.to_json() | {"picture": {"overall": {"black": {"gain": gain}}}}
    assert marks(results, content)["The frame is used"] == mark


def test_what_was_not_recorded_is_unknown(results: RunResults) -> None:
    found = marks(results)
    unknown = {"Better than without the frame", "The frame is used", "Several seeds"}
    assert {title for title in unknown if found[title] == "unknown"} == unknown


def test_a_recipe_with_two_seeds_passes(results: RunResults) -> None:
    first, second = (dataclasses.replace(results, flags={"lr": 0.1, "seed": seed}) for seed in (0, 1))
    other = dataclasses.replace(results, flags={"lr": 0.2, "seed": 2})
    content = results.report.to_json()

    def mark(*runs: RunResults) -> str:
        return next(p.mark for p in trust_points(first, content, runs) if p.title == "Several seeds")

    assert (mark(first, second), mark(first, other), mark(first)) == ("pass", "warn", "warn")


def test_flags_that_change_no_result_do_not_make_another_recipe(results: RunResults) -> None:
    plain = dataclasses.replace(results, flags={"lr": 0.1})
    logged = dataclasses.replace(results, flags={"lr": 0.1})
    for name, value in {"report_to": ["wandb"], "log_interval": 7, "max_hours": 2.0, "checkpoint_dir": "b"}.items():
        logged = dataclasses.replace(logged, flags={**logged.flags, name: value})
    assert recipe(logged) == recipe(plain)
    assert recipe(dataclasses.replace(results, flags={"lr": 0.1, "splits_dir": "mine"})) != recipe(plain)


def test_the_checkpoint_is_picked_on_validation_questions(results: RunResults) -> None:
    trained = dataclasses.replace(results, flags={"best_metric": "acc"}, log=[{"step": 5, "val_acc": 0.5}])
    title = "Checkpoint picked without the test videos"
    assert marks(trained)[title] == "pass"
    assert marks(dataclasses.replace(trained, log=[{"step": 5, "loss": 1.0}]))[title] == "unknown"
    assert marks(results)[title] == "unknown"


def test_what_was_seen_in_pretraining_is_a_point(results: RunResults) -> None:
    def mark(*models: str) -> str:
        found = find_seen_videos(TEST_VIDEOS, {f"--part-{n}": model for n, model in enumerate(models)})
        return marks(results, synthetic=False, pretraining=found)["Not seen in pretraining"]

    assert mark("gpt2") == "pass" and mark("gpt2", "me/mine") == "unknown"
    assert mark("gpt2", "me/mine", "egeozsoy/EndoViT") == mark("TimJaspersTue/SurgeNetModels") == "warn"
    assert marks(results, synthetic=False, pretraining=None)["Not seen in pretraining"] == "unknown"
    assert marks(results, synthetic=True)["Not seen in pretraining"] == "pass"


def test_a_list_of_questions_is_not_all_of_them(results: RunResults) -> None:
    only = Selection("confirmed.jsonl", "0" * 64, listed=5, missing=0, selected=5, of=20)
    assert why(results, "All questions", only=only) == (
        "Only a part: 5 of 20 questions, those that confirmed.jsonl lists (--only)."
    )
