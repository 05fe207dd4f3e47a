"""95% intervals of the metrics by a bootstrap over videos.

Questions of one video share a patient, a camera and neighbouring frames, so videos are independent and questions are
not. A resample draws V of the V videos with replacement and takes all questions of each: the cluster bootstrap (Davison
and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The interval is the middle 95% of the
resamples' metrics (Efron's percentile interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.metrics import METRICS, confusion_matrix, metrics_from_counts
from surgvivqa.evaluation.predictions import Prediction

METHOD = "percentile bootstrap over videos"
LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True)
class Intervals:
    """95% intervals.

    Attributes:
        ends: metric name to (low, high), as fractions.
        videos: number of videos.
        resamples: number of resamples.
        seed: seed of the draw.
    """

    ends: dict[str, tuple[float, float]]
    videos: int
    resamples: int = RESAMPLES
    seed: int = SEED

    def to_json(self) -> dict[str, Any]:
        """What ``metrics.json`` holds under ``intervals``."""
        return {
            **{name: list(ends) for name, ends in self.ends.items()},
            "method": METHOD,
            "level": LEVEL,
            "resamples": self.resamples,
            "seed": self.seed,
            "videos": self.videos,
        }


def compute_confusion_by_video(predictions: Sequence[Prediction]) -> tuple[list[str], NDArray[np.int64]]:
    """Counts the confusion matrix of each video. ``VID02_clean`` is a copy of ``VID02`` and counts as the same video.

    Returns:
        The names of the videos, sorted, and ``[V, C, C]`` int64: questions by video, true label, predicted label.
    """
    by_video: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_video.setdefault(base_video(prediction.video), []).append(prediction)
    names = sorted(by_video)
    matrices = [
        confusion_matrix([p.answer for p in by_video[name]], [p.prediction for p in by_video[name]]) for name in names
    ]
    return names, np.stack(matrices) if matrices else np.zeros((0, 0, 0), np.int64)


def draw_videos(videos: int, resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """Draws the videos of each resample: ``[R, V]`` int64, a function of the seed alone."""
    return np.random.default_rng(seed).integers(0, videos, (resamples, videos))


def compute_resampled_metrics(
    confusion: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, NDArray[np.float64]]:
    """Computes the metrics of every resample.

    Args:
        confusion: ``[V, C, C]``, from ``compute_confusion_by_video``; every video has a question.
        resamples: number of resamples, R.
        seed: seed of the draw.

    Returns:
        Metric name to ``[R]`` float64 fractions, each equal to ``compute_metrics`` on the resample's questions.
    """
    drawn = draw_videos(len(confusion), resamples, seed)
    multiplicity = np.stack([np.bincount(row, minlength=len(confusion)) for row in drawn])
    # The diagonals and margins, [V, C] each, are enough; sums of whole matrices would take [R, C, C].
    hits = multiplicity @ np.diagonal(confusion, axis1=1, axis2=2)
    return metrics_from_counts(hits, multiplicity @ confusion.sum(2), multiplicity @ confusion.sum(1))


def bootstrap_intervals(
    predictions: Sequence[Prediction], resamples: int = RESAMPLES, seed: int = SEED
) -> Intervals | None:
    """Computes 95% intervals of the metrics; None for fewer than two videos, which show no variation."""
    names, confusion = compute_confusion_by_video(predictions)
    if len(names) < 2:
        return None
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    resampled = compute_resampled_metrics(confusion, resamples, seed)
    ends = {}
    for name in METRICS:
        low, high = np.quantile(resampled[name], tails)
        ends[name] = (float(low), float(high))
    return Intervals(ends, len(names), resamples, seed)
