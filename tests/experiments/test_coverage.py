"""The simulation of docs/evaluation.md: seeded, and about the intervals that eval reports."""

import numpy as np
import pytest

from experiments.coverage import LABELS, Population, all_intervals
from surgvivqa.evaluation.metrics import METRICS, metrics_of_videos


def test_a_population_is_drawn_from_its_seed() -> None:
    first, second = (Population.draw(np.random.default_rng(3)) for _ in range(2))
    videos = [population.draw_video(np.random.default_rng(5)) for population in (first, second)]
    assert np.array_equal(videos[0], videos[1])
    assert videos[0].shape == (LABELS, LABELS) and 500 <= videos[0].sum() <= 3500


def test_it_measures_the_reported_intervals_the_textbooks_and_the_bootstraps() -> None:
    population, rng = Population.draw(np.random.default_rng(0)), np.random.default_rng(1)
    confusion = np.stack([population.draw_video(rng) for _ in range(5)])
    found = all_intervals(confusion, seed=0)
    metrics = metrics_of_videos(confusion)
    assert found["t"] == metrics.intervals
    assert list(found) == ["t", "t of means", "bootstrap"]
    low, high = found["t of means"]["acc"]
    assert (low + high) / 2 == pytest.approx(np.mean([metrics_of_videos(one[None]).acc for one in confusion]))
    assert all(ends[0] <= ends[1] for method in found.values() for ends in (method[name] for name in METRICS))
