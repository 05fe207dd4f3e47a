"""Metrics of predictions, by SSG-VQA-Net's definition: macro averages run over the classes that occur in the truth."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.predictions import Prediction

# Question types that the data set's authors report together.
TYPE_GROUPS = {
    "query_color": "attribute",
    "query_type": "attribute",
    "query_location": "attribute",
    "query_component": "object",
    "exist": "existence",
    "count": "counting",
}


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one group of questions, as fractions.

    Attributes:
        n: number of questions.
        acc: accuracy.
        mAP: mean precision over the classes present (SSG-VQA-Net's name; not the mean average precision of detection);
            a class that is never predicted has precision 0.
        mAR: mean recall over the classes present.
        mAF1: mean F1 over the classes present.
        wF1: F1 weighted by the classes' support.
    """

    n: int
    acc: float
    mAP: float  # noqa: N815  (names of metrics.json)
    mAR: float  # noqa: N815
    mAF1: float  # noqa: N815
    wF1: float  # noqa: N815

    def to_json(self) -> dict[str, Any]:
        """The metrics by name."""
        return dataclasses.asdict(self)


METRICS = tuple(field.name for field in dataclasses.fields(Metrics) if field.name != "n")


@dataclass(frozen=True)
class GroupedMetrics:
    """The metrics of all predictions and of their groups.

    Attributes:
        overall: of all predictions.
        acc_se: standard error of the accuracy over videos.
        by_reasoning: of the template questions by reasoning.
        by_type: of the template questions by type, and by the authors' groups of types.
        by_video: of all predictions by video.
    """

    overall: Metrics
    acc_se: float
    by_reasoning: dict[str, Metrics]
    by_type: dict[str, Metrics]
    by_video: dict[str, Metrics]

    def to_json(self) -> dict[str, Any]:
        """The metrics' part of ``metrics.json``."""
        groups = {"by_reasoning": self.by_reasoning, "by_type": self.by_type, "by_video": self.by_video}
        return {
            **self.overall.to_json(),
            "acc_se": self.acc_se,
            **{name: {key: m.to_json() for key, m in group.items()} for name, group in groups.items()},
        }


def confusion_matrix(truth: Sequence[int], prediction: Sequence[int]) -> NDArray[np.int64]:
    """Counts questions by true label (row) and predicted label (column): ``[C, C]`` int64."""
    size = len(LABELS)
    cells = np.asarray(truth, np.int64) * size + np.asarray(prediction, np.int64)
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def metrics_from_counts(
    hits: NDArray[np.int64], support: NDArray[np.int64], predicted: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Computes the metrics of R confusion matrices from their diagonals and margins.

    Args:
        hits: ``[R, C]`` correct predictions by class.
        support: ``[R, C]`` questions by true class; at least one in each row.
        predicted: ``[R, C]`` questions by predicted class.

    Returns:
        Metric name to ``[R]`` float64 fractions.
    """
    present = support > 0
    classes, questions = present.sum(1), support.sum(1)

    def ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
        is_defined = present & (denominator > 0)
        return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=is_defined)

    f1 = ratio(2 * hits, support + predicted)
    return {
        "acc": hits.sum(1) / questions,
        "mAP": ratio(hits, predicted).sum(1) / classes,
        "mAR": ratio(hits, support).sum(1) / classes,
        "mAF1": f1.sum(1) / classes,
        "wF1": (f1 * support).sum(1) / questions,
    }


def compute_metrics(truth: Sequence[int], prediction: Sequence[int]) -> Metrics:
    """Computes the metrics of predicted labels; all are 0 without questions.

    Args:
        truth: true label of each question.
        prediction: predicted label of each question.
    """
    if len(truth) == 0:
        return Metrics(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    confusion = confusion_matrix(truth, prediction)
    present = confusion.sum(1) > 0  # other classes do not enter the metrics
    hits, support, predicted = np.diagonal(confusion)[present], confusion.sum(1)[present], confusion.sum(0)[present]
    metrics = metrics_from_counts(hits[None], support[None], predicted[None])
    return Metrics(len(truth), **{name: float(values[0]) for name, values in metrics.items()})


def compute_grouped_metrics(predictions: Sequence[Prediction]) -> GroupedMetrics:
    """Computes the metrics of all predictions, and by reasoning, by type and by video."""
    templates = [p for p in predictions if p.reasoning]
    by_type = _metrics_by_group(templates, lambda p: p.type)
    by_type_group = _metrics_by_group(templates, lambda p: TYPE_GROUPS.get(p.type or ""))
    return GroupedMetrics(
        overall=_metrics_of(predictions),
        acc_se=accuracy_standard_error(predictions),
        by_reasoning=_metrics_by_group(templates, lambda p: p.reasoning),
        by_type=by_type | by_type_group,
        by_video=_metrics_by_group(predictions, lambda p: p.video),
    )


def accuracy_standard_error(predictions: Iterable[Prediction]) -> float:
    """Standard error of the accuracy: the standard deviation of the videos' accuracies over the root of their number.

    It is 0 for fewer than two videos.
    """
    by_video: dict[str, list[bool]] = {}
    for prediction in predictions:
        by_video.setdefault(prediction.video, []).append(prediction.correct)
    means = [float(np.mean(hits)) for hits in by_video.values()]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0


def mean_label_loss(predictions: Sequence[Prediction]) -> float:
    """Mean negative log-likelihood of the true labels, in nats per question; 0 without questions.

    Raises:
        ValueError: a prediction has no loss, because not all labels were scored.
    """
    losses = [prediction.loss for prediction in predictions if prediction.loss is not None]
    if len(losses) != len(predictions):
        raise ValueError("a prediction has no loss: not all labels were scored")
    return float(np.mean(losses)) if losses else 0.0


def _metrics_of(predictions: Sequence[Prediction]) -> Metrics:
    return compute_metrics([p.answer for p in predictions], [p.prediction for p in predictions])


def _metrics_by_group(predictions: Sequence[Prediction], key: Callable[[Prediction], str | None]) -> dict[str, Metrics]:
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        name = key(prediction)
        if name is not None:
            groups.setdefault(name, []).append(prediction)
    return {name: _metrics_of(groups[name]) for name in sorted(groups)}
