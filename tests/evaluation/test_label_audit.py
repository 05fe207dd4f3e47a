"""Which questions the labels of people confirm and contradict."""

from pathlib import Path

import pytest

from surgvivqa.data.labels import LABEL_INDEX
from surgvivqa.data.ssgqa import FrameQuestions, Question, read_split
from surgvivqa.data.triplets import Triplet, read_triplets
from surgvivqa.evaluation.label_audit import REASONS, Audit, Judgement, group_of, judge_frame, judge_question
from tests.helpers.triplet_labels import labels_of_graphs, write_cholect50

FRAME = [
    Triplet("hook", "dissect", "gallbladder"),
    Triplet("grasper", "retract", "gallbladder"),
    Triplet("irrigator", None, None),
]
ONE_TOOL = [Triplet("hook", "dissect", "gallbladder")]


@pytest.mark.parametrize(
    "question, answer, verdict, reason",
    [
        # actions
        ("What is the action being performed on gallbladder?", "retract", "agrees", "labelled"),
        ("What is the action being performed on gallbladder?", "cut", "contradicts", "other_label"),
        ("What is the action being performed on liver?", "retract", "contradicts", "no_such_action"),
        ("What is the action being performed on spleen?", "retract", "undecided", "not_labelled"),
        ("Which tool is operating on gallbladder", "hook", "agrees", "labelled"),
        ("Which tool is operating on gallbladder", "clipper", "contradicts", "other_label"),
        ("Which tool is operating on gallbladder", "specimenbag", "undecided", "not_labelled"),
        ("Which target is being dissected in the scene?", "gallbladder", "agrees", "labelled"),
        ("Which target is being dissected in the scene?", "liver", "contradicts", "other_label"),
        ("Which target is being clipped in the scene?", "cystic_duct", "contradicts", "no_such_action"),
        ("Which target is being ironed in the scene?", "liver", "undecided", "not_understood"),
        ("What is the grasper doing?", "retract", "agrees", "labelled"),
        ("What is the irrigator doing?", "irrigate", "contradicts", "no_such_action"),
        ("What is the specimenbag doing?", "pack", "undecided", "not_labelled"),
        # existence
        ("Are there any hook instruments?", "True", "agrees", "tool_present"),
        ("Are there any hook instruments?", "False", "contradicts", "tool_present"),
        ("Are there any clipper things?", "False", "agrees", "tool_absent"),
        ("Are there any clipper objects?", "True", "contradicts", "tool_absent"),
        ("Are there any top-mid clipper objects?", "True", "contradicts", "tool_absent"),
        ("Are there any top-mid hook objects?", "False", "undecided", "not_labelled"),
        ("Are there any hook objects left of the gallbladder thing?", "True", "undecided", "not_labelled"),
        ("Are there any gallbladder anatomys?", "False", "contradicts", "target_present"),
        ("Are there any liver anatomys?", "False", "undecided", "not_labelled"),
        ("Are there any specimenbag instruments?", "True", "undecided", "not_labelled"),
        ("Are there any instruments?", "True", "agrees", "tool_present"),
        ("Are there any anatomys?", "False", "contradicts", "target_present"),
        ("Are there any blue things?", "True", "undecided", "not_labelled"),
        # what a question takes for granted
        ("Are there any things left of the clipper instrument?", "True", "contradicts", "premise"),
        ("There is a bipolar thing; how many anatomys are above it?", "0", "contradicts", "premise"),
        ("What color is the scissors instrument?", "silver", "contradicts", "premise"),
        ("What color is the hook instrument?", "white", "undecided", "not_labelled"),
        # counts
        ("How many clipper instruments are there?", "0", "agrees", "tool_absent"),
        ("How many clipper instruments are there?", "2", "contradicts", "tool_absent"),
        ("How many hook instruments are there?", "0", "contradicts", "tool_present"),
        ("How many hook instruments are there?", "1", "undecided", "not_labelled"),
        ("How many top-left hook instruments are there?", "0", "undecided", "not_labelled"),
        ("How many instruments are there?", "2", "contradicts", "too_few"),
        ("How many instruments are there?", "3", "undecided", "not_labelled"),
        ("How many top-mid instruments are there?", "1", "undecided", "not_labelled"),
        # names
        ("What is the top-mid instrument?", "clipper", "contradicts", "tool_absent"),
        ("What is the top-mid instrument?", "hook", "undecided", "not_labelled"),
        (
            "There is a white object below the yellow omentum object; what is it?",
            "bipolar",
            "contradicts",
            "tool_absent",
        ),
        ("What is the top-mid thing?", "liver", "undecided", "not_labelled"),
        # other
        ("What anatomy is at the top-mid of the frame ?", "liver", "undecided", "not_labelled"),
        ("Is the patient well?", "True", "undecided", "not_understood"),
    ],
)
def test_questions_are_judged_where_the_labels_settle_them(
    question: str, answer: str, verdict: str, reason: str
) -> None:
    found = judge_question(question, answer, FRAME)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert found.reason in REASONS


