"""The page of a comparison: its gallery shows where the runs disagree, its chart holds what it shows."""

import dataclasses
import re
from pathlib import Path

import pytest
from PIL import Image

from surgvivqa.evaluation.paired import PairedDifference, compare_accuracy
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.comparison import Comparison, compare_runs
from surgvivqa.reporting.comparison_page import (
    build_gallery,
    choose_axis,
    choose_disagreements,
    name_outcome,
    render_comparison,
)
from surgvivqa.reporting.results import read_results
from tests.helpers.evaluations import answer_questions, write_evaluation


def compared(tmp_path: Path, *hits: str) -> Comparison:
    runs = []
    for name, pattern in zip("abc", hits, strict=False):
        write_evaluation(tmp_path / name, answer_questions({"VID02": pattern, "VID22": pattern[::-1]}))
        runs.append(read_results(tmp_path / name))
    return compare_runs(runs)


def question(frame: int, probability: float, prediction: int, type_: str = "exist") -> Prediction:
    return Prediction("VID02", frame, "q", 12, prediction, probability, type=type_)


def test_the_gallery_has_the_questions_on_which_the_runs_disagree(tmp_path: Path) -> None:
    gallery = build_gallery(compared(tmp_path, "1100", "1010"), None, 60)
    assert {(item.video, item.frame) for item in gallery.items} == {(v, f) for v in ("VID02", "VID22") for f in (1, 2)}
    assert gallery.outcomes == ["only a right", "only b right"]
    assert "--image-root" in gallery.note


def test_an_item_has_the_answers_of_all_runs(tmp_path: Path) -> None:
    gallery = build_gallery(compared(tmp_path, "1", "0", "1"), None, 60)
    item = gallery.items[0]
    assert [(answer.name, answer.prediction) for answer in item.answers] == [
        ("a", "True"),
        ("b", "False"),
        ("c", "True"),
    ]
    assert item.outcome == "a and c right"


def test_frames_are_in_the_page(tmp_path: Path) -> None:
    for video in ("VID02", "VID22"):
        (tmp_path / "frames" / video).mkdir(parents=True)
        for frame in range(4):
            Image.new("RGB", (64, 36)).save(tmp_path / "frames" / video / f"{frame:06d}.png")
    page = render_comparison(compared(tmp_path, "1100", "1010"), tmp_path / "frames", 60)
    assert page.count('class="picture" src="data:image/webp;base64,') == 4


def test_the_most_confident_mistake_of_each_kind_comes_first() -> None:
    sure, unsure = ((question(f, 0.3, 12), question(f, probability, 11)) for f, probability in ((1, 0.9), (2, 0.4)))
    other = (question(3, 0.8, 11, "count"), question(3, 0.2, 12, "count"))
    same = (question(4, 0.99, 11), question(4, 0.99, 11))
    chosen = choose_disagreements([unsure, same, sure, other], ["a", "b"], 2)
    assert [answers[0].frame for answers in chosen] == [3, 1] or [answers[0].frame for answers in chosen] == [1, 3]
    assert len(choose_disagreements([unsure, same, sure, other], ["a", "b"], 60)) == 3
    assert choose_disagreements([unsure], ["a", "b"], 0) == []


def test_a_frame_is_shown_again_only_when_there_is_no_other() -> None:
    first = [(question(1, 0.5, 12), question(1, p, 11)) for p in (0.9, 0.8)]
    second = (question(2, 0.5, 12), question(2, 0.1, 11))
    chosen = choose_disagreements([*first, second], ["a", "b"], 2)
    assert [answers[0].frame for answers in chosen] == [1, 2]


@pytest.mark.parametrize(
    ("predictions", "names", "outcome"),
    [
        ((12, 11), "ab", "only a right"),
        ((11, 10), "ab", "both wrong"),
        ((11, 10, 9), "abc", "all wrong"),
        ((11, 12, 12), "abc", "b and c right"),
    ],
)
def test_outcomes_say_who_is_right(predictions: tuple[int, ...], names: str, outcome: str) -> None:
    assert name_outcome([question(1, 0.5, p) for p in predictions], list(names)) == outcome


def difference(low: float | None, value: float, high: float | None) -> PairedDifference:
    found = compare_accuracy([], [])
    return dataclasses.replace(found, difference=value, low=low, high=high)


@pytest.mark.parametrize(
    ("differences", "least", "most"),
    [
        ([difference(0.365, 0.406, 0.446), difference(-0.013, 0.034, 0.08)], -0.1, 0.5),
        ([difference(-0.02, 0.0, 0.02)], -0.02, 0.02),
        ([difference(None, -0.3, None)], -0.3, 0.0),
        ([difference(None, 0.0, None)], 0.0, 0.0),
        ([difference(-3.0, 0.1, 3.2)], -0.4, 0.4),  # an interval over two videos is cut
    ],
)
def test_the_axis_holds_zero_and_what_it_shows(differences: list[PairedDifference], least: float, most: float) -> None:
    axis = choose_axis(differences)
    assert 0 in axis.ticks and 2 <= len(axis.ticks) <= 8
    assert axis.least <= least and axis.most >= most
    assert axis.most - axis.least <= 1.6 * max(most - least, 0.02)


def test_the_page_names_nothing_to_load_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    for name, answer in (("a", 12), ("b", 11)):
        write_evaluation(tmp_path / name, [Prediction("VID02", 1, "<script>alert(1)</script>?", 12, answer)])
    comparison = compare_runs([read_results(tmp_path / name) for name in "ab"])
    page = render_comparison(comparison, None, 60)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\(|@import', page) == []


def test_the_page_of_equal_runs_says_so(tmp_path: Path) -> None:
    page = render_comparison(compared(tmp_path, "1100", "1100"), None, 60)
    assert "give the same answers to all questions" in page and "All runs give the same answers." in page


def test_a_page_without_pictures_does_not_say_that_the_answers_are_equal(tmp_path: Path) -> None:
    page = render_comparison(compared(tmp_path, "1100", "0011"), None, 0)
    assert "All runs give the same answers." not in page and "because --pictures is 0." in page
