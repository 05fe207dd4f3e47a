"""95% intervals of the metrics by a bootstrap over videos.

Questions of one video share a patient, a camera and neighbouring frames, so videos are independent draws and questions
are not. A resample draws as many videos as there are, with replacement, and takes all questions of each: the cluster
bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The interval is the middle
95% of the resamples' metrics (Efron's percentile interval).
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
        videos: how many videos there are.
        resamples: how many resamples were drawn.
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


def confusion_by_video(predictions: Sequence[Prediction]) -> tuple[list[str], NDArray[np.int64]]:
    """Confusion matrices by video. A copy of a video under another name (``VID02_clean``) is the same video.

    Returns:
        The videos in order of their names, and ``[V, C, C]`` int64: questions by video, true label, predicted label.
    """
    by_video: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_video.setdefault(base_video(prediction.video), []).append(prediction)
    names = sorted(by_video)
    matrices = [
        confusion_matrix([p.answer for p in g], [p.prediction for p in g]) for g in map(by_video.get, names) if g
    ]
    return names, np.stack(matrices) if matrices else np.zeros((0, 0, 0), np.int64)


def resampled_videos(videos: int, resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.int64]:
    """``[R, V]`` int64: the videos that each resample draws, a function of the seed alone."""
    return np.random.default_rng(seed).integers(0, videos, (resamples, videos))


def resampled_metrics(
    confusion: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, NDArray[np.float64]]:
    """The metrics of every resample.

    Args:
        confusion: ``[V, C, C]`` as ``confusion_by_video`` gives it; every video has a question.
        resamples: R, how many to draw.
        seed: seed of the draw.

    Returns:
        Metric name to ``[R]`` float64 fractions, each equal to ``compute_metrics`` on the resample's questions.
    """
    drawn = resampled_videos(len(confusion), resamples, seed)
    times = np.stack([np.bincount(row, minlength=len(confusion)) for row in drawn])
    # The diagonal and the margins, [V, C] each, are enough: summing whole matrices would take [R, C, C].
    hits = times @ np.diagonal(confusion, axis1=1, axis2=2)
    return metrics_from_counts(hits, times @ confusion.sum(2), times @ confusion.sum(1))


def bootstrap_intervals(
    predictions: Sequence[Prediction], resamples: int = RESAMPLES, seed: int = SEED
) -> Intervals | None:
    """95% intervals of the metrics; None for fewer than two videos, which say nothing about how videos differ."""
    names, confusion = confusion_by_video(predictions)
    if len(names) < 2:
        return None
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    found = resampled_metrics(confusion, resamples, seed)
    ends = {}
    for name in METRICS:
        low, high = np.quantile(found[name], tails)
        ends[name] = (float(low), float(high))
    return Intervals(ends, len(names), resamples, seed)
