"""Frame numbers in names as they are and as they should be."""

import pytest

from surgvivqa.downloads.file_names import parse_frame_name, parse_question_name


@pytest.mark.parametrize(
    ("name", "number", "faults"),
    [
        ("000002.png", 2, ()),
        ("1000002.png", 1000002, ()),
        ("2.png", 2, ("padding",)),
        ("0002.png", 2, ("padding",)),
        ("000002.jpg", 2, ("format",)),
        ("000002.JPEG", 2, ("format",)),
        ("000002.PNG", 2, ("case",)),
        ("000123 (1).png", 123, ("copy",)),
        ("000123 - Copy.png", 123, ("copy",)),
        ("000123_copy 2.png", 123, ("copy",)),
        ("frame_000002.png", 2, ("other",)),
        ("VID02_000002.png", 2, ("other",)),
        ("video02-12.jpg", 12, ("format", "other")),
        ("000002.png ", 2, ("other",)),
    ],
)
def test_frames(name: str, number: int, faults: tuple[str, ...]) -> None:
    assert parse_frame_name(name) == (number, faults)


@pytest.mark.parametrize("name", ["img_a.png", "000002.txt", "000002", "2.5.png", "-3.png", "9" * 12 + ".png", ".png"])
def test_what_is_no_frame(name: str) -> None:
    assert parse_frame_name(name) is None


@pytest.mark.parametrize(
    ("name", "number", "faults"),
    [
        ("2.txt", 2, ()),
        ("0.txt", 0, ()),
        ("000002.txt", 2, ("padded",)),
        ("2.TXT", 2, ("case",)),
        ("2 (1).txt", 2, ("copy",)),
        ("3.txt.txt", 3, ("other",)),
        ("frame002_QA.txt", 2, ("other",)),
        ("2_qa.txt", 2, ("other",)),
        ("2.txt ", 2, ("other",)),
        ("２.txt", 2, ("other",)),
    ],
)
def test_questions(name: str, number: int, faults: tuple[str, ...]) -> None:
    assert parse_question_name(name) == (number, faults)


@pytest.mark.parametrize("name", ["2.0.txt", "-3.txt", "2.txt.gz", "readme.txt", "000002.png", ".txt"])
def test_what_is_no_question_file(name: str) -> None:
    assert parse_question_name(name) is None
