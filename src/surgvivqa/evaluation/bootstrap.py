"""95% intervals of the metrics by a bootstrap over videos, beside those of ``intervals``.

Questions of one video share a patient, a camera and neighbouring frames, so videos are independent and questions are
not. A resample draws V of the V videos with replacement and takes all questions of each: the cluster bootstrap (Davison
and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The interval is the middle 95% of the
resamples' metrics (Efron's percentile interval).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgvivqa.evaluation.confusion import compute_confusion_by_video
from surgvivqa.evaluation.intervals import LEVEL, Intervals
from surgvivqa.evaluation.metrics import METRICS, metrics_from_counts
from surgvivqa.evaluation.predictions import Prediction

METHOD = "percentile bootstrap over videos"
RESAMPLES = 10_000
SEED = 0


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
    videos = len(confusion)
    drawn = draw_videos(videos, resamples, seed) + videos * np.arange(resamples)[:, None]
    multiplicity = np.bincount(drawn.ravel(), minlength=videos * resamples).reshape(resamples, videos)
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
    return Intervals(ends, len(names), METHOD, resamples, seed)
