"""Calibration figures equal their definitions, written out by hand or computed by scikit-learn."""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.calibration import (
    BINS,
    Calibration,
    CalibrationFigures,
    assign_equal_mass,
    compute_calibration,
    compute_figures,
    expected_risk,
    failure_auroc,
)
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.report import SECTIONS, _parse_section

# Few values, so that confidences are often equal or on the edge of a bin.
answers = st.lists(st.tuples(st.integers(0, 30).map(lambda k: k / 30), st.booleans()), min_size=1, max_size=40)


def figures(
    confidence: Sequence[float], correct: Sequence[bool], videos: Sequence[str] | None = None
) -> CalibrationFigures:
    """The figures of answers; the true label's probability and the Brier score are stand-ins."""
    return compute_figures(
        np.array(confidence, np.float64),
        np.array(correct, bool),
        np.full(len(confidence), 0.5),
        np.full(len(confidence), 0.25),
        np.array(videos or ["VID02"] * len(confidence)),
    )


def random_probabilities(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``[n, 51]`` probabilities and true labels."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(len(LABELS)), n), rng.integers(0, len(LABELS), n)


def predictions_of(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> list[Prediction]:
    hot = np.eye(len(LABELS))[truth]
    return [
        Prediction(
            f"VID{i % 5:02d}",
            i,
            "q",
            int(t),
            int(row.argmax()),
            probability=float(row.max()),
            answer_probability=float(row[t]),
            brier=float(((row - h) ** 2).sum()),
        )
        for i, (row, t, h) in enumerate(zip(probabilities, truth, hot, strict=True))
    ]


@given(answers)
def test_the_error_in_bins_of_equal_width_equals_its_definition(data: list[tuple[float, bool]]) -> None:
    expected = 0.0
    for i in range(BINS):
        inside = [(c, hit) for c, hit in data if i / BINS < c <= (i + 1) / BINS or (i == 0 and c == 0)]
        if inside:
            accuracy = sum(hit for _, hit in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            expected += len(inside) / len(data) * abs(accuracy - confidence)
    found = figures(*zip(*data, strict=True))
    assert found.ece == pytest.approx(expected, abs=1e-12)
    assert sum(b.n / len(data) * abs(b.accuracy - b.confidence) for b in found.bins) == pytest.approx(expected)


@given(answers)
def test_the_error_in_bins_of_equal_mass_equals_its_definition(data: list[tuple[float, bool]]) -> None:
    remaining, expected, done = sorted(data), 0.0, 0
    for i in range(1, BINS + 1):
        cut = round(i * len(data) / BINS)
        while 0 < cut < len(data) and remaining[cut][0] == remaining[cut - 1][0]:
            cut += 1
        inside = remaining[done : max(cut, done)]
        done = max(cut, done)
        expected += abs(sum(hit - c for c, hit in inside)) / len(data)
    assert figures(*zip(*data, strict=True)).ece_equal_mass == pytest.approx(expected, abs=1e-12)


def test_bins_of_equal_mass_have_equally_many_questions() -> None:
    confidence = np.random.default_rng(0).random(300)
    assert np.bincount(assign_equal_mass(confidence)).tolist() == [20] * BINS


def test_equal_confidences_share_a_bin() -> None:
    confidence = np.array([0.1] * 40 + [0.2] * 2 + [0.3] * 3)
    assert assign_equal_mass(confidence).tolist() == [0] * 40 + [1] * 2 + [2] * 3


@given(answers)
def test_failure_detection_equals_scikit_learns_area(data: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(column) for column in zip(*data, strict=True))
    found = failure_auroc(confidence, correct)
    if correct.all() or not correct.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 3).map(float), st.booleans()), min_size=1, max_size=6))
def test_the_risk_is_the_mean_over_all_orders_of_equal_confidences(data: list[tuple[float, bool]]) -> None:
    orders = [
        order for order in itertools.permutations(data) if all(a[0] >= b[0] for a, b in itertools.pairwise(order))
    ]
    expected = [
        sum(sum(not hit for _, hit in order[:k]) / k for order in orders) / len(orders) for k in range(1, len(data) + 1)
    ]
    confidence, correct = zip(*data, strict=True)
    assert expected_risk(np.array(confidence), np.array(correct)).tolist() == pytest.approx(expected)


@given(answers)
def test_the_oracle_answers_the_right_ones_first(data: list[tuple[float, bool]]) -> None:
    correct = [hit for _, hit in data]
    found = figures([c for c, _ in data], correct)
    assert found.aurc_oracle == pytest.approx(figures([float(hit) for hit in correct], correct).aurc)
    worst = figures([float(not hit) for hit in correct], correct).aurc
    assert found.aurc_oracle - 1e-12 <= found.aurc <= worst + 1e-12


