"""95% intervals by Student's t over videos.

Questions of one video share a patient, a camera and neighbouring frames, so videos are independent and questions are
not. With few videos the t quantile (2.78 for five) makes the interval as wide as 95% asks for, which a percentile
bootstrap does not: ``experiments/coverage.py`` measures both.

The standard error of a figure is that of the jackknife over videos (Tukey 1958; Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 11), which leaves out one video at a time. The interval is centred on the figure of all
questions, the one that is reported. For the accuracy over videos with equally many questions this is the textbook
interval of the videos' accuracies; unlike that, it also holds for macro averages and F1, which are not means over
videos, and it always contains the reported figure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

METHOD = "Student's t over videos, jackknife standard error"
LEVEL = 0.95
Ends = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Intervals:
    """95% intervals of the metrics of all questions.

    Attributes:
        ends: metric name to (low, high), as fractions.
        videos: number of videos.
        method: what they were computed by.
        resamples: number of resamples of a bootstrap; None for other methods.
        seed: seed of the resamples; None for other methods.
    """

    ends: Ends
    videos: int
    method: str = METHOD
    resamples: int | None = None
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``metrics.json`` holds under ``intervals`` and ``bootstrap``."""
        drawn = {} if self.resamples is None else {"resamples": self.resamples, "seed": self.seed}
        ends = {name: list(ends) for name, ends in self.ends.items()}
        return {**ends, "method": self.method, "level": LEVEL, **drawn, "videos": self.videos}


def student_interval(
    values: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float] | None:
    """The 95% interval of the mean of independent values, such as figures of videos or their differences.

    Args:
        values: the values.
        least: the smallest value that their mean can have; the interval is cut there.
        most: the largest one.

    Returns:
        Both ends, in the unit of the values; None for fewer than two values, which show no variation.
    """
    if len(values) < 2:
        return None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    low, high = interval_around(float(np.mean(values)), error, len(values))
    return max(least, low), min(most, high)


def interval_around(figure: float, standard_error: float, videos: int) -> tuple[float, float]:
    """The 95% interval of a figure: Student's t with one degree of freedom fewer than there are videos.

    Args:
        figure: the figure, in any unit.
        standard_error: its standard error, in the same unit.
        videos: number of videos, at least two.
    """
    reach = float(stdtrit(videos - 1, (1 + LEVEL) / 2)) * standard_error
    return figure - reach, figure + reach


def jackknife_error(left_out: NDArray[np.float64]) -> NDArray[np.float64]:
    """The jackknife's standard error.

    Args:
        left_out: ``[V, ...]`` the figures of all questions but those of one video, for each of V videos.

    Returns:
        ``[...]`` float64, in the unit of the figures.
    """
    videos = len(left_out)
    return np.sqrt((videos - 1) / videos * ((left_out - left_out.mean(0)) ** 2).sum(0))


def fraction_intervals(
    figures: Mapping[str, float], left_out: Mapping[str, NDArray[np.float64]], videos: int
) -> Ends | None:
    """The 95% intervals of fractions, cut at 0 and 1.

    Args:
        figures: name to the figure of all questions.
        left_out: name to ``[V]``, the figures without the questions of one video.
        videos: number of videos, V.

    Returns:
        Name to both ends; None for fewer than two videos. Where all videos agree, both ends are the figure.
    """
    if videos < 2:
        return None
    ends = {}
    for name, figure in figures.items():
        low, high = interval_around(figure, float(jackknife_error(left_out[name])), videos)
        ends[name] = (max(0.0, low), min(1.0, high))
    return ends
