"""Whether a model's probabilities can be trusted: calibration, proper scores, and answering or abstaining.

The confidence of an answer is its probability, the softmax of the ranking scores over all labels. All figures are of
this confidence and of whether the answer is right, except for the Brier and log score, which take the probabilities
of all labels.

Sources: reliability curve and expected calibration error in bins of equal width, Guo et al., On Calibration of Modern
Neural Networks (ICML 2017); in bins of equal mass, Naeini et al., Obtaining Well Calibrated Probabilities Using
Bayesian Binning (AAAI 2015); Brier score, Brier (1950); risk-coverage curve, Geifman and El-Yaniv, Selective
Classification for Deep Neural Networks (NeurIPS 2017); its excess area, Geifman et al. (ICLR 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from surgvivqa.data.splits import base_video
from surgvivqa.evaluation.estimates import estimate
from surgvivqa.evaluation.intervals import student_interval
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.temperature import Temperature, temper

BINS = 15
MOST_POINTS = 200  # of the risk-coverage curve in metrics.json
ECE_DEFINITION = (
    f"ece: sum over {BINS} bins of equal width ((i-1)/{BINS}, i/{BINS}] of the confidence in the predicted label, of "
    f"share of questions x |accuracy - mean confidence|. ece_equal_mass: the same over {BINS} bins of equally many "
    "questions, where questions of equal confidence stay in one bin. Intervals: 95%, Student's t over the videos' "
    "jackknife pseudo-values."
)
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability curve.

    Attributes:
        low: lower end of the confidences; of bins of equal mass the least confidence.
        high: upper end; of bins of equal mass the largest confidence.
        n: number of questions.
        confidence: their mean confidence.
        accuracy: their accuracy.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers if only the most confident ones are given, at up to 200 coverages.

    Attributes:
        coverage: share of the questions that are answered, ascending.
        risk: share of wrong answers among them; in expectation, where confidences are equal.
        threshold: the least confidence that is answered.
    """

    coverage: list[float]
    risk: list[float]
    threshold: list[float]


@dataclass(frozen=True)
class CalibrationFigures:
    """The figures of one set of probabilities.

    Attributes:
        n: number of questions.
        accuracy: share of right answers.
        confidence: mean probability of the predicted label.
        overconfidence: confidence minus accuracy; below 0 the model is too modest.
        overconfidence_interval: its 95% t-interval over the videos (``estimates``); None with fewer than two videos.
        ece: expected calibration error, ``ECE_DEFINITION``.
        ece_interval: its 95% interval; None with fewer than two videos.
        ece_equal_mass: the same in bins of equal mass.
        ece_equal_mass_interval: its 95% interval.
        brier: mean over questions of the squared distance from the truth, summed over the labels: 0 to 2.
        log_score: mean of -log of the true label's probability among all labels, in nats.
        bins: the reliability curve in bins of equal width; bins without questions are left out.
        equal_mass_bins: the reliability curve in bins of equal mass.
        failure_auroc: probability that a right answer has a higher confidence than a wrong one, ties counting half;
            None where all answers are right or all are wrong.
        risk_coverage: the risk-coverage curve.
        aurc: area under it: mean risk over the coverages 1/n, 2/n, ..., 1.
        aurc_oracle: the area if all right answers were more confident than all wrong ones.
        aurc_random: the area if confidence said nothing: the share of wrong answers.
        e_aurc: ``aurc - aurc_oracle``.
    """

    n: int
    accuracy: float
    confidence: float
    overconfidence: float
    overconfidence_interval: tuple[float, float] | None
    ece: float
    ece_interval: tuple[float, float] | None
    ece_equal_mass: float
    ece_equal_mass_interval: tuple[float, float] | None
    brier: float
    log_score: float
    bins: list[ReliabilityBin]
    equal_mass_bins: list[ReliabilityBin]
    failure_auroc: float | None
    risk_coverage: RiskCoverage
    aurc: float
    aurc_oracle: float
    aurc_random: float
    e_aurc: float


@dataclass(frozen=True)
class Calibration:
    """The section ``calibration`` of ``metrics.json``.

    Attributes:
        ece_definition: what ``ece`` and ``ece_equal_mass`` are.
        figures: of the model's probabilities.
        temperature: the temperature of ``after_temperature``; None if there is none.
        after_temperature: of the probabilities at that temperature.
    """

    ece_definition: str
    figures: CalibrationFigures
    temperature: Temperature | None = None
    after_temperature: CalibrationFigures | None = None


