"""Metrics of predictions, by SSG-VQA-Net's definition: macro averages run over the classes that occur in the truth."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.labels import LabelSet
from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.confusion import VideoCells, confusion_matrix
from surgvivqa.evaluation.intervals import Ends, Intervals, fraction_intervals
from surgvivqa.evaluation.predictions import Prediction, label_set_of

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
        intervals: 95% intervals by metric, over the videos with such questions; None for fewer than two videos, and
            where they were not computed.
    """

    n: int
    acc: float
    mAP: float  # noqa: N815  (names of metrics.json)
    mAR: float  # noqa: N815
    mAF1: float  # noqa: N815
    wF1: float  # noqa: N815
    intervals: Ends | None = None

    def to_json(self) -> dict[str, Any]:
        """The metrics by name, without intervals."""
        return {"n": self.n, **{name: getattr(self, name) for name in METRICS}}


METRICS = ("acc", "mAP", "mAR", "mAF1", "wF1")


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """The metrics of one label, as fractions.

    Attributes:
        n: number of questions whose true label it is.
        predicted: number of questions that were answered with it.
        precision: share of its predictions that are right; 0 for a label that is never predicted.
        recall: share of its questions that are answered right; 0 without such questions.
        f1: harmonic mean of precision and recall.
        intervals: 95% intervals of ``precision``, ``recall`` and ``f1``; None where fewer than two videos have
            questions with this label.
    """

    n: int
    predicted: int
    precision: float
    recall: float
    f1: float
    intervals: Ends | None = None


@dataclass(frozen=True)
class GroupedMetrics:
    """The metrics of all predictions and of their groups.

    Attributes:
        overall: of all predictions.
        acc_se: standard error of the accuracy over videos.
        by_reasoning: of the template questions by reasoning.
        by_type: of the template questions by type, and by the authors' groups of types.
        by_video: of all predictions by video.
        by_label: of all predictions by label, in label order; labels that are neither true nor predicted are left out.
    """

    overall: Metrics
    acc_se: float
    by_reasoning: dict[str, Metrics]
    by_type: dict[str, Metrics]
    by_video: dict[str, Metrics]
    by_label: dict[str, LabelMetrics] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The metrics' part of ``metrics.json``."""
        groups = {name: getattr(self, name) for name in ("by_reasoning", "by_type", "by_video", "by_label")}
        return {
            **self.overall.to_json(),
            "acc_se": self.acc_se,
            **{name: {key: dataclasses.asdict(m) for key, m in group.items()} for name, group in groups.items()},
        }


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
    figures = {name: float(values[0]) for name, values in metrics.items()}
    return Metrics(len(truth), **figures, intervals=None)


def metrics_of_videos(confusion: NDArray[np.int64]) -> Metrics:
    """Computes the metrics of all videos' questions, with 95% intervals over the videos.

    Args:
        confusion: ``[V, C, C]``, from ``compute_confusion_by_video``; every video has a question.

    Returns:
        The metrics; all are 0 without questions.
    """
    if not len(confusion):
        return compute_metrics([], [])
    # The diagonals and margins, [V, C] each, are enough.
    counts = np.stack([np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)])
    total = counts.sum(1, keepdims=True)
    figures = {name: float(values[0]) for name, values in metrics_from_counts(*total).items()}
    left_out = metrics_from_counts(*(total - counts)) if len(confusion) > 1 else {}
    intervals = fraction_intervals(figures, left_out, len(confusion))
    return Metrics(int(total[1].sum()), **figures, intervals=intervals)


def compute_grouped_metrics(predictions: Sequence[Prediction]) -> GroupedMetrics:
    """Computes the metrics of all predictions, by reasoning, by type, by video and by label, with 95% intervals."""
    cells = VideoCells.of_predictions(predictions)

    def by(key: Callable[[Prediction], str | None]) -> dict[str, Metrics]:
        groups: dict[str, list[int]] = {}
        for index, prediction in enumerate(predictions):
            name = key(prediction)
            if name:
                groups.setdefault(name, []).append(index)
        return {name: metrics_of_videos(cells.count(groups[name])) for name in sorted(groups)}

    label_set = label_set_of(predictions)
    is_ssg_qa = label_set.is_ssg_qa  # whose lines without a template have no reasoning
    by_type = by(lambda p: p.type if p.reasoning or not is_ssg_qa else None)
    by_type_group = by(lambda p: TYPE_GROUPS.get(p.type or "") if p.reasoning and is_ssg_qa else None)
    return GroupedMetrics(
        overall=metrics_of_videos(cells.count()),
        acc_se=accuracy_standard_error(predictions),
        by_reasoning=by(lambda p: p.reasoning),
        by_type=by_type | by_type_group,
        by_video=by(lambda p: p.video),
        by_label=_metrics_by_label(cells.count(), label_set),
    )


def groups_of(prediction: Prediction) -> list[str]:
    """The names of the groups in ``by_reasoning`` and ``by_type`` that a question belongs to."""
    kind = prediction.type or ""
    if not prediction.label_set.is_ssg_qa:
        return [name for name in (prediction.reasoning, kind) if name]
    if not prediction.reasoning:
        return []
    return [name for name in (prediction.reasoning, kind, TYPE_GROUPS.get(kind)) if name]


def student_intervals(metrics: GroupedMetrics) -> Intervals | None:
    """The 95% intervals of the metrics of all questions; None for fewer than two videos."""
    if metrics.overall.intervals is None:
        return None
    return Intervals(metrics.overall.intervals, len({base_video(video) for video in metrics.by_video}))


def accuracy_standard_error(predictions: Iterable[Prediction]) -> float:
    """Standard error of the accuracy: the standard deviation of the videos' accuracies over the root of their number.

    It is 0 for fewer than two videos.
    """
    by_video: dict[str, list[bool]] = {}
    for prediction in predictions:
        by_video.setdefault(base_video(prediction.video), []).append(prediction.correct)
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


def _metrics_by_label(confusion: NDArray[np.int64], label_set: LabelSet) -> dict[str, LabelMetrics]:
    """The metrics of each label that is true or predicted, over the videos in which it is; of ``[V, C, C]``."""
    counts = np.stack([np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)])
    by_label = {}
    for label in np.flatnonzero(counts[1:].sum((0, 1))):
        of_label = counts[:, counts[1:, :, label].any(0), label]
        total = of_label.sum(1, keepdims=True)
        figures = {name: float(values[0]) for name, values in _label_figures(*total).items()}
        _, n, predicted = map(int, total[:, 0])
        is_known = (of_label[1] > 0).sum() > 1
        left_out = _label_figures(*(total - of_label))
        intervals = fraction_intervals(figures, left_out, of_label.shape[1]) if is_known else None
        by_label[label_set.labels[label]] = LabelMetrics(n, predicted, **figures, intervals=intervals)
    return by_label


def _label_figures(
    hits: NDArray[np.int64], support: NDArray[np.int64], predicted: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of a label, ``[R]`` each, of ``[R]`` counts; 0 where a denominator is."""

    def ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)

    return {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, support + predicted),
    }
