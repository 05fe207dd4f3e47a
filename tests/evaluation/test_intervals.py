"""Student's t over videos: equal to scipy, to a plain leave-one-out, and about the figures that are reported."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.intervals import fraction_intervals, jackknife_error, student_interval
from surgvivqa.evaluation.metrics import METRICS, compute_grouped_metrics, compute_metrics, student_intervals
from surgvivqa.evaluation.predictions import Prediction
from tests.helpers.reports import report_of


def prediction(video: int, truth: int, guess: int, suffix: str = "", kind: str | None = "count") -> Prediction:
    return Prediction(f"VID{video:02d}{suffix}", 0, "q", truth, guess, reasoning=kind and "zero_hop", type=kind)


def some_videos(videos: int = 5, questions: int = 80, seed: int = 0) -> list[Prediction]:
    rng = random.Random(seed)
    return [
        prediction(v, t, t if rng.random() < 0.4 + v / 10 else rng.randrange(51), kind=rng.choice(["count", "exist"]))
        for v in range(1, videos + 1)
        for t in rng.choices(range(51), k=questions)
    ]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda values: np.std(values) > 1e-6))
def test_a_t_interval_equals_scipys(values: list[float]) -> None:
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert student_interval(values) is None


def test_values_that_agree_have_an_interval_without_width() -> None:
    assert student_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


def test_with_equally_many_questions_the_accuracys_interval_is_that_of_the_videos_accuracies() -> None:
    records = some_videos()
    accuracies = [float(np.mean([p.correct for p in records if p.video == f"VID{v:02d}"])) for v in range(1, 6)]
    ends = compute_grouped_metrics(records).overall.intervals
    assert ends is not None and ends["acc"] == pytest.approx(student_interval(accuracies))


label_pairs = st.tuples(
    st.integers(1, 4), st.integers(0, 4).map(lambda c: c * 9), st.integers(0, 5).map(lambda c: c * 9)
)


@settings(deadline=None, max_examples=30)
@given(st.lists(label_pairs, min_size=2, max_size=40))
def test_the_intervals_of_all_metrics_equal_a_plain_leave_one_out(data: list[tuple[int, int, int]]) -> None:
    ends = compute_grouped_metrics([prediction(*d) for d in data]).overall.intervals
    videos = sorted({video for video, _, _ in data})
    if len(videos) < 2:
        assert ends is None
        return
    for name in METRICS:
        without = []
        for left_out in videos:
            kept = [(t, g) for video, t, g in data if video != left_out]
            without.append(getattr(compute_metrics([t for t, _ in kept], [g for _, g in kept]), name))
        error = math.sqrt((len(videos) - 1) / len(videos) * sum((w - np.mean(without)) ** 2 for w in without))
        reach = stats.t.ppf(0.975, len(videos) - 1) * error
        figure = getattr(compute_metrics([t for _, t, _ in data], [g for _, _, g in data]), name)
        assert ends is not None
        assert ends[name] == pytest.approx((max(0.0, figure - reach), min(1.0, figure + reach)), abs=1e-12)


def test_an_interval_of_a_fraction_ends_at_0_and_1() -> None:
    left_out = {"low": np.array([0.0, 0.1]), "high": np.array([0.9, 1.0])}
    assert fraction_intervals({"low": 0.05, "high": 0.95}, left_out, 2) == {
        "low": (0.0, pytest.approx(0.05 + 12.706 * 0.05, abs=1e-3)),
        "high": (pytest.approx(0.95 - 12.706 * 0.05, abs=1e-3), 1.0),
    }


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([0.2, 0.5, 0.9, 0.4])
    left_out = (values.sum() - values) / 3
    assert jackknife_error(left_out) == pytest.approx(stats.sem(values))


def test_a_group_has_the_interval_of_its_own_questions() -> None:
    records = some_videos()
    counting = [p for p in records if p.type == "count"]
    grouped = compute_grouped_metrics(records)
    assert grouped.by_type["count"].intervals == compute_grouped_metrics(counting).overall.intervals is not None
    assert grouped.by_type["counting"] == grouped.by_type["count"]


def test_a_group_of_a_single_video_has_no_interval() -> None:
    records = [*some_videos(), prediction(1, 3, 3, kind="query_color")]
    grouped = compute_grouped_metrics(records)
    assert grouped.by_type["query_color"].intervals is None
    assert {metrics.intervals for metrics in grouped.by_video.values()} == {None}


def test_a_copy_under_another_name_does_not_count_as_a_second_video() -> None:
    metrics = compute_grouped_metrics([prediction(2, 1, 1), prediction(2, 1, 2, "_clean"), prediction(2, 1, 2)])
    assert metrics.overall.intervals is None and student_intervals(metrics) is None
    assert metrics.acc_se == 0.0


def test_intervals_name_their_method_and_the_number_of_videos() -> None:
    intervals = student_intervals(compute_grouped_metrics([*some_videos(4), prediction(4, 1, 1, "_clean")]))
    assert intervals is not None
    line = intervals.to_json()
    assert list(line) == [*METRICS, "method", "level", "videos"]
    assert (line["method"], line["videos"]) == ("Student's t over videos, jackknife standard error", 4)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=80))
def test_the_metrics_of_a_label_equal_those_of_scikit_learn(data: list[tuple[int, int]]) -> None:
    truth, guess = [t for t, _ in data], [g for _, g in data]
    present = sorted({*truth, *guess})
    by_label = compute_grouped_metrics([prediction(1, t, g) for t, g in data]).by_label
    assert list(by_label) == [LABELS[c] for c in present]
    oracle = precision_recall_fscore_support(truth, guess, labels=present, average=None, zero_division=0)
    found = [(m.precision, m.recall, m.f1, m.n) for m in by_label.values()]
    assert np.array(found) == pytest.approx(np.array(oracle).T, abs=1e-14)
    assert [m.predicted for m in by_label.values()] == [guess.count(c) for c in present]


def test_a_labels_recall_has_the_interval_of_its_videos() -> None:
    right = {1: 4, 2: 5, 3: 6}
    records = [prediction(v, 7, 7 if i < hits else 8) for v, hits in right.items() for i in range(10)]
    records += [prediction(v, 20, 7) for v in right]  # false positives do not enter the recall
    records += [prediction(4, 20, 20)]  # a video without the label does not either
    label = compute_grouped_metrics(records).by_label[LABELS[7]]
    assert label.intervals is not None
    assert label.intervals["recall"] == pytest.approx(student_interval([0.4, 0.5, 0.6]))


def test_a_label_of_a_single_video_has_no_interval() -> None:
    records = [prediction(1, 7, 7), prediction(2, 8, 7), prediction(2, 8, 8)]
    assert compute_grouped_metrics(records).by_label[LABELS[7]].intervals is None


def test_every_group_of_metrics_json_has_its_interval() -> None:
    content = report_of(some_videos()).to_json()
    for group in ("by_reasoning", "by_type"):
        assert all(len(row["intervals"]) == len(METRICS) for row in content[group].values())
    assert all(row["intervals"] is None for row in content["by_video"].values())
    assert set(next(iter(content["by_label"].values()))["intervals"]) == {"precision", "recall", "f1"}