def test_a_confidence_that_says_nothing_has_the_random_area() -> None:
    found = figures([0.5] * 7, [True, False, True, True, False, True, True])
    assert found.aurc == pytest.approx(found.aurc_random) == pytest.approx(2 / 7)
    assert found.failure_auroc == 0.5


def test_brier_and_log_score_equal_scikit_learns() -> None:
    probabilities, truth = random_probabilities(200)
    found = compute_calibration(predictions_of(probabilities, truth))
    assert found is not None
    labels = list(range(len(LABELS)))
    assert found.figures.log_score == pytest.approx(log_loss(truth, probabilities, labels=labels))
    each = [brier_score_loss(truth == c, probabilities[:, c]) for c in labels]
    assert found.figures.brier == pytest.approx(sum(each))


def test_the_interval_of_overconfidence_is_students_over_videos() -> None:
    found = figures([0.9, 0.9, 0.8, 0.6], [True, False, True, False], ["VID01", "VID01", "VID02", "VID02"])
    gaps = [0.4, 0.2]
    half = 12.7062047 * math.sqrt(((0.4 - 0.3) ** 2 + (0.2 - 0.3) ** 2) / 1 / 2)
    assert found.overconfidence == pytest.approx(sum(gaps) / 2)
    assert found.overconfidence_interval == pytest.approx((0.3 - half, 1), abs=1e-6)  # 0.3 + half is above 1


def test_the_interval_of_overconfidence_holds_it_where_videos_differ_in_size() -> None:
    videos = [*["VID01"] * 97, *(f"VID{n}" for n in range(10, 19))]
    found = figures([1.0] * 97 + [0.5] * 9, [False] * 97 + [True] * 9, videos)
    assert found.overconfidence_interval is not None
    low, high = found.overconfidence_interval
    assert found.overconfidence == pytest.approx((97 - 4.5) / 106)
    assert low <= found.overconfidence <= high


def test_the_interval_of_the_error_leaves_out_a_video_at_a_time() -> None:
    rng = np.random.default_rng(1)
    confidence, codes = rng.random(400), rng.integers(0, 4, 400)
    correct = rng.random(400) < confidence - 0.1
    names = [f"VID{code:02d}" for code in codes]
    found = figures(confidence.tolist(), correct.tolist(), names)
    pseudo = [
        4 * found.ece - 3 * figures(confidence[codes != v].tolist(), correct[codes != v].tolist()).ece for v in range(4)
    ]
    half = 3.18244631 * np.std(pseudo, ddof=1) / 2
    assert found.ece_interval == pytest.approx((np.mean(pseudo) - half, np.mean(pseudo) + half))


def coverage(gap: float, trials: int = 100) -> float:
    """How often the interval of the error holds the true one: five videos of 900 questions whose accuracy is below the
    confidence by a gap that varies between videos with a standard deviation of 5 points."""
    rng, held = np.random.default_rng(0), 0
    names = [f"VID{v:02d}" for v in range(5) for _ in range(900)]
    for _ in range(trials):
        confidence = rng.beta(5, 2, 4500)
        correct = rng.random(4500) < confidence - gap + np.repeat(rng.normal(0, 0.05, 5), 900)
        interval = figures(confidence.tolist(), correct.tolist(), names).ece_interval
        assert interval is not None
        held += interval[0] <= gap <= interval[1]
    return held / trials


def test_the_interval_of_the_error_holds_it_unless_the_error_is_small() -> None:
    """What docs/evaluation.md says."""
    assert 0.9 <= coverage(0.1) <= 0.98
    assert coverage(0.02) < 0.92


@pytest.mark.parametrize("correct", [[True] * 5, [False] * 5, [True], [False]])
def test_answers_that_are_all_alike_have_figures(correct: list[bool]) -> None:
    found = figures([0.2, 0.9, 0.5, 0.5, 1.0][: len(correct)], correct)
    assert found.failure_auroc is None
    assert found.aurc == pytest.approx(found.aurc_oracle) == pytest.approx(found.aurc_random) == float(not correct[0])
    assert found.ece_interval is None


def test_there_is_no_section_without_questions_or_probabilities() -> None:
    assert compute_calibration([]) is None
    assert compute_calibration([Prediction("VID01", 0, "q", 1, 1)]) is None


def test_a_probability_of_zero_has_a_finite_log_score() -> None:
    one = Prediction("VID01", 0, "q", 1, 2, probability=1.0, answer_probability=0.0, brier=2.0)
    found = compute_calibration([one])
    assert found is not None and 700 < found.figures.log_score < 710


def test_the_section_is_read_back_and_its_curve_has_at_most_200_points() -> None:
    found = compute_calibration(predictions_of(*random_probabilities(1000)))
    assert found is not None and len(found.figures.risk_coverage.risk) == 200
    assert found.figures.risk_coverage.coverage[-1] == 1

    content = json.loads(json.dumps(dataclasses.asdict(found)))
    assert _parse_section(SECTIONS["calibration"], content) == found
    assert isinstance(found, Calibration)
