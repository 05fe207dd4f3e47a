"""Suggested questions are SSG-QA's, or those of a file."""

from pathlib import Path

import pytest

from surgvivqa.data.question_forms import parse_question
from surgvivqa.demo.questions import SSG_QA_QUESTIONS, read_questions
from surgvivqa.utils.errors import InputError


@pytest.mark.parametrize(
    ("kind", "asks"),
    [("Counting", "count"), ("Colour", "color"), ("Object", "name"), ("Existence", "exist"), ("Kind", "type")],
)
def test_template_questions_are_in_ssg_qas_wording(kind: str, asks: str) -> None:
    forms = [parse_question(question) for question in SSG_QA_QUESTIONS[kind]]
    assert [form.asks if form else None for form in forms] == [asks] * len(forms)


def test_a_file_has_one_question_per_line_perhaps_with_its_type(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("# mine\nCounting: How many tools?\n\nIs there smoke?\nCounting: How many clips?\n")
    assert read_questions(tmp_path / "q.txt") == {
        "Counting": ("How many tools?", "How many clips?"),
        "Questions": ("Is there smoke?",),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 questions"),
        (b"q?\n" * 61, "has 61 questions"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a" * 200_000, "larger"),
    ],
)
def test_a_file_without_questions_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "q.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "q.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(tmp_path / "none.txt")
