"""The figures equal their definition, written out by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.metrics import (
    METRICS,
    accuracy_standard_error,
    compute_grouped_metrics,
    compute_metrics,
    groups_of,
)
from surgvivqa.evaluation.predictions import Prediction

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=60)


@given(pairs)
def test_metrics_equal_their_definition(data: list[tuple[int, int]]) -> None:
    truth, guess = [t for t, _ in data], [g for _, g in data]
    precision, recall, f1, weighted = [], [], [], 0.0
    for c in sorted(set(truth)):
        hit = sum(t == g == c for t, g in data)
        p, r = hit / guess.count(c) if c in guess else 0.0, hit / truth.count(c)
        f = 2 * p * r / (p + r) if hit else 0.0
        precision.append(p)
        recall.append(r)
        f1.append(f)
        weighted += f * truth.count(c) / len(truth)
    n = len(precision)
    expected = {"n": len(data), "acc": sum(t == g for t, g in data) / len(data), "mAP": sum(precision) / n}
    expected |= {"mAR": sum(recall) / n, "mAF1": sum(f1) / n, "wF1": weighted}
    assert compute_metrics(truth, guess).to_json() == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=200))
def test_metrics_equal_those_of_scikit_learn(data: list[tuple[int, int]]) -> None:
    truth, guess = [t for t, _ in data], [g for _, g in data]
    present = sorted(set(truth))
    macro = precision_recall_fscore_support(truth, guess, labels=present, average="macro", zero_division=0)
    weighted = f1_score(truth, guess, labels=present, average="weighted", zero_division=0)
    expected = [accuracy_score(truth, guess), *macro[:3], weighted]
    metrics = compute_metrics(truth, guess)
    assert [metrics.acc, metrics.mAP, metrics.mAR, metrics.mAF1, metrics.wF1] == pytest.approx(expected, abs=1e-14)


def test_metrics_of_no_questions_are_zero() -> None:
    assert set(compute_metrics([], []).to_json().values()) == {0}


@pytest.mark.parametrize(
    "truth, guess, expected",
    [
        ([3, 3, 3], [3, 3, 3], (1, 1, 1, 1, 1)),  # one class, always right
        ([3, 3, 3], [4, 4, 4], (0, 0, 0, 0, 0)),  # never right; class 4 is not in the truth and does not count
        ([3, 3, 3, 3], [3, 4, 4, 4], (1 / 4, 1, 1 / 4, 2 / 5, 2 / 5)),  # one class in the truth
        ([3, 4], [4, 3], (0, 0, 0, 0, 0)),
    ],
)
def test_degenerate_inputs(truth: list[int], guess: list[int], expected: tuple[float, ...]) -> None:
    metrics = compute_metrics(truth, guess)
    assert [getattr(metrics, name) for name in METRICS] == pytest.approx(expected)


@given(pairs)
def test_metrics_of_videos_equal_those_of_all_questions(data: list[tuple[int, int]]) -> None:
    predictions = [Prediction(f"VID{i % 3:02d}", i, "q", t, g) for i, (t, g) in enumerate(data)]
    overall = compute_grouped_metrics(predictions).overall
    plain = compute_metrics([t for t, _ in data], [g for _, g in data])
    assert overall.to_json() == pytest.approx(plain.to_json(), abs=1e-14)


def test_no_predictions_have_no_groups() -> None:
    grouped = compute_grouped_metrics([])
    assert grouped.overall == compute_metrics([], [])
    assert (grouped.by_type, grouped.by_reasoning, grouped.by_video, grouped.by_label) == ({}, {}, {}, {})


def test_a_group_without_questions_is_left_out() -> None:
    lines = [Prediction("VID01", 1, "q", 1, 1), Prediction("VID01", 1, "q", 1, 2, reasoning="zero_hop", type="count")]
    grouped = compute_grouped_metrics(lines)
    assert list(grouped.by_type) == ["count", "counting"] and list(grouped.by_reasoning) == ["zero_hop"]
    assert groups_of(lines[0]) == [] and groups_of(lines[1]) == ["zero_hop", "count", "counting"]


def test_a_class_that_is_never_predicted_has_precision_zero() -> None:
    assert compute_metrics([3, 4], [3, 3]).mAP == pytest.approx(0.25)


def test_a_prediction_is_read_back_from_its_line() -> None:
    top5 = [(LABELS[2], 0.5), (LABELS[1], 0.25)]
    scored = {"probability": 0.5, "loss": 1.5, "top5": top5, "scores": [-1.0] * 51}
    scored |= {"answer_probability": 0.25, "brier": 0.75}
    prediction = Prediction("VID01", 3, "What is it?", 1, 2, reasoning="zero_hop", type="count", **scored)  # type: ignore[arg-type]
    line = json.loads(json.dumps(prediction.to_json()))
    assert Prediction.from_json(line) == prediction
    names = (
        "video frame question answer prediction probability answer_probability brier loss top5 reasoning type scores"
    )
    assert list(line) == names.split()


def test_a_line_of_an_older_version_is_read() -> None:
    line = Prediction("VID01", 3, "What is it?", 1, 2, probability=0.5).to_json()
    del line["answer_probability"], line["brier"]
    read = Prediction.from_json(line)
    assert (read.probability, read.answer_probability, read.brier) == (0.5, None, None)
    assert (line["answer"], line["prediction"]) == (LABELS[1], LABELS[2])


def test_the_standard_error_is_computed_over_videos() -> None:
    def prediction(video: str, hit: bool) -> Prediction:
        return Prediction(video, 0, "q", 1, 1 if hit else 2)

    predictions = [prediction("a", True)] * 9 + [prediction("b", False)] * 1
    assert accuracy_standard_error(predictions) == pytest.approx(
        0.5
    )  # accuracies 1 and 0: deviation 0.7071 over the root of 2