def compute_calibration(
    predictions: Sequence[Prediction],
    temperature: Temperature | None = None,
    rankings: NDArray[np.float32] | None = None,
) -> Calibration | None:
    """Computes the section ``calibration``.

    Args:
        predictions: the predictions.
        temperature: a temperature for a second set of figures.
        rankings: ``[Q, C]`` ranking scores of the predictions; needed for a temperature.

    Returns:
        The section; None without questions, or where not all labels were scored.
    """
    columns = [(p.probability, p.answer_probability, p.brier) for p in predictions]
    if not columns or any(value is None for row in columns for value in row):
        return None
    confidence, of_answer, brier = np.array(columns, np.float64).T
    videos = np.array([base_video(p.video) for p in predictions])
    correct = np.array([p.correct for p in predictions])
    figures = compute_figures(confidence, correct, of_answer, brier, videos)
    if temperature is None or rankings is None:
        return Calibration(ECE_DEFINITION, figures)
    tempered = temper(
        rankings,
        np.array([p.prediction for p in predictions]),
        np.array([p.answer for p in predictions]),
        temperature.temperature,
    )
    after = compute_figures(tempered.confidence, correct, tempered.answer_probability, tempered.brier, videos)
    return Calibration(ECE_DEFINITION, figures, temperature, after)


def compute_figures(
    confidence: Floats, correct: Bools, answer_probability: Floats, brier: Floats, videos: NDArray[np.str_]
) -> CalibrationFigures:
    """Computes the figures of at least one question.

    Args:
        confidence: ``[Q]`` probability of the predicted label.
        correct: ``[Q]`` whether it is the true one.
        answer_probability: ``[Q]`` probability of the true label.
        brier: ``[Q]`` squared distance from the truth.
        videos: ``[Q]`` the video of each question.
    """
    _, codes = np.unique(videos, return_inverse=True)
    width, mass = assign_equal_width(confidence), assign_equal_mass(confidence)
    gaps = confidence - correct
    gap = estimate(
        np.column_stack([np.bincount(codes), np.bincount(codes, gaps)]), lambda c: c[..., 1] / c[..., 0], -1, 1
    )
    risk = expected_risk(confidence, correct)
    wrong = int((~correct).sum())
    oracle = float(np.maximum(np.arange(1, len(correct) + 1) - (len(correct) - wrong), 0) @ _reciprocals(len(correct)))
    oracle /= len(correct)
    return CalibrationFigures(
        n=len(correct),
        accuracy=float(correct.mean()),
        confidence=float(confidence.mean()),
        overconfidence=float(gaps.mean()),
        overconfidence_interval=gap.interval,
        ece=expected_calibration_error(gaps, width),
        ece_interval=_ece_interval(gaps, width, codes),
        ece_equal_mass=expected_calibration_error(gaps, mass),
        ece_equal_mass_interval=_ece_interval(gaps, mass, codes),
        brier=float(brier.mean()),
        log_score=float(-np.log(np.maximum(answer_probability, np.finfo(np.float64).tiny)).mean()),
        bins=_build_bins(confidence, correct, width, ends=np.arange(BINS + 1) / BINS),
        equal_mass_bins=_build_bins(confidence, correct, mass),
        failure_auroc=failure_auroc(confidence, correct),
        risk_coverage=_downsample(confidence, risk),
        aurc=float(risk.mean()),
        aurc_oracle=oracle,
        aurc_random=wrong / len(correct),
        e_aurc=float(risk.mean()) - oracle,
    )


def format_calibration(calibration: Calibration) -> str:
    """Formats the calibration as a table: without a temperature, and with it if there is one."""

    def row(name: str, f: CalibrationFigures) -> str:
        interval = "" if f.ece_interval is None else f"{100 * f.ece_interval[0]:.1f}-{100 * f.ece_interval[1]:.1f}"
        auroc = "-" if f.failure_auroc is None else f"{100 * f.failure_auroc:.1f}"
        return (
            f"{name:<20}{100 * f.ece:>6.1f}{interval:>11}{100 * f.overconfidence:>+10.1f}{f.brier:>8.3f}"
            f"{f.log_score:>11.3f}{auroc:>8}{100 * f.aurc:>7.1f}{100 * f.aurc_oracle:>8.1f}{100 * f.aurc_random:>8.1f}"
        )

    heads = f"{'ECE':>6}{'95%':>11}{'conf-acc':>10}{'Brier':>8}{'log score':>11}{'AUROC':>8}{'AURC':>7}"
    lines = [f"{'probabilities':<20}{heads}{'oracle':>8}{'random':>8}", row("as scored", calibration.figures)]
    if calibration.temperature is not None and calibration.after_temperature is not None:
        lines.append(row(f"temperature {calibration.temperature.temperature:.3f}", calibration.after_temperature))
    return "\n".join(lines)


