"""Paired differences over videos: equal to scipy's tests and to brute force, uniform under the null hypothesis."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from surgvivqa.evaluation.metrics import METRICS, compute_metrics
from surgvivqa.evaluation.paired import (
    MOST_EXACT_VIDEOS,
    PairedDifference,
    compare_accuracy,
    compare_metrics,
    detectable_difference,
    least_sign_flip_p,
    match_predictions,
    sign_flip_p,
    student_p,
)
from surgvivqa.evaluation.predictions import Prediction
from tests.helpers.evaluations import answer_questions

# Multiples of 1/8 are exact in binary, so the oracle below can compare sums without a tolerance.
exact_values = st.lists(st.integers(-16, 16).map(lambda n: n / 8), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(exact_values)
def test_the_sign_flip_test_counts_all_flips(values: list[float]) -> None:
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in flips(len(values))]
    assert sign_flip_p(values) == sum(s >= abs(sum(values)) for s in sums) / len(sums)


def flips(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


def test_the_sign_flip_test_equals_scipys_permutation_test() -> None:
    rng = np.random.default_rng(0)
    for videos in (4, 7, 10):
        values = rng.normal(0.01, 0.02, videos)
        expected = stats.permutation_test(
            (values, np.zeros(videos)),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        ).pvalue
        assert sign_flip_p(values.tolist()) == pytest.approx(expected, abs=1e-12)


def test_differences_that_are_equal_but_for_rounding_are_ties() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17: the flips that should give the observed sum give it up to that."""
    values = [0.3, 0.1, -0.2, 0.1 + 0.2 - 0.3]
    assert sign_flip_p(values) == sign_flip_p([0.375, 0.125, -0.25, 0.0])


def test_random_flips_are_close_to_all_flips_and_never_give_zero() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, MOST_EXACT_VIDEOS + 1)
    expected = sign_flip_p(values[:-1].tolist())
    # A difference of 0 changes no sum, so that 21 values have the exact p of 20.
    drawn = sign_flip_p([*values[:-1].tolist(), 0.0])
    assert drawn == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 100_000))
    assert sign_flip_p([1.0] * 45, draws=999) == 1 / 1000
    assert sign_flip_p(values.tolist()) == sign_flip_p(values.tolist())


@pytest.mark.parametrize(("videos", "least"), [(1, 1.0), (5, 0.0625), (9, 0.00390625), (45, 2 / 2**45)])
def test_the_least_p_is_that_of_equal_signs(videos: int, least: float) -> None:
    assert least_sign_flip_p(videos) == least
    if videos <= MOST_EXACT_VIDEOS:
        assert sign_flip_p([0.1 + i for i in range(videos)]) == least


