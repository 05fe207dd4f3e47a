"""Charts and training curves."""

import math

import pytest

from surgvivqa.reporting.charts import line_chart, reliability_chart, thin
from surgvivqa.reporting.training_curves import training_curves


def test_a_long_curve_becomes_means_of_its_neighbours() -> None:
    points = [(float(step), float(step % 2)) for step in range(1000)]
    found = thin(points, 250)
    assert len(found) == 250 and found[0] == (1.5, 0.5)
    assert thin(points[:250], 250) == points[:250] and thin([]) == []


def test_a_chart_scales_and_has_the_pages_colours_alone() -> None:
    svg = line_chart({"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]}, x="Step", y="Loss", rule=("chance", 1.5))
    root = svg[: svg.index(">")]
    assert " width=" not in root and "viewBox=" in root and 'aria-hidden="true"' in root
    assert {"var(--c1)", "var(--c2)", "var(--strong)"} <= set(svg.split('"'))
    assert "style=" not in svg  # the page's policy would ignore it


def test_a_reliability_chart_has_a_dot_for_each_bin() -> None:
    svg = reliability_chart({"as scored": [(0.2, 0.1, 5), (0.6, 0.5, 9), (0.9, 0.95, 50)]})
    assert svg.count('class="mark-symbol') == 1 and "Probability of the answer" in svg


def test_markup_in_the_name_of_a_series_is_escaped() -> None:
    svg = line_chart({"<b>": [(0, 1)], "c": [(0, 2)]}, x="Step", y="Loss")
    assert "<b>" not in svg and "&lt;b&gt;" in svg


def test_curves_are_drawn_for_what_the_log_has() -> None:
    lines = [{"step": 1, "loss": 2.0, "lr": 0.1}, {"step": 2, "loss": math.nan, "lr": 0.2}, {"step": 3, "loss": 1.0}]
    assert [curve.title for curve in training_curves(lines)] == ["Loss", "Learning rate"]
    assert training_curves([]) == [] and training_curves([{"step": "x", "loss": True}]) == []


def test_a_curve_says_in_words_what_it_shows() -> None:
    lines = [{"step": 50, "loss": 3.2}, {"step": 100, "loss": 0.7}, {"step": 100, "val_n": 800, "val_acc": 0.74}]
    loss, validation = training_curves(lines)
    assert loss.alt == "Training loss goes from 3.20 to 0.70 nats over 100 steps."
    assert validation.caption == "On 800 questions." and "accuracy 74.0%" in validation.alt


@pytest.mark.parametrize("count", [1, 2])
def test_a_short_run_has_curves_too(count: int) -> None:
    assert len(training_curves([{"step": step, "loss": 1.0} for step in range(count)])) == 1