def test_the_only_tool_is_what_an_instrument_is() -> None:
    assert judge_question("What is the top-mid instrument?", "hook", ONE_TOOL) == Judgement("agrees", "only_tool")
    assert judge_question("What is the top-mid thing?", "hook", ONE_TOOL).verdict == "undecided"
    # A bag is a tool of SSG-QA and no instrument of the labels.
    assert judge_question("What is the top-mid instrument?", "specimenbag", ONE_TOOL).verdict == "undecided"
    assert judge_question("Are there any instruments?", "True", []).verdict == "undecided"


def question(text: str, answer: str, video: str = "VID02", frame: int = 1, kind: str | None = None) -> Question:
    reasoning = None if kind is None else "zero_hop"
    return Question(video, frame, text, answer, LABEL_INDEX[answer], reasoning, kind, 3)


def test_groups() -> None:
    assert group_of(question("Are there any hook instruments?", "True", kind="exist")) == "exist"
    assert group_of(question("What is the grasper doing?", "grasp")) == "action"
    assert group_of(question("What anatomy is at the top-mid of the frame ?", "liver")) == "place"
    assert group_of(question("Well?", "True")) == "other"


def test_shares_are_of_settled_questions_with_intervals_over_videos() -> None:
    audit = Audit()
    text = "Are there any hook instruments?"
    for video, right, wrong in (("VID02", 3, 1), ("VID22", 2, 2), ("VID43", 4, 0)):
        answers = [*["True"] * right, *["False"] * wrong]
        questions = tuple(question(text, answer, video, kind="exist") for answer in answers)
        judge_frame(FrameQuestions(video, 1, questions), {1: FRAME}, audit)
    unlabelled = FrameQuestions("VID43", 9, (question(text, "True", "VID43", 9, "exist"),))
    assert judge_frame(unlabelled, {1: FRAME}, audit)[0][1] == Judgement("undecided", "frame_not_labelled")
    row = audit.rows()[0]
    assert (row.name, row.agrees, row.contradicts, row.undecided, row.videos) == ("all", 9, 3, 1, 3)
    assert row.share == 0.75 and row.low is not None and row.high is not None
    # Videos of equal size: the textbook interval of the mean of 3/4, 2/4 and 4/4, cut at 1.
    assert row.low == pytest.approx(0.75 - 4.30265 * 0.25 / 3**0.5, abs=1e-4) and row.high == 1.0
    assert {r.name for r in audit.rows()} == {"all", "exist"}
    assert sum(audit.reasons.values()) == 13


def test_a_group_without_settled_questions_has_no_share() -> None:
    audit = Audit()
    frame = FrameQuestions("VID02", 1, (question("What anatomy is at the top-mid of the frame ?", "liver"),))
    judge_frame(frame, {1: FRAME}, audit)
    row = next(row for row in audit.rows() if row.name == "place")
    assert row.share is row.low is row.high is None and row.undecided == 1


def test_faithful_labels_contradict_no_question_of_the_synthetic_set(synthetic_set: Path, tmp_path: Path) -> None:
    audit = Audit()
    for video in ("VID04", "VID01", "VID02"):
        labels = read_triplets(write_cholect50(tmp_path, video, labels_of_graphs(synthetic_set, video)))
        for frame in read_split(synthetic_set / "ssg-qa", [video])[0]:
            judge_frame(frame, labels, audit)
    rows = {row.name: row for row in audit.rows()}
    assert rows["all"].contradicts == 0
    assert rows["action"].agrees and rows["exist"].agrees and rows["count"].agrees


def test_labels_without_a_tool_contradict_what_is_said_of_it(synthetic_set: Path, tmp_path: Path) -> None:
    labels = labels_of_graphs(synthetic_set, "VID02")
    # One frame's labels are those of a frame in which people saw nothing.
    number = next(frame for frame, triplets in labels.items() if triplets)
    labels[number] = []
    found = read_triplets(write_cholect50(tmp_path, "VID02", labels))
    contradicted = set()
    for frame in read_split(synthetic_set / "ssg-qa", ["VID02"])[0]:
        judged = judge_frame(frame, found, Audit())
        contradicted |= {q.frame for q, judgement, _ in judged if judgement.verdict == "contradicts"}
    assert contradicted == {number}
