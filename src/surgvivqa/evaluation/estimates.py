"""Figures of the same questions under several conditions, with 95% intervals by Student's t over videos.

The figures are functions of counts per video (questions, correct answers, changed answers). The intervals are those of
``evaluation.intervals``: centred on the figure of all questions, with the jackknife's standard error over videos. For
the difference of two accuracies on the same, equally many questions of each video this is the paired t-interval of the
videos' differences.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.intervals import interval_around, jackknife_error

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, as fractions.

    Attributes:
        value: the figure of all questions; None if it is not defined, such as a share of an accuracy of 0.
        low: lower end of the interval; None with fewer than two videos, or if the figure is not defined without one.
        high: upper end.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval; None if there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def count_by_video(videos: Sequence[str], columns: Sequence[Sequence[float]]) -> Counts:
    """Sums the columns by video: ``[V, 1 + K]``, the number of questions first; copies of a video count as one video.

    Args:
        videos: the video of each of Q questions.
        columns: K columns of Q values.
    """
    names, index = np.unique([base_video(video) for video in videos], return_inverse=True)
    values = np.column_stack([np.ones(len(videos)), *(np.asarray(column, np.float64) for column in columns)])
    counts = np.zeros((len(names), values.shape[1]))
    np.add.at(counts, index, values)
    return counts


def estimate(
    counts: Counts, figure: Callable[[Counts], NDArray[np.float64]], least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """A figure of the sums over videos, with its interval.

    Args:
        counts: ``[V, K]`` counts by video (``count_by_video``).
        figure: computes the figure from sums ``[..., K]``; it is NaN or infinite where it is not defined.
        least: the smallest value that the figure can have; the interval is cut there.
        most: the largest one.
    """
    total = counts.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, left_out = float(figure(total)), figure(total - counts)
    if not math.isfinite(value):
        return Estimate(None)
    videos = len(counts)
    if videos < 2 or not np.isfinite(left_out).all():
        return Estimate(value)
    low, high = interval_around(value, float(jackknife_error(left_out)), videos)
    return Estimate(value, max(least, low), min(most, high))


def format_interval(found: Estimate) -> str:
    """The interval in %, such as ``20.1 to 36.0``; ``-`` if there is none."""
    return "-" if found.low is None or found.high is None else f"{_percent(found.low)} to {_percent(found.high)}"


def format_percent(found: Estimate) -> str:
    """The figure in %, such as ``28.1``; ``-`` if it is not defined."""
    return "-" if found.value is None else _percent(found.value)


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:.1f}"  # never -0.0
