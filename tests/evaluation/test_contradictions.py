"""Pairs of questions whose answers must agree, and what counts as a contradiction."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from surgvivqa.data.labels import LABEL_INDEX, LABELS
from surgvivqa.data.question_forms import QuestionForm, normalise_question, parse_question
from surgvivqa.data.ssgqa import FrameQuestions, Question, read_split
from surgvivqa.data.vocabulary import COLORS, COMPONENTS, LOCATIONS
from surgvivqa.evaluation.contradictions import (
    KINDS,
    Answer,
    ContradictionRow,
    Contradictions,
    choose_frames,
    compute_contradictions,
    contradicts,
    find_pairs,
    format_contradictions,
    generate_partners,
)
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.evaluation.report import SECTIONS, _parse_section
from surgvivqa.synthetic.questions import Phrase, SceneIndex
from surgvivqa.utils.safe_json import read_json


def predictions_of(*rows: tuple[str, str], video: str = "VID02", frame: int = 1, truth: str = "0") -> list[Prediction]:
    """Predictions for (question, predicted label) rows about one frame."""
    return [Prediction(video, frame, q, LABEL_INDEX[truth], LABEL_INDEX[label]) for q, label in rows]


def contradictions_of(predictions: list[Prediction], asked: list[Prediction] | None = None) -> Contradictions:
    found = compute_contradictions(predictions, asked or [])
    assert found is not None
    return found


def row_of(kind: str, predictions: list[Prediction], asked: list[Prediction] | None = None) -> ContradictionRow:
    return next(row for row in contradictions_of(predictions, asked).rows if row.kind == kind)


@pytest.mark.parametrize(
    ("exists", "count", "is_against"),
    [("True", "0", True), ("True", "2", False), ("False", "0", False), ("False", "10", True), ("hook", "1", None)],
)
def test_existence_must_agree_with_the_number(exists: str, count: str, is_against: bool | None) -> None:
    row = row_of(
        "existence_counting",
        predictions_of(("Are there any red things?", exists), ("How many red objects are there?", count)),
    )
    assert contradicts("existence_counting", exists, count) is is_against
    assert (row.pairs, row.contradictions, row.other_answers) == (
        (0, 0, 1) if is_against is None else (1, int(is_against), 0)
    )


def test_two_wordings_are_a_pair_of_their_kind() -> None:
    found = predictions_of(
        ("How many things are left of the liver object?", "1"),
        ("How many objects are to the left of the liver thing?", "2"),
        ("What number of things are left of the liver object?", "1"),
    )
    synonyms, sentences = row_of("synonyms", found), row_of("sentences", found)
    assert (synonyms.pairs, synonyms.contradictions) == (1, 1)
    assert (sentences.pairs, sentences.contradictions) == (2, 1)


REFER = ("What color is the thing that is below the hook object?", "red")  # so that hook object is one object


@pytest.mark.parametrize(
    ("here", "there", "against"), [("left", "right", 1), ("above", "below", 1), ("left", "left", None)]
)
def test_a_relation_must_agree_with_its_converse(here: str, there: str, against: int | None) -> None:
    first = f"Are there any hook objects {here}{' of' if here == 'left' else ''} the liver thing?"
    words = f"to the {there} of" if there in ("left", "right") else there
    second = f"How many liver things are {words} the hook object?"
    row = row_of("converse", predictions_of(REFER, (first, "True"), (second, "0")))
    assert (row.pairs, row.contradictions) == ((0, 0) if against is None else (1, against))
    if against:
        assert row_of("converse", predictions_of(REFER, (first, "True"), (second, "1"))).contradictions == 0


def test_the_converse_of_a_phrase_that_may_describe_several_objects_is_no_pair() -> None:
    found = predictions_of(
        ("Are there any red things left of the liver thing?", "True"),
        ("Are there any liver things right of the blue thing?", "False"),
    )
    assert all(row.pairs == 0 for row in contradictions_of(found).rows)


def test_one_object_is_not_on_both_sides() -> None:
    left, right = (
        "Are there any hook things left of the gut thing?",
        "Are there any hook things right of the gut thing?",
    )
    for answers, against in ((("True", "True"), 1), (("True", "False"), 0), (("False", "False"), 0)):
        row = row_of("opposite", predictions_of(REFER, (left, answers[0]), (right, answers[1])))
        assert (row.pairs, row.contradictions) == (1, against)
    row = row_of("opposite", predictions_of((left, "True"), (right, "True")))
    assert row.pairs == 0  # several hooks may be on both sides


def test_neighbouring_frames_are_those_one_second_apart_in_one_video() -> None:
    question = ("What is the hook doing?", "cut")
    found = [
        *predictions_of(question, frame=1, truth="cut"),
        *predictions_of((question[0], "clip"), frame=2, truth="cut"),
        *predictions_of((question[0], "clip"), frame=3, truth="clip"),
        *predictions_of(question, frame=5),
        *predictions_of(question, frame=4, video="VID22"),
    ]
    row = row_of("neighbouring_frames", found)
    assert (row.pairs, row.contradictions, row.reference_pairs, row.reference_contradictions) == (2, 1, 2, 1)
    assert row.unlike_reference == 1
    (example,) = row.examples
    assert (example.frame, example.answer, example.other_frame, example.other_answer) == (1, "cut", 2, "clip")


def test_generated_questions_have_no_true_answer_and_are_counted() -> None:
    asked = predictions_of(("How many red things are there?", "0"), truth="3")
    row = row_of("existence_counting", predictions_of(("Are there any red things?", "True"), truth="True"), asked)
    assert (row.pairs, row.asked, row.contradictions, row.reference_pairs, row.reference_rate) == (1, 1, 1, 0, None)


def test_the_interval_is_over_the_videos_rates() -> None:
    found = []
    for video, counts in (("VID02", "00"), ("VID22", "01"), ("VID43", "11")):
        for frame, count in enumerate(counts):
            rows = (("Are there any red things?", "True"), ("How many red things are there?", count))
            found += predictions_of(*rows, video=video, frame=10 * frame)
    row = row_of("existence_counting", found)
    half = 4.30265273 * np.std([1, 0.5, 0], ddof=1) / np.sqrt(3)
    assert (row.rate, row.videos) == (0.5, 3)
    assert row.interval == pytest.approx((max(0, 0.5 - half), min(1, 0.5 + half)))


def test_the_interval_holds_the_rate_where_one_video_has_most_pairs() -> None:
    found = []
    for video, count, frames in (("VID01", "0", 97), *((f"VID{n}", "1", 1) for n in range(10, 19))):
        for frame in range(frames):
            rows = (("Are there any red things?", "True"), ("How many red things are there?", count))
            found += predictions_of(*rows, video=video, frame=10 * frame)
    row = row_of("existence_counting", found)
    assert row.interval is not None and row.rate is not None
    assert row.interval[0] <= row.rate == 97 / 106 <= row.interval[1]


def test_examples_are_at_most_twenty_and_of_all_videos() -> None:
    found = []
    for video in ("VID02", "VID22"):
        for frame in range(0, 60, 2):
            rows = (("Are there any red things?", "True"), ("How many red things are there?", "0"))
            found += predictions_of(*rows, video=video, frame=frame)
    row = row_of("existence_counting", found)
    assert row.contradictions == 60 and len(row.examples) == 20
    assert {example.video for example in row.examples} == {"VID02", "VID22"}


def test_the_section_is_read_back_and_printed() -> None:
    found = contradictions_of(
        predictions_of(("Are there any red things?", "True"), ("How many red things are there?", "0"))
    )
    assert _parse_section(SECTIONS["contradictions"], json.loads(json.dumps(dataclasses.asdict(found)))) == found
    table = format_contradictions(found)
    assert "existence counting" in table and "100.0" in table and "no pairs: synonyms" in table


def test_no_predictions_have_a_row_of_each_kind() -> None:
    assert [(row.kind, row.pairs, row.rate) for row in contradictions_of([]).rows] == [(k, 0, None) for k in KINDS]


def test_partners_are_not_asked_twice() -> None:
    lines = [
        Question("VID02", 1, text, "", 0, None, None, 1)
        for text in ("Are there any red things?", "How many red things are there?")
    ]
    partners = generate_partners(FrameQuestions("VID02", 1, tuple(lines)))
    texts = [q.question for q in partners.questions]
    assert texts == [
        "Are there any red objects?",
        "How many red objects are there?",
        "What number of red things are there?",
    ]


def test_chosen_frames_are_evenly_spaced() -> None:
    frames = [FrameQuestions("VID02", n, ()) for n in range(9)]
    assert [f.frame for f in choose_frames(frames, 3)] == [0, 4, 8]
    assert len(choose_frames(frames, 100)) == 9 and choose_frames(frames, 0) == []


def described(scene: SceneIndex, noun: str) -> list[int]:
    """Indices of the objects that a noun phrase describes."""
    *words, kind = noun.split(" ")
    known = {"color": set(COLORS.values()), "place": set(LOCATIONS), "component": set(COMPONENTS)}
    parts = {name: next((w for w in words if w in values), "") for name, values in known.items()}
    return scene.matching(Phrase(**parts, kind=kind))


def true_answer(scene: SceneIndex, form: QuestionForm) -> str:
    """The answer that a scene graph gives to a question."""
    found = set(described(scene, form.target))
    for place in form.places:
        (referent,) = described(scene, place.referent)
        found &= set(scene.relations[place.name][referent])
    if form.asks in ("count", "exist"):
        return str(min(len(found), 10)) if form.asks == "count" else str(bool(found))
    (index,) = found
    item = scene.objects[index]
    return {"color": item["color"], "type": item["type"], "name": item["component"]}[form.asks]


def test_true_answers_contradict_nothing(synthetic_set: Path) -> None:
    """Generated partners are valid: answered from the scene graphs, no pair of any kind contradicts itself."""
    frames, _ = read_split(synthetic_set / "ssg-qa", ["VID01", "VID02", "VID04"])
    pairs = dict.fromkeys(KINDS, 0)
    for frame in frames:
        scene = SceneIndex(read_json(synthetic_set / "scene_graph" / f"{frame.video}_{frame.frame}.json"))
        answers = []
        for question in (*frame.questions, *generate_partners(frame).questions):
            form = parse_question(question.question)
            if form is not None:
                truth = true_answer(scene, form)
                assert question.answer in ("", truth), question.question
                answers.append(Answer(frame.video, frame.frame, question.question, LABEL_INDEX[truth], None))
        for kind, one, other in find_pairs(answers):
            pairs[kind] += 1
            assert contradicts(kind, LABELS[one.answer], LABELS[other.answer]) is False, (kind, one, other)
    del pairs["neighbouring_frames"]
    assert min(pairs.values()) > 50, pairs


def test_every_partner_is_in_a_pair(synthetic_set: Path) -> None:
    frames, _ = read_split(synthetic_set / "ssg-qa", ["VID02"])
    for frame in frames:
        partners = generate_partners(frame).questions
        answers = [Answer(q.video, q.frame, q.question, 0, None) for q in (*frame.questions, *partners)]
        paired = {normalise_question(q.question) for _, *pair in find_pairs(answers) for q in pair}
        assert {normalise_question(q.question) for q in partners} <= paired
