"""Tests whether two models differ on the same questions. The unit is the video, not the question.

Questions of one video share a patient, a camera and neighbouring frames, so the videos' paired differences are the
independent values (Miller, Adding Error Bars to Evals, arXiv 2411.00640, 2024). They give Student's t-interval and
p-value, which assume that the differences are normal, and an exact sign-flip test, which assumes only that under the
null hypothesis each video's difference could as well have the other sign (Fisher, The Design of Experiments, 1935,
section 21). With few videos that test cannot give a small p, so the smallest possible one is part of the result, and
so is the difference that the t-test would detect with 80% power.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.intervals import LEVEL, student_interval
from surgvivqa.evaluation.metrics import METRICS, Metrics, compute_metrics
from surgvivqa.evaluation.predictions import Prediction

QuestionKey = tuple[str, int, str, int]
POWER = 0.8
MOST_EXACT_VIDEOS = 20  # 2^20 sums of signs are 8 MB
DRAWS = 100_000
SEED = 0
# Sums of differences that are equal on paper differ by rounding. They are ties, and count against a small p.
_TOLERANCE = 1e-12
_SPREADS = 4096  # quantiles of the estimated spread, for the power; the error of the power is below 1e-4


@dataclass(frozen=True)
class PairedDifference:
    """The difference between a model and a reference on the same questions, as fractions.

    A value that cannot be computed is None: the interval with fewer than two videos, p of the t-test and the detectable
    difference also where all videos differ by the same amount.

    Attributes:
        difference: mean of the videos' differences, model minus reference. The interval and the tests are about it.
        low: lower end of its 95% t-interval over the videos, cut at -1 and 1.
        high: upper end.
        p_t: two-sided p of the t-test over the videos.
        p_sign_flip: two-sided p of the sign-flip test over the videos: exact up to ``MOST_EXACT_VIDEOS`` videos, else
            from ``DRAWS`` random flips. 1 without videos.
        least_p: the smallest p that the sign-flip test can give with so many videos.
        detectable: the true difference that the t-test detects in 80% of cases, at the 5% level, given the spread of
            the videos' differences.
        videos: number of videos.
        improved: number of videos with a difference above 0.
        worsened: number of videos with a difference below 0.
        right_to_wrong: questions that the reference answers correctly and the model does not.
        wrong_to_right: questions that the model answers correctly and the reference does not.
        pooled: difference of the metric over all questions, where videos with more questions count more.
        sd: standard deviation of the videos' differences; None with fewer than two videos.
        by_video: the difference of each video.
    """

    difference: float
    low: float | None
    high: float | None
    p_t: float | None
    p_sign_flip: float
    least_p: float
    detectable: float | None
    videos: int
    improved: int
    worsened: int
    right_to_wrong: int
    wrong_to_right: int
    pooled: float
    sd: float | None
    by_video: dict[str, float] = field(default_factory=dict)


def compare_accuracy(predictions: Sequence[Prediction], reference: Sequence[Prediction]) -> PairedDifference:
    """Compares the accuracy of a model with that of a reference on the same questions.

    Args:
        predictions: of the model, in any order.
        reference: predictions for the same questions, in any order.

    Raises:
        ValueError: the two do not have the same questions.
    """
    return compare_metric(predictions, reference, "acc")


def compare_metric(predictions: Sequence[Prediction], reference: Sequence[Prediction], name: str) -> PairedDifference:
    """Compares one of the five metrics; see ``compare_metrics``."""
    return compare_metrics(predictions, reference, (name,))[name]


def compare_metrics(
    predictions: Sequence[Prediction], reference: Sequence[Prediction], names: Sequence[str] = METRICS
) -> dict[str, PairedDifference]:
    """Compares the five metrics of a model with those of a reference on the same questions.

    A video's macro averages run over the classes that occur in that video, so their mean over the videos is not the
    macro average of all questions.

    Args:
        predictions: of the model, in any order.
        reference: predictions for the same questions, in any order.
        names: the metrics to compare.

    Returns:
        Metric name to difference.

    Raises:
        ValueError: the two do not have the same questions.
    """
    pairs = match_predictions(predictions, reference)
    by_video: dict[str, list[tuple[Prediction, Prediction]]] = defaultdict(list)
    for pair in pairs:
        by_video[base_video(pair[0].video)].append(pair)
    videos = sorted(by_video)
    metrics = [_metrics_of_pairs(by_video[video]) for video in videos]
    overall = _metrics_of_pairs(pairs)
    right_to_wrong = sum(old.correct and not new.correct for new, old in pairs)
    wrong_to_right = sum(new.correct and not old.correct for new, old in pairs)
    return {
        name: _summarise(
            {v: _difference(m, name) for v, m in zip(videos, metrics, strict=True)},
            pooled=_difference(overall, name),
            right_to_wrong=right_to_wrong,
            wrong_to_right=wrong_to_right,
        )
        for name in names
    }


def question_key(prediction: Prediction) -> QuestionKey:
    """What identifies a question in two evaluations: video, frame, question and true label."""
    return prediction.video, prediction.frame, prediction.question, prediction.answer


def match_predictions(
    predictions: Sequence[Prediction], reference: Sequence[Prediction]
) -> list[tuple[Prediction, Prediction]]:
    """Pairs the predictions for the same question, in the order of ``predictions``.

    A line that a question file repeats is paired as often as it occurs.

    Raises:
        ValueError: a question is in only one of them, or not equally often in both.
    """
    if len(predictions) != len(reference):
        raise ValueError(f"{len(predictions)} predictions cannot be paired with {len(reference)}")
    if all(question_key(new) == question_key(old) for new, old in zip(predictions, reference, strict=True)):
        return list(zip(predictions, reference, strict=True))  # in one order, as mostly; the search is much slower
    waiting: dict[QuestionKey, list[Prediction]] = defaultdict(list)
    for old in reversed(reference):
        waiting[question_key(old)].append(old)
    try:
        return [(new, waiting[question_key(new)].pop()) for new in predictions]
    except IndexError:
        raise ValueError("the predictions are not about the same questions") from None


def student_p(values: Sequence[float]) -> float | None:
    """Two-sided p of Student's t-test of a zero mean; None for fewer than two values, or values that are all equal."""
    if len(values) < 2 or (sd := _sd(values)) == 0:
        return None
    t = float(np.mean(values)) / (sd / math.sqrt(len(values)))
    return float(2 * stats.t.sf(abs(t), len(values) - 1))


