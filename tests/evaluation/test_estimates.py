"""Figures with intervals over videos, against SciPy and plain computations."""

import numpy as np
import pytest
from scipy import stats

from surgvivqa.evaluation.estimates import Estimate, count_by_video, estimate


def test_counts_are_summed_by_video_and_copies_are_one_video() -> None:
    videos = ["VID02", "VID22", "VID02_clean", "VID22", "VID02"]
    counts = count_by_video(videos, [[True, True, False, False, True], [False, False, True, False, False]])
    assert counts.tolist() == [[3, 2, 1], [2, 1, 0]]


def test_the_interval_of_a_paired_difference_is_the_t_interval_of_the_videos_differences() -> None:
    rng = np.random.default_rng(0)
    hits = rng.integers(20, 60, (5, 2))
    counts = np.column_stack([np.full(5, 80), hits])
    found = estimate(counts, lambda c: (c[..., 1] - c[..., 2]) / c[..., 0])
    differences = (hits[:, 0] - hits[:, 1]) / 80
    low, high = stats.t.interval(0.95, 4, differences.mean(), stats.sem(differences))
    assert (found.value, found.low, found.high) == pytest.approx((differences.mean(), low, high))


def test_the_interval_of_a_ratio_is_the_jackknifes() -> None:
    counts = np.array([[50.0, 40, 30], [70, 50, 20], [90, 70, 45], [30, 11, 10]])

    def ratio(rows: np.ndarray) -> float:
        return float(1 - rows[:, 2].sum() / rows[:, 1].sum())

    left_out = np.array([ratio(np.delete(counts, video, 0)) for video in range(4)])
    error = np.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum())
    reach = stats.t.ppf(0.975, 3) * error
    found = estimate(counts, lambda c: (c[..., 1] - c[..., 2]) / c[..., 1])
    assert (found.value, found.low, found.high) == pytest.approx(
        (ratio(counts), ratio(counts) - reach, ratio(counts) + reach)
    )


def test_a_figure_that_is_not_defined_has_no_value_and_one_video_no_interval() -> None:
    def share(c: np.ndarray) -> np.ndarray:
        return c[..., 1] / c[..., 0]

    assert estimate(np.zeros((3, 2)), share) == Estimate(None)
    assert estimate(np.array([[4.0, 1]]), share) == Estimate(0.25)
    # Without the first video the share is 0 / 0.
    assert estimate(np.array([[4.0, 1], [0, 0]]), share) == Estimate(0.25)
