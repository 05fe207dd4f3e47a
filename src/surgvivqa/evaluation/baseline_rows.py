"""The section ``baselines`` of ``metrics.json``: what is reached on the same questions by others than the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.baselines import TITLES
from surgvivqa.evaluation.intervals import student_interval
from surgvivqa.evaluation.metrics import Metrics, compute_grouped_metrics, groups_of
from surgvivqa.evaluation.paired import PairedDifference, compare_accuracy, match_predictions
from surgvivqa.evaluation.predictions import Prediction


@dataclass(frozen=True)
class GroupDifference:
    """The difference in accuracy between the model and a baseline on one group of questions, as fractions.

    Attributes:
        difference: mean of the videos' differences, model minus baseline.
        low: lower end of its 95% interval by Student's t over the videos, cut at -1 and 1; None for fewer than two
            videos.
        high: upper end.
    """

    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Baseline:
    """A baseline on the questions that the model was asked.

    Attributes:
        name: one of ``baselines.TITLES``, or the folder of another evaluation.
        title: what it is, for tables.
        sees_frames: whether its answers depend on the frame.
        metrics: its metrics; None where it could not be computed.
        by_type: its metrics by type, as those of the model.
        by_reasoning: its metrics by reasoning.
        difference: the difference in accuracy, model minus baseline; None where it could not be computed.
        groups: the difference in accuracy on each type and reasoning.
        note: why it could not be computed, or what limits it; None if there is nothing to say.
    """

    name: str
    title: str
    sees_frames: bool
    metrics: Metrics | None
    by_type: dict[str, Metrics] = field(default_factory=dict)
    by_reasoning: dict[str, Metrics] = field(default_factory=dict)
    difference: PairedDifference | None = None
    groups: dict[str, GroupDifference] = field(default_factory=dict)
    note: str | None = None


def missing_baselines(why: str) -> list[Baseline]:
    """The rows of the baselines that need the training questions, where these are not there."""
    return [Baseline(name, title, sees_frames=False, metrics=None, note=why) for name, title in TITLES.items()]


def build_baseline(
    name: str,
    title: str,
    predictions: Sequence[Prediction],
    baseline: Sequence[Prediction],
    *,
    sees_frames: bool = False,
    note: str | None = None,
) -> Baseline:
    """Compares the model with a baseline on the same questions.

    Args:
        name: see ``Baseline``.
        title: see ``Baseline``.
        predictions: of the model.
        baseline: of the baseline, in any order.
        sees_frames: see ``Baseline``.
        note: see ``Baseline``.

    Raises:
        ValueError: the two are not about the same questions.
    """
    metrics = compute_grouped_metrics(baseline)
    return Baseline(
        name,
        title,
        sees_frames,
        metrics.overall,
        metrics.by_type,
        metrics.by_reasoning,
        compare_accuracy(predictions, baseline),
        _compare_groups(predictions, baseline),
        note,
    )


def _compare_groups(predictions: Sequence[Prediction], baseline: Sequence[Prediction]) -> dict[str, GroupDifference]:
    """The difference in accuracy on each type and reasoning; a video counts where it has such questions."""
    gains: dict[str, dict[str, list[int]]] = {}
    for new, old in match_predictions(predictions, baseline):
        for group in groups_of(new):
            gains.setdefault(group, {}).setdefault(base_video(new.video), []).append(new.correct - old.correct)
    differences = {}
    for group in sorted(gains):
        values = [float(np.mean(gains[group][video])) for video in sorted(gains[group])]
        low, high = student_interval(values, -1, 1) or (None, None)
        differences[group] = GroupDifference(float(np.mean(values)), low, high)
    return differences
