"""The rows of baselines: metrics and paired differences on the same questions."""

import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from surgvivqa.evaluation.baseline_rows import Baseline, missing_baselines
from surgvivqa.evaluation.baselines import TITLES
from surgvivqa.evaluation.intervals import student_interval
from surgvivqa.evaluation.metrics import compute_grouped_metrics
from tests.helpers.reports import answers, row

MODEL = answers({"exist": [9, 8, 7, 9, 9], "count": [2, 3, 4, 2, 2]})
OTHER = answers({"exist": [5, 5, 6, 4, 5], "count": [3, 5, 4, 3, 3]})


def test_a_row_has_the_baselines_metrics() -> None:
    found, metrics = row(MODEL, OTHER), compute_grouped_metrics(OTHER)
    assert (found.metrics, found.by_type, found.by_reasoning) == (
        metrics.overall,
        metrics.by_type,
        metrics.by_reasoning,
    )


def test_the_difference_of_a_group_is_paired_by_video() -> None:
    found = row(MODEL, OTHER[::-1]).groups
    values = [-0.1, -0.2, 0.0, -0.1, -0.1]
    assert found["count"].difference == pytest.approx(np.mean(values))
    assert (found["count"].low, found["count"].high) == pytest.approx(student_interval(values))
    assert set(found) == {"count", "counting", "exist", "existence", "zero_hop"}


def test_the_difference_of_all_questions_is_that_of_the_paired_test() -> None:
    paired = row(MODEL, OTHER).difference
    assert paired is not None
    assert (paired.videos, paired.improved) == (5, 5)


def test_a_group_in_one_video_has_no_interval() -> None:
    model, other = answers({"exist": [9]}), answers({"exist": [7]})
    group = row(model, other).groups["exist"]
    assert group.difference == pytest.approx(0.2)
    assert (group.low, group.high) == (None, None)


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="not"):
        row(MODEL, OTHER[:-1])


def test_baselines_that_are_missing_say_why() -> None:
    rows = missing_baselines("there is no training split")
    assert [found.name for found in rows] == list(TITLES)
    assert all((found.metrics, found.difference) == (None, None) for found in rows)
    assert {found.note for found in rows} == {"there is no training split"}


def test_a_row_is_read_back_from_json() -> None:
    adapter = TypeAdapter(list[Baseline])
    rows = [row(MODEL, OTHER), *missing_baselines("why")]
    assert adapter.validate_python(json.loads(json.dumps(adapter.dump_python(rows, mode="json")))) == rows
