"""What SSG-QA's questions ask, in the wordings of its files."""

from pathlib import Path

import pytest

from surgvivqa.data.question_forms import (
    Place,
    QuestionForm,
    change_sentence,
    change_words,
    is_same_sentence,
    normalise_question,
    parse_question,
    write_question,
)
from surgvivqa.data.ssgqa import read_split
from tests.conftest import SHARED

LEFT = (Place("left of", "red liver object"),)
TWO = (Place("within", "hook instrument"), Place("above", "gut anatomy"))


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("How many top-mid instruments are there?", QuestionForm("count", "top-mid instrument")),
        ("How many blue things are left of the red liver object?", QuestionForm("count", "blue thing", LEFT)),
        (
            "What number of anatomys are within the hook instrument and above the gut anatomy?",
            QuestionForm("count", "anatomy", TWO),
        ),
        ("There is a red liver object; how many things are left of it?", QuestionForm("count", "thing", LEFT)),
        ("Are there any anatomies?", QuestionForm("exist", "anatomy")),
        ("Are there any hook objects left of the red liver object?", QuestionForm("exist", "hook object", LEFT)),
        ("There is a red liver object; are there any things left of it?", QuestionForm("exist", "thing", LEFT)),
        ("What color is the top-left thing?", QuestionForm("color", "top-left thing")),
        ("What type is the thing that is left of the red liver object?", QuestionForm("type", "thing", LEFT)),
        (
            "What color is the thing that is both within the hook instrument and above the gut anatomy?",
            QuestionForm("color", "thing", TWO),
        ),
        ("The thing left of the red liver object is what color?", QuestionForm("color", "thing", LEFT)),
        ("The thing that is left of the red liver object is what type?", QuestionForm("type", "thing", LEFT)),
        ("What is the white thing?", QuestionForm("name", "white thing")),
        ("There is a thing that is left of the red liver object; what is it?", QuestionForm("name", "thing", LEFT)),
        (
            "There is a white object left of the red liver object; what is it?",
            QuestionForm("name", "white object", LEFT),
        ),
        (
            "There is a anatomy that is within the hook instrument and above the gut anatomy?; what name is it?",
            QuestionForm("name", "anatomy", TWO),
        ),
    ],
)
def test_a_question_is_parsed(question: str, form: QuestionForm) -> None:
    assert parse_question(question) == form


@pytest.mark.parametrize(
    "question",
    ["What is the grasper doing?", "Which tool is operating on gallbladder", "How many?", "", "Are there any tools?"],
)
def test_other_questions_are_of_no_form(question: str) -> None:
    assert parse_question(question) is None
    assert change_sentence(question) is None


@pytest.mark.parametrize(
    ("question", "words", "sentence"),
    [
        (
            "How many things are left of the liver object?",
            "How many things are to the left of the liver object?",
            "What number of things are left of the liver object?",
        ),
        ("How many hook instruments are there?", None, "What number of hook instruments are there?"),
        ("What number of things are there?", "What number of objects are there?", "How many things are there?"),
        (
            "Are there any objects to the right of the liver anatomy?",
            "Are there any objects on the right side of the liver anatomy?",
            "There is a liver anatomy; are there any objects to the right of it?",
        ),
        ("Are there any hook instruments?", None, None),
        (
            "The object above the liver anatomy is what color?",
            "The thing above the liver anatomy is what color?",
            "What color is the object that is above the liver anatomy?",
        ),
        (
            "There is a anatomy that is within the hook instrument and above the gut anatomy?; what name is it?",
            None,
            "There is a anatomy that is within the hook instrument and above the gut anatomy; what is it?",
        ),
    ],
)
def test_a_question_has_other_wordings(question: str, words: str | None, sentence: str | None) -> None:
    assert (change_words(question), change_sentence(question)) == (words, sentence)
    for other in (words, sentence):
        if other is not None:
            one, same = parse_question(question), parse_question(other)
            assert one is not None and same is not None and one.key == same.key
            assert is_same_sentence(question, other) == (other == words)


def test_a_written_form_is_parsed_back(synthetic_set: Path) -> None:
    frames, _ = read_split(synthetic_set / "ssg-qa", ["VID01", "VID02", "VID04"])
    templates = [q.question for frame in frames for q in frame.questions if q.type]
    assert len(templates) > 200
    for question in templates:
        form = parse_question(question)
        assert form is not None, question
        written = parse_question(write_question(form))
        assert written is not None and written.key == form.key, question


def test_every_real_template_question_is_parsed() -> None:
    if not (SHARED / "ssg-qa").is_dir():
        pytest.skip("the shared data is not here")
    frames, _ = read_split(SHARED / "ssg-qa", ["VID01"])
    templates = [q for frame in frames for q in frame.questions if q.type]
    assert len(templates) >= 15
    for question in templates:
        form = parse_question(question.question)
        asks = {"query_color": "color", "query_type": "type", "query_component": "name"}
        assert form is not None and form.asks == asks.get(question.type or "", question.type), question.question


def test_case_spaces_and_marks_do_not_matter() -> None:
    assert normalise_question(" Are  there any X ? ") == normalise_question("are there any x?") == "are there any x"
    assert normalise_question("There is a X?; what is it?") == "there is a x; what is it"
