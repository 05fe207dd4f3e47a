"""Example questions of each kind in SSG-QA's wording, for people who ask their first one."""

from surgvivqa.data.question_forms import Place, QuestionForm, write_question
from surgvivqa.data.vocabulary import INSTRUMENTS


def example_questions() -> dict[str, tuple[str, ...]]:
    """A few questions of each kind whose answers are among SSG-QA's labels.

    Returns:
        Questions by kind: ``action``, ``object``, ``counting``, ``existence``, ``colour`` and ``kind``.
    """
    on_top, below = QuestionForm("name", "top-mid instrument"), Place("below", "gallbladder anatomy")
    left, right = Place("to the left of", "gallbladder anatomy"), Place("to the right of", "liver anatomy")
    return {
        "action": (
            *(f"What is the {tool} doing?" for tool in list(INSTRUMENTS)[:2]),
            "What is the action being performed on gallbladder?",
        ),
        "object": (
            "Which tool is operating on gallbladder",
            "Which target is being dissected in the scene?",
            "What anatomy is at the top-mid of the frame ?",
            write_question(on_top),
        ),
        "counting": (
            write_question(QuestionForm("count", "instrument")),
            write_question(QuestionForm("count", "silver thing")),
            write_question(QuestionForm("count", "instrument", (left,))),
        ),
        "existence": (
            *(write_question(QuestionForm("exist", f"{tool} instrument")) for tool in ("grasper", "hook")),
            write_question(QuestionForm("exist", "instrument", (right,))),
        ),
        "colour": (
            write_question(QuestionForm("color", "top-left thing")),
            write_question(QuestionForm("color", "instrument", (below,))),
        ),
        "kind": (
            write_question(QuestionForm("type", "white thing")),
            write_question(QuestionForm("type", "thing", (left,))),
        ),
    }