def test_the_t_test_equals_scipys() -> None:
    hits = {"VID01": "1101", "VID02": "1000", "VID03": "1111", "VID04": "0110"}
    reference = {"VID01": "1001", "VID02": "0000", "VID03": "0111", "VID04": "1110"}
    found = compare_accuracy(answer_questions(hits), answer_questions(reference))
    expected = stats.ttest_1samp([0.25, 0.25, 0.25, -0.25], 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.by_video == {"VID01": 0.25, "VID02": 0.25, "VID03": 0.25, "VID04": -0.25}
    assert (found.difference, found.videos, found.improved, found.worsened) == (0.125, 4, 3, 1)
    assert (found.low, found.high, found.p_t) == pytest.approx((interval.low, interval.high, expected.pvalue))


@pytest.mark.parametrize("test", [student_p, sign_flip_p])
def test_p_values_are_uniform_under_the_null_hypothesis(test: object) -> None:
    """Normal differences around 0. With 12 videos the 4,096 flips give p values that are nearly continuous."""
    assert callable(test)
    rng = np.random.default_rng(3)
    p_values = [test(rng.normal(0, 0.02, 12).tolist()) for _ in range(2000)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.05
    assert np.mean(np.asarray(p_values) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_the_sign_flip_test_keeps_its_level_with_skewed_spreads_where_t_does_not() -> None:
    """Videos with very unequal spreads are not normal together: t rejects too rarely, the sign flips exactly often."""
    rng = np.random.default_rng(4)
    samples = [rng.normal(0, 1, 9) * [20, 1, 1, 1, 1, 1, 1, 1, 1] for _ in range(2000)]
    exact = np.mean([sign_flip_p(s.tolist()) <= 0.05 for s in samples])
    student = np.mean([student_p(s.tolist()) <= 0.05 for s in samples])  # type: ignore[operator]
    assert exact == pytest.approx(25 / 512 * 1.0, abs=0.015)
    assert student < 0.02


@pytest.mark.parametrize("videos", [5, 12])
def test_the_t_interval_holds_the_true_difference_in_95_percent_of_cases(videos: int) -> None:
    """Two models with true accuracies that differ by 4 points in the mean and by 2 points (SD) between videos."""
    rng, held, trials = np.random.default_rng(5), 0, 200
    for _ in range(trials):
        base = rng.normal(0.6, 0.05, videos)
        better = base + rng.normal(0.04, 0.02, videos)
        model, reference = (rng.binomial(12, np.clip(p, 0, 1)) for p in (better, base))
        found = compare_accuracy(counted(model, 12), counted(reference, 12))
        assert found.low is not None and found.high is not None
        held += found.low <= 0.04 <= found.high
    assert 0.92 <= held / trials <= 0.98


def counted(hits: np.ndarray, questions: int) -> list[Prediction]:
    return answer_questions({f"VID{v + 1:02d}": "1" * h + "0" * (questions - h) for v, h in enumerate(hits)})


@pytest.mark.parametrize(("videos", "points"), [(5, 3.36), (9, 2.13), (45, 0.85)])
def test_the_detectable_difference_of_a_spread_of_two_points(videos: int, points: float) -> None:
    found = detectable_difference(2.0, videos)
    assert found is not None and round(found, 2) == points


@pytest.mark.parametrize("videos", [3, 5, 9, 45])
def test_the_power_at_the_detectable_difference_is_80_percent_by_the_noncentral_t(videos: int) -> None:
    difference = detectable_difference(2.0, videos)
    assert difference is not None
    shift, critical = difference / 2.0 * math.sqrt(videos), stats.t.ppf(0.975, videos - 1)
    power = stats.nct.sf(critical, videos - 1, shift) + stats.nct.cdf(-critical, videos - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("videos", [2, 5, 9])
def test_the_detectable_difference_is_detected_in_80_percent_of_cases(videos: int) -> None:
    difference = detectable_difference(2.0, videos)
    assert difference is not None
    rng = np.random.default_rng(6)
    p_values = stats.ttest_1samp(rng.normal(difference, 2.0, (20_000, videos)), 0.0, axis=1).pvalue
    assert np.mean(p_values <= 0.05) == pytest.approx(0.8, abs=0.01)


def test_changes_are_counted_from_the_reference_to_the_model() -> None:
    found = compare_accuracy(answer_questions({"VID01": "1110"}), answer_questions({"VID01": "0011"}))
    assert (found.wrong_to_right, found.right_to_wrong, found.difference) == (2, 1, 0.25)


def test_the_interval_ends_where_a_difference_does() -> None:
    found = compare_accuracy(
        answer_questions({"VID01": "11", "VID02": "11"}), answer_questions({"VID01": "00", "VID02": "10"})
    )
    assert (found.difference, found.low, found.high) == (0.75, -1, 1)  # t alone would reach from -2.4 to 3.9


def test_predictions_are_paired_in_any_order() -> None:
    model = answer_questions({"VID01": "1100", "VID02": "01"})
    reference = answer_questions({"VID01": "1010", "VID02": "00"})
    pairs = match_predictions(model, reference)
    assert pairs == list(zip(model, reference, strict=True))
    assert match_predictions(model, reference[::-1]) == pairs


def test_every_metric_is_the_mean_of_the_videos_differences() -> None:
    rng = np.random.default_rng(7)
    truth, first, second = rng.integers(0, 6, (3, 300))
    videos = [f"VID{v:02d}" for v in rng.integers(1, 5, 300)]
    a = [Prediction(v, i, "q", int(t), int(p)) for i, (v, t, p) in enumerate(zip(videos, truth, first, strict=True))]
    b = [dataclasses.replace(p, prediction=int(g)) for p, g in zip(a, second, strict=True)]
    found = compare_metrics(a, b)
    for name in METRICS:
        differences = [
            metric_of([p for p in a if p.video == v], name) - metric_of([p for p in b if p.video == v], name)
            for v in sorted(set(videos))
        ]
        assert found[name].difference == pytest.approx(np.mean(differences))
        assert found[name].sd == pytest.approx(np.std(differences, ddof=1))
        assert found[name].pooled == pytest.approx(metric_of(a, name) - metric_of(b, name))


def metric_of(predictions: list[Prediction], name: str) -> float:
    return float(getattr(compute_metrics([p.answer for p in predictions], [p.prediction for p in predictions]), name))


def test_the_order_of_the_questions_does_not_matter() -> None:
    a, b = answer_questions({"VID01": "1101", "VID02": "0110"}), answer_questions({"VID01": "0101", "VID02": "0011"})
    assert compare_accuracy(a, b) == compare_accuracy(a, b[::-1])


def test_a_repeated_line_is_paired_as_often_as_it_occurs() -> None:
    line, other = answer_questions({"VID01": "10"})
    assert match_predictions([line, line, other], [other, line, line]) == [(line, line), (line, line), (other, other)]
    with pytest.raises(ValueError, match="same questions"):
        match_predictions([line, line, other], [other, other, line])


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions cannot be paired with 1"):
        compare_accuracy(answer_questions({"VID01": "10"}), answer_questions({"VID01": "1"}))
    with pytest.raises(ValueError, match="same questions"):
        compare_accuracy(answer_questions({"VID01": "1"}), answer_questions({"VID02": "1"}))


def test_a_copy_under_another_name_is_the_same_video() -> None:
    found = compare_accuracy(
        answer_questions({"VID02": "11", "VID02_clean": "11"}), answer_questions({"VID02": "01", "VID02_clean": "11"})
    )
    assert (found.videos, found.by_video) == (1, {"VID02": 0.25})


def test_one_video_has_a_difference_and_no_interval() -> None:
    found = compare_accuracy(answer_questions({"VID01": "11"}), answer_questions({"VID01": "01"}))
    assert (found.difference, found.low, found.high, found.p_t) == (0.5, None, None, None)
    assert (found.p_sign_flip, found.least_p, found.detectable) == (1.0, 1.0, None)


def test_equal_runs_differ_by_nothing() -> None:
    a = answer_questions({"VID01": "110", "VID02": "010", "VID03": "111"})
    found = compare_accuracy(a, a)
    assert (found.difference, found.low, found.high, found.p_t, found.p_sign_flip) == (0.0, 0.0, 0.0, None, 1.0)
    assert (found.improved, found.worsened, found.detectable) == (0, 0, None)


def test_videos_that_all_differ_by_the_same_have_no_t_test() -> None:
    """Three times a tenth is not exactly equal in binary, and must not give a t of 10^15."""
    a = answer_questions({"VID01": "1" + "0" * 9, "VID02": "1" * 3 + "0" * 7, "VID03": "1" * 9 + "0"})
    b = answer_questions({"VID01": "0" * 10, "VID02": "1" * 2 + "0" * 8, "VID03": "1" * 8 + "00"})
    found = compare_accuracy(a, b)
    assert (found.p_t, found.detectable, found.p_sign_flip, found.least_p) == (None, None, 0.25, 0.25)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_no_questions_give_no_difference() -> None:
    found = compare_accuracy([], [])
    assert (found.difference, found.low, found.videos, found.p_sign_flip, found.least_p) == (0.0, None, 0, 1.0, 1.0)


def test_a_difference_survives_json() -> None:
    found = compare_accuracy(
        answer_questions({"VID01": "11", "VID02": "01"}), answer_questions({"VID01": "01", "VID02": "01"})
    )
    text = json.dumps(dataclasses.asdict(found))
    assert TypeAdapter(PairedDifference).validate_python(json.loads(text)) == found
