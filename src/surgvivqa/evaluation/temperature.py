"""One temperature for all probabilities of a model (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

The ranking scores are divided by the temperature T before the softmax over the labels: with T > 1 the model becomes
less confident. The order of the labels stays, and with it every answer. T is fitted on the validation split alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp

FITTED_ON = "val"  # the split
LEAST, MOST = 0.01, 100.0  # temperatures that are tried
_ROWS = 8192  # rows in float64 at a time: 3 MB


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature, and what it belongs to. The content of ``temperature.json``.

    Attributes:
        temperature: the temperature, above 0.
        split: the split that it was fitted on.
        questions: number of questions of the fit.
        videos: the videos of the fit.
        log_score: mean of -log of the true label's probability in the fit, in nats, without it.
        log_score_after: the same at the temperature, where it is least.
        settings: what else the scores depend on, by name: ``score_norm`` and settings of the model.
        weights: checksum of the model's weights (``checkpoints.stored_temperature``).
        fitted: time of the fit, ISO 8601 with time zone.

    Raises:
        ValueError: the temperature is not between ``LEAST`` and ``MOST``, or was not fitted on the validation split.
    """

    temperature: float
    split: str
    questions: int
    videos: list[str]
    log_score: float
    log_score_after: float
    settings: dict[str, str | int]
    weights: str
    fitted: str

    def __post_init__(self) -> None:
        if not LEAST <= self.temperature <= MOST:
            raise ValueError(f"its temperature is not between {LEAST} and {MOST:g}")
        if self.split != FITTED_ON:
            raise ValueError(f"its split is not {FITTED_ON}")


class Tempered(NamedTuple):
    """What a temperature makes of each question's probabilities, ``[Q]`` float64 each.

    Attributes:
        confidence: probability of the predicted label.
        answer_probability: probability of the true label.
        brier: squared distance of the probabilities from the truth, summed over the labels.
    """

    confidence: NDArray[np.float64]
    answer_probability: NDArray[np.float64]
    brier: NDArray[np.float64]


def temper(
    rankings: NDArray[np.float32], predicted: NDArray[np.int64], truth: NDArray[np.int64], temperature: float
) -> Tempered:
    """Computes probabilities at a temperature.

    Args:
        rankings: ``[Q, C]`` ranking scores of the labels.
        predicted: ``[Q]`` index of the predicted label.
        truth: ``[Q]`` index of the true label.
        temperature: what the scores are divided by.
    """
    columns = Tempered(*(np.empty(len(rankings)) for _ in Tempered._fields))
    for part, rows in _parts(rankings):
        logs = rows / temperature
        probabilities = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        each = np.arange(len(rows))
        of_answer = probabilities[each, truth[part]]
        columns.confidence[part] = probabilities[each, predicted[part]]
        columns.answer_probability[part] = of_answer
        columns.brier[part] = np.maximum((probabilities**2).sum(1) - 2 * of_answer + 1, 0)
    return columns


def mean_log_score(rankings: NDArray[np.float32], truth: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean of -log of the true label's probability at a temperature, in nats; arguments as for ``temper``."""
    total = 0.0
    for part, rows in _parts(rankings):
        logs = rows / temperature
        total += float((logsumexp(logs, axis=1) - logs[np.arange(len(rows)), truth[part]]).sum())
    return total / len(rankings)


def fit_temperature(rankings: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Finds the temperature with the least mean log score.

    The log score is convex in b = 1/T. Its derivative, the mean over questions of (expected score - the true label's
    score), rises with b, so its zero is the minimum (Brent's method).

    Args:
        rankings: ``[Q, C]`` ranking scores of the labels.
        truth: ``[Q]`` index of the true label.

    Raises:
        ValueError: there is no minimum between ``LEAST`` and ``MOST``, as where all answers are right; the message says
            which way.
    """

    def slope(inverse: float) -> float:
        total = 0.0
        for part, rows in _parts(rankings):
            logs = rows * inverse
            probabilities = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
            total += float(((probabilities * rows).sum(1) - rows[np.arange(len(rows)), truth[part]]).sum())
        return total / len(rankings)

    if not len(rankings):
        raise ValueError("there are no questions")
    if slope(1 / LEAST) <= 0:
        raise ValueError(f"the log score falls down to a temperature of {LEAST}: too few answers are wrong")
    if slope(1 / MOST) >= 0:
        raise ValueError(f"the log score falls up to a temperature of {MOST:g}: the scores say nothing")
    # In the logarithm, since a tolerance in b would be coarse for large temperatures.
    zero = brentq(lambda log_inverse: slope(math.exp(log_inverse)), math.log(1 / MOST), math.log(1 / LEAST), xtol=1e-9)
    return math.exp(-float(zero))


def _parts(rankings: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Some rows at a time in float64, each row less its largest score, so that nothing overflows."""
    for start in range(0, len(rankings), _ROWS):
        part = slice(start, start + _ROWS)
        rows = rankings[part].astype(np.float64)
        yield part, rows - rows.max(axis=1, keepdims=True)
