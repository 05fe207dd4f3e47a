"""How often 95% intervals hold the true figure: the table of docs/evaluation.md.

    python -m experiments.coverage [--trials 2000]

Simulated test sets of a few videos are drawn from a population in which videos differ: in how well the model answers
(normal, standard deviation 0.35 on the logit scale, about 7 points of accuracy), in how often each of 20 labels occurs
(Dirichlet), and in their number of questions (500 to 3,500). The true figures are those of all questions of 20,000
videos. ``t`` is the interval of ``eval``; ``t of means`` is the textbook one around the mean of the videos' figures;
``bootstrap`` is the percentile bootstrap over videos.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgvivqa.evaluation.bootstrap import compute_resampled_metrics
from surgvivqa.evaluation.intervals import student_interval
from surgvivqa.evaluation.metrics import METRICS, metrics_of_videos

LABELS, POPULATION, RESAMPLES = 20, 20_000, 400
VIDEOS = (5, 10, 20, 45)
Ends = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Population:
    """Videos that differ.

    Attributes:
        share: ``[C]`` the mean share of each label.
        logit: ``[C]`` the mean logit of a right answer for each label.
        errors: ``[C, C]`` the shares of the answers where the answer is not certain to be right, by true label.
        spread: standard deviation between videos, on the logit scale.
    """

    share: NDArray[np.float64]
    logit: NDArray[np.float64]
    errors: NDArray[np.float64]
    spread: float = 0.35

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Population":
        """Draws a population."""
        share, logit = rng.dirichlet(np.full(LABELS, 0.6)), rng.normal(0.5, 1.0, LABELS)
        return cls(share, logit, rng.dirichlet(np.full(LABELS, 0.5), LABELS))

    def draw_video(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draws a video's confusion matrix, ``[C, C]``."""
        questions = rng.multinomial(rng.integers(500, 3501), rng.dirichlet(60 * self.share + 1e-9))
        right = 1 / (1 + np.exp(-self.logit - rng.normal(0.0, self.spread)))
        answers = (1 - right)[:, None] * self.errors + np.diag(right)
        return rng.multinomial(questions, answers / answers.sum(1, keepdims=True))


def all_intervals(confusion: NDArray[np.int64], seed: int) -> dict[str, Ends]:
    """The intervals of a test set, ``[V, C, C]``, by method and metric."""
    reported = metrics_of_videos(confusion).intervals
    videos = [metrics_of_videos(one[None]) for one in confusion]
    means = {name: student_interval([getattr(video, name) for video in videos]) for name in METRICS}
    resampled = compute_resampled_metrics(confusion, RESAMPLES, seed)
    drawn = {name: np.quantile(resampled[name], (0.025, 0.975)) for name in METRICS}
    assert reported is not None
    return {
        "t": reported,
        "t of means": {name: ends for name, ends in means.items() if ends is not None},
        "bootstrap": {name: (float(low), float(high)) for name, (low, high) in drawn.items()},
    }


def measure_coverage(videos: int, trials: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """The share of simulated test sets whose interval holds the true figure, by method and metric."""
    rng = np.random.default_rng([seed, videos])
    population = Population.draw(np.random.default_rng(seed))
    everything = sum(population.draw_video(rng) for _ in range(POPULATION))
    truth = metrics_of_videos(np.asarray(everything)[None])
    held: dict[str, dict[str, float]] = {}
    for trial in range(trials):
        confusion = np.stack([population.draw_video(rng) for _ in range(videos)])
        for method, ends in all_intervals(confusion, trial).items():
            counts = held.setdefault(method, dict.fromkeys(METRICS, 0.0))
            for name, (low, high) in ends.items():
                counts[name] += (low <= getattr(truth, name) <= high) / trials
    return held


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="simulated test sets for each number of videos")
    trials = parser.parse_args().trials
    print(f"| videos | interval | {' | '.join(METRICS)} |\n| --- | --- |{' --- |' * len(METRICS)}")
    for videos in VIDEOS:
        for method, shares in measure_coverage(videos, trials).items():
            print(
                f"| {videos} | {method} | {' | '.join(f'{100 * shares[name]:.1f}' for name in METRICS)} |", flush=True
            )


if __name__ == "__main__":
    main()
