"""Reports of made-up evaluations, for tests of what is said about them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.baseline_rows import Baseline, build_baseline
from surgvivqa.evaluation.bootstrap import bootstrap_intervals
from surgvivqa.evaluation.metrics import compute_grouped_metrics, student_intervals
from surgvivqa.evaluation.predictions import Prediction, label_set_of
from surgvivqa.evaluation.report import EvaluationReport

VIDEOS = sorted(TEST_VIDEOS)
TYPES = {"exist": 12, "count": 1, "query_component": 34}  # with the index of a label


def answers(right: dict[str, Sequence[int]], questions: int = 10) -> list[Prediction]:
    """Predictions for ``questions`` questions of each type about each of the five test videos.

    Args:
        right: type to the number of right answers in each video.
        questions: number of questions of a type and a video.
    """
    return [
        Prediction(video, n, f"{kind} {n}", label, label if n < hits[v] else 0, reasoning="zero_hop", type=kind)
        for kind, label in TYPES.items()
        if (hits := right.get(kind))
        for v, video in enumerate(VIDEOS[: len(hits)])
        for n in range(questions)
    ]


def report_of(
    predictions: Sequence[Prediction], baselines: Sequence[Baseline] | None = None, **fields: Any
) -> EvaluationReport:
    """The report of an evaluation of SSG-QA's own questions; ``fields`` are further ones, or replace those."""
    metrics = compute_grouped_metrics(predictions)
    settings: dict[str, Any] = {
        "intervals": student_intervals(metrics),
        "bootstrap": bootstrap_intervals(predictions),
        "loss": None,
        "skipped": {},
        "skipped_frames": [],
        "checkpoint": "run",
        "split": "test",
        "max_samples": None,
        "synthetic": False,
        "mask": "prefix",
        "prompt_mode": "simple",
        "score_norm": "sum",
        "baselines": baselines,
        "label_set": label_set_of(predictions),
    }
    return EvaluationReport(metrics=metrics, **(settings | fields))


def row(predictions: Sequence[Prediction], baseline: Sequence[Prediction], **given: Any) -> Baseline:
    """A baseline's row, by default that of the question-only one."""
    return build_baseline(
        given.pop("name", "question_only"), given.pop("title", "question only"), predictions, baseline, **given
    )


def with_all_questions(report: EvaluationReport) -> EvaluationReport:
    """The report as if all questions of the standard test split had been scored."""
    overall = dataclasses.replace(report.metrics.overall, n=90_000)
    return dataclasses.replace(report, metrics=dataclasses.replace(report.metrics, overall=overall))
