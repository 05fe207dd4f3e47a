"""A question's template is its text without its nouns."""

import pytest

from surgvivqa.data.labels import LABELS
from surgvivqa.data.ssgqa import read_split
from surgvivqa.evaluation.templates import COMPONENTS, question_template
from tests.conftest import SHARED


@pytest.mark.parametrize(
    "question, template",
    [
        ("How many top-mid instruments are there?", "how many <place> <kind>s are there?"),
        (
            "How many top-mid anatomys are to the right of the red top-mid cystic_plate thing and above the brown "
            "bottom-mid thing?",
            "how many <place> <kind>s are to the right of the <color> <place> <component> <kind> and above the <color> "
            "<place> <kind>?",
        ),
        (
            "There is a anatomy that is within the white hook instrument and within the gallbladder object?; what name "
            "is it?",
            "there is a <kind> that is within the <color> <component> <kind> and within the <component> <kind>?; what "
            "name is it?",
        ),
        ("Are there any grasper instruments?", "are there any <component> <kind>s?"),
        ("How many anatomies are there?", "how many <kind>s are there?"),
        ("What anatomy is at the top-left of the frame ?", "what <kind> is at the <place> of the frame ?"),
        ("Which target is being dissected in the scene?", "which target is being <action> in the scene?"),
        ("What is the specimenbag doing?", "what is the <component> doing?"),
        ("Which tool is operating on abdominal_wall_cavity", "which tool is operating on <component>"),
    ],
)
def test_nouns_become_placeholders(question: str, template: str) -> None:
    assert question_template(question) == template


@pytest.mark.parametrize("first, second", [("red", "yellow"), ("hook", "bipolar"), ("top-left", "bottom-mid")])
def test_questions_that_differ_in_a_noun_have_one_template(first: str, second: str) -> None:
    ask = "Are there any {} things left of the liver anatomy?"
    assert question_template(ask.format(first)) == question_template(ask.format(second))


def test_a_word_that_only_begins_as_a_noun_stays() -> None:
    assert question_template("Is the hooked redness cut?") == "is the hooked redness <action>?"


def test_case_and_white_space_do_not_count() -> None:
    assert question_template("  what is  The LIVER doing? ") == "what is the <component> doing?"


def test_components_are_the_labels_that_are_things() -> None:
    assert len(COMPONENTS) == len(LABELS) - 11 - 2 - 6 - 2 - 9  # numbers, booleans, colours, kinds, actions
    assert {"specimen_bag", "specimenbag", "cystic_pedicle", "clipper"} <= set(COMPONENTS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real questions are not here")
def test_no_label_that_is_a_noun_is_left_in_real_questions() -> None:
    frames, _ = read_split(SHARED / "ssg-qa", ["VID01"])
    more, _ = read_split(SHARED / "real" / "ssg-qa", ["VID68", "VID70", "VID73", "VID75"])
    templates = {question_template(q.question) for frame in [*frames, *more] for q in frame.questions}
    words = {word for template in templates for word in template.replace("?", " ").replace(";", " ").split()}
    assert words & set(LABELS) == set()
    assert len(templates) < 40