def assign_equal_width(confidence: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each question, ``[Q]`` int64: i for a confidence in (i/bins, (i+1)/bins], and 0 for 0."""
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def assign_equal_mass(confidence: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each question, ``[Q]`` int64, of at most ``bins`` bins with nearly equally many questions.

    The questions in ascending order are cut at i Q / bins, rounded. A cut among equal confidences moves behind them, so
    that the bins do not depend on the order of the questions; bins may thus be larger, and fewer.
    """
    ordered = np.sort(confidence)
    nominal = np.round(np.arange(1, bins) * len(ordered) / bins).astype(np.int64)
    last = ordered[nominal[nominal > 0] - 1]  # the largest confidence of each bin but the last
    return np.searchsorted(np.unique(last), confidence, side="left")


def expected_calibration_error(gaps: Floats, bins: NDArray[np.int64]) -> float:
    """Sum over bins of share of questions times |accuracy - mean confidence|.

    Args:
        gaps: ``[Q]`` confidence minus 1 or 0 for a right or wrong answer.
        bins: ``[Q]`` the bin of each question.
    """
    return float(np.abs(np.bincount(bins, gaps)).sum() / len(gaps))


def failure_auroc(confidence: Floats, correct: Bools) -> float | None:
    """Area under the ROC curve of confidence as a detector of right answers; None if they are all alike.

    It is the Mann-Whitney statistic of mean ranks, so ties count half.
    """
    right, wrong = int(correct.sum()), int((~correct).sum())
    if not right or not wrong:
        return None
    ranks = rankdata(confidence)
    return float((ranks[correct].sum() - right * (right + 1) / 2) / (right * wrong))


def expected_risk(confidence: Floats, correct: Bools) -> Floats:
    """The share of wrong answers among the k most confident ones, for k = 1 to Q: ``[Q]`` float64.

    Of questions with equal confidence a random subset is answered; the risk is the expectation over it.
    """
    values, codes, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(codes, ~correct, minlength=len(values))
    share = np.repeat(wrong / sizes, sizes)  # what a further answer of this confidence adds in expectation
    return np.asarray(np.cumsum(share) * _reciprocals(len(confidence)))


def _reciprocals(n: int) -> Floats:
    return 1 / np.arange(1, n + 1)


def _ece_interval(gaps: Floats, bins: NDArray[np.int64], codes: NDArray[np.int64]) -> tuple[float, float] | None:
    """Student's t over the jackknife's pseudo-values V ECE - (V - 1) ECE(without a video), cut off at 0 and 1.

    Their mean also corrects the upward bias of the error of few questions, so it may lie below the error. The bins stay
    those of all questions.
    """
    videos = int(codes.max()) + 1
    sums = np.bincount(codes * BINS + bins, gaps, minlength=videos * BINS).reshape(videos, BINS)
    counts = np.bincount(codes, minlength=videos)
    if videos < 2:
        return None
    without = np.abs(sums.sum(0) - sums).sum(1) / (counts.sum() - counts)
    pseudo = videos * np.abs(sums.sum(0)).sum() / counts.sum() - (videos - 1) * without
    interval = student_interval(pseudo.tolist())
    return None if interval is None else (min(max(interval[0], 0.0), 1.0), min(max(interval[1], 0.0), 1.0))


def _build_bins(
    confidence: Floats, correct: Bools, bins: NDArray[np.int64], ends: Floats | None = None
) -> list[ReliabilityBin]:
    built = []
    for index in np.unique(bins):
        inside = bins == index
        values = confidence[inside]
        low, high = (values.min(), values.max()) if ends is None else (ends[index], ends[index + 1])
        right = float(correct[inside].mean())
        built.append(ReliabilityBin(float(low), float(high), len(values), float(values.mean()), right))
    return built


def _downsample(confidence: Floats, risk: Floats) -> RiskCoverage:
    n = len(risk)
    answered = np.unique(np.round(np.linspace(1, n, min(n, MOST_POINTS))).astype(np.int64))
    thresholds = -np.sort(-confidence)
    return RiskCoverage(
        coverage=(answered / n).tolist(), risk=risk[answered - 1].tolist(), threshold=thresholds[answered - 1].tolist()
    )