def sign_flip_p(values: Sequence[float], draws: int = DRAWS, seed: int = SEED) -> float:
    """Two-sided p of the sign-flip test: how often the sum of the values under flips is as far from 0 as it is.

    Up to ``MOST_EXACT_VIDEOS`` values all 2^V flips are counted. Beyond, ``draws`` random flips are, and the unflipped
    values with them, so that p is not 0 and the test keeps its level (Phipson and Smyth, Permutation P-values Should
    Never Be Zero, 2010).

    Args:
        values: the videos' differences.
        draws: number of random flips.
        seed: seed of the random flips.
    """
    if not len(values):
        return 1.0
    array = np.asarray(values, np.float64)
    least = abs(array.sum()) - _TOLERANCE * np.abs(array).sum()
    if len(array) <= MOST_EXACT_VIDEOS:
        return float(np.mean(np.abs(_flipped_sums(array)) >= least))
    rng, as_far = np.random.default_rng(seed), 0
    for start in range(0, draws, 10_000):
        signs = rng.integers(0, 2, (min(10_000, draws - start), len(array)), np.int8) * 2.0 - 1.0
        as_far += int(np.sum(np.abs(signs @ array) >= least))
    return (1 + as_far) / (1 + draws)


def least_sign_flip_p(videos: int) -> float:
    """The smallest two-sided p that the exact sign-flip test can give: only all signs equal are as extreme."""
    return min(1.0, 2.0 ** (1 - videos))


def detectable_difference(sd: float, videos: int, power: float = POWER, level: float = LEVEL) -> float | None:
    """The true mean difference for which a two-sided t-test over the videos is significant with probability ``power``.

    Solved with the noncentral t distribution (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988),
    written as the mean of normal probabilities over the estimated spread; SciPy's ``nct`` is NaN for two videos.

    Args:
        sd: standard deviation of the videos' differences.
        videos: number of videos.
        power: probability of detection.
        level: 1 minus the level of the test.

    Returns:
        The difference in the unit of ``sd``; None with fewer than two videos or without spread.
    """
    if videos < 2 or sd <= 0:
        return None
    critical, threshold = _critical_values(videos - 1, level)

    def shortfall(shift: float) -> float:
        detected = special.ndtr(shift - threshold) + special.ndtr(-shift - threshold)
        return float(np.mean(detected)) - power

    most = critical + 2.0
    while shortfall(most) < 0:
        most *= 2
    return float(optimize.brentq(shortfall, 0.0, most)) * sd / math.sqrt(videos)


def _summarise(
    by_video: dict[str, float], *, pooled: float, right_to_wrong: int, wrong_to_right: int
) -> PairedDifference:
    values = list(by_video.values())
    count = len(values)
    mean = float(np.mean(values)) if values else 0.0
    sd = _sd(values) if count > 1 else None
    low, high = student_interval(values, -1, 1) or (None, None)
    return PairedDifference(
        difference=mean,
        low=low,
        high=high,
        p_t=student_p(values),
        p_sign_flip=sign_flip_p(values),
        least_p=least_sign_flip_p(count),
        detectable=None if sd is None else detectable_difference(sd, count),
        videos=count,
        improved=sum(value > 0 for value in values),
        worsened=sum(value < 0 for value in values),
        right_to_wrong=right_to_wrong,
        wrong_to_right=wrong_to_right,
        pooled=pooled,
        sd=sd,
        by_video=by_video,
    )


@functools.lru_cache(maxsize=64)
def _critical_values(freedom: int, level: float) -> tuple[float, NDArray[np.float64]]:
    """The critical t, and the least shifted normal value that exceeds it at each quantile of the spread, ``[Q]``."""
    critical = float(stats.t.ppf(0.5 + level / 2, freedom))
    quantiles = (np.arange(_SPREADS) + 0.5) / _SPREADS
    return critical, critical * np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)


def _flipped_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of the values under all flips but the first value's, ``[2^(V-1)]``; the other half mirrors them."""
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _sd(values: Sequence[float]) -> float:
    """The sample standard deviation; exactly 0 for values that differ by rounding only."""
    sd = float(np.std(values, ddof=1))
    return 0.0 if sd <= _TOLERANCE * max(1.0, float(np.max(np.abs(values)))) else sd


def _metrics_of_pairs(pairs: Sequence[tuple[Prediction, Prediction]]) -> tuple[Metrics, Metrics]:
    truth = [new.answer for new, _ in pairs]
    return (
        compute_metrics(truth, [new.prediction for new, _ in pairs]),
        compute_metrics(truth, [old.prediction for _, old in pairs]),
    )


def _difference(metrics: tuple[Metrics, Metrics], name: str) -> float:
    return float(getattr(metrics[0], name) - getattr(metrics[1], name))
