"""Builds the report of an evaluation from its predictions."""

from collections.abc import Sequence
from typing import Any

from surgvivqa.evaluation.bootstrap import bootstrap_intervals
from surgvivqa.evaluation.calibration import compute_calibration
from surgvivqa.evaluation.contradictions import compute_contradictions
from surgvivqa.evaluation.generation import compute_generation
from surgvivqa.evaluation.metrics import compute_grouped_metrics, mean_label_loss, student_intervals
from surgvivqa.evaluation.predictions import Prediction, label_set_of
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.evaluation.wordings import compute_wordings


def build_report(predictions: Sequence[Prediction], **fields: Any) -> EvaluationReport:
    """The report on predictions: everything that follows from them alone is computed here.

    Args:
        predictions: the predictions, in any order.
        fields: the other fields of ``EvaluationReport``; ``calibration``, ``contradictions`` and ``wordings``
            follow from the predictions where they are not given.
    """
    if "calibration" not in fields:
        fields["calibration"] = compute_calibration(predictions)
    if "contradictions" not in fields:
        fields["contradictions"] = compute_contradictions(predictions)
    fields.setdefault("label_set", label_set_of(predictions))
    if "wordings" not in fields:
        fields["wordings"] = compute_wordings(predictions)
    if "generation" not in fields:
        fields["generation"] = compute_generation(predictions)
    metrics = compute_grouped_metrics(predictions)
    return EvaluationReport(
        metrics=metrics,
        intervals=student_intervals(metrics),
        bootstrap=bootstrap_intervals(predictions),
        loss=None if any(p.loss is None for p in predictions) else mean_label_loss(predictions),
        **fields,
    )
