"""The timeline says what was answered when, as a strip, a table and a CSV file."""

import base64
import csv
import io
import re

import pytest

from surgvivqa.demo.timeline import (
    Moment,
    choose_colours,
    draw_timeline,
    list_moments,
    write_csv,
)
from surgvivqa.utils.errors import InputError

MOMENTS = [Moment(0.0, "grasp", 0.8, "cut", 0.1), Moment(1.0, "cut", 0.5, "grasp", 0.4), Moment(2.0, "grasp", 0.75)]


@pytest.mark.parametrize(
    ("duration", "every", "expected"),
    [(3.0, 1.0, [0, 1, 2]), (2.5, 1.0, [0, 1, 2]), (1.0, 0.5, [0, 0.5]), (0.04, 1.0, [0]), (0.3, 0.1, [0, 0.1, 0.2])],
)
def test_moments_begin_at_zero_and_end_before_the_videos_end(
    duration: float, every: float, expected: list[float]
) -> None:
    assert list_moments(duration, every, 100) == expected


def test_too_many_moments_are_refused_with_a_step_that_fits() -> None:
    with pytest.raises(InputError) as raised:
        list_moments(3600.0, 1.0, 600)
    assert str(raised.value) == "Every 1 s would be 3,600 moments, but at most 600 are asked; choose 6 s or more."
    assert len(list_moments(3600.0, 6.0, 600)) == 600


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_that_is_not_a_time_is_refused(every: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        list_moments(10.0, every, 100)


def test_the_csv_file_has_each_moment_and_quotes_the_question() -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv('Say "a, b"?', MOMENTS))))
    assert [row["answer"] for row in rows] == ["grasp", "cut", "grasp"]
    assert rows[1] == {
        "seconds": "1", "time": "0:01", "question": 'Say "a, b"?', "answer": "cut", "probability": "0.5000",
        "second_answer": "grasp", "second_probability": "0.4000",
    }  # fmt: skip
    assert rows[2]["second_probability"] == ""


def test_the_strip_has_a_bar_for_each_moment_whose_height_is_its_probability() -> None:
    drawn = draw_timeline("q", MOMENTS, 3)
    assert re.findall(r'<g data-at="([\d.]+)"', drawn) == ["0", "1", "2"]
    assert re.findall(r'height="([\d.]+)" fill', drawn) == ["80.0", "50.0", "75.0"]
    data = re.search(r"data:text/csv;base64,([^\"]+)", drawn)
    assert data is not None and base64.b64decode(data[1]).decode() == write_csv("q", MOMENTS)


def test_a_timeline_that_is_not_complete_says_how_far_it_is_or_why_it_stopped() -> None:
    running = draw_timeline("q", MOMENTS, 10)
    assert '<progress max="10" value="3"' in running and "Download" not in running
    stopped = draw_timeline("q", MOMENTS, 10, "Stopped after 5 s.")
    assert "<progress" not in stopped and "Stopped after 5 s." in stopped and "Download" in stopped


def test_text_of_visitors_and_labels_is_escaped() -> None:
    drawn = draw_timeline("<script>x</script>", [Moment(0.0, '"><img src=x>', 0.5)], 1)
    assert "<script" not in drawn and "<img" not in drawn


def test_frequent_answers_have_their_own_colours_and_the_rest_one() -> None:
    answers = [f"answer{number}" for number in range(12) for _ in range(20 - number)]
    colours = choose_colours(answers)
    assert len({colours[f"answer{number}"] for number in range(7)}) == 7
    assert len({colours[f"answer{number}"] for number in range(7, 12)}) == 1


def test_answers_that_are_colours_look_like_them() -> None:
    assert choose_colours(["red", "red", "blue", "grasper"])["red"] == "#D03030"
    assert choose_colours(["grasp", "grasp", "grasp", "blue"])["blue"] != "#2F6FDB"
