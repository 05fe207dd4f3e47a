"""How often a model's answers contradict each other, which needs no labels.

A pair of questions about one frame has answers that must agree, whatever the frame shows: ``Are there any X?`` and
``How many X are there?``; X to the left of Y and Y to the right of X; two wordings of one question. Neighbouring
frames, one second apart, mostly have the same answer. The same counts of the true answers show how often the labels
contradict themselves, and how often the scene changes between neighbouring frames.

A question with ``the X`` supposes that X is one object of the frame: SSG-QA keeps an expression only if it names
exactly one. So Y to the right of X is asked only where X is the referent of some question about the frame.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, cycle
from typing import NamedTuple

import numpy as np

from surgvivqa.data.labels import LABELS
from surgvivqa.data.question_forms import (
    CONVERSE,
    Place,
    QuestionForm,
    change_sentence,
    change_words,
    is_same_sentence,
    normalise_question,
    parse_question,
    plain_noun,
    write_question,
)
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.data.vocabulary import RELATION_PHRASES
from surgvivqa.evaluation.estimates import count_by_video, estimate
from surgvivqa.evaluation.predictions import Prediction, label_set_of

MOST_EXAMPLES = 20
MOST_REFERENTS = 4  # of a frame, whose relations are asked: 6 pairs, 18 questions
KINDS = {
    "existence_counting": "'Are there any X?' is True and 'How many X are there?' is 0, or False and more than 0",
    "synonyms": "a question has another answer with synonyms (left of, to the left of; thing, object)",
    "sentences": "a question has another answer as another sentence (How many X are ..., What number of X are ...)",
    "converse": "X is left of (above) Y, but Y is not right of (below) X, or the reverse",
    "opposite": "X, one object, is both left and right of (above and below) Y",
    "neighbouring_frames": "the same question has different answers in frames t and t+1; may be true",
}
_NUMBERS = {label: int(label) for label in LABELS if label.isdigit()}


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        question: the question.
        answer: index of the predicted label.
        truth: index of the true label; None for a question that was generated.
    """

    video: str
    frame: int
    question: str
    answer: int
    truth: int | None


@dataclass(frozen=True)
class ContradictionExample:
    """Two answers that contradict each other; labels as text.

    Attributes:
        video: name of the video.
        frame: number of the first question's frame.
        question: the first question.
        answer: the model's answer.
        other_frame: number of the second question's frame; another one for neighbouring frames only.
        other_question: the second question.
        other_answer: the model's answer.
    """

    video: str
    frame: int
    question: str
    answer: str
    other_frame: int
    other_question: str
    other_answer: str


@dataclass(frozen=True)
class ContradictionRow:
    """The contradictions of one kind.

    Attributes:
        kind: a key of ``KINDS``.
        description: what contradicts what.
        pairs: number of pairs whose answers can be compared.
        asked: those of them with a question that was generated.
        contradictions: number of pairs that contradict each other.
        rate: ``contradictions / pairs``; None without pairs.
        interval: its 95% t-interval over the videos (``estimates``); None with fewer than two videos that have pairs.
        videos: number of videos with pairs.
        other_answers: number of further pairs with an answer of another kind, such as a colour to ``How many``.
        reference_pairs: number of pairs whose true answers are both known.
        reference_contradictions: those whose true answers contradict each other.
        reference_rate: their share; None without such pairs.
        unlike_reference: pairs among them where the model contradicts itself and the true answers do not.
        examples: up to 20 contradictions, spread over all.
    """

    kind: str
    description: str
    pairs: int
    asked: int
    contradictions: int
    rate: float | None
    interval: tuple[float, float] | None
    videos: int
    other_answers: int
    reference_pairs: int
    reference_contradictions: int
    reference_rate: float | None
    unlike_reference: int
    examples: list[ContradictionExample]


@dataclass(frozen=True)
class Contradictions:
    """The section ``contradictions`` of ``metrics.json``.

    Attributes:
        asked_frames: number of frames for which partner questions were generated.
        asked_questions: number of questions that were generated and asked.
        rows: a row for each of ``KINDS``.
    """

    asked_frames: int
    asked_questions: int
    rows: list[ContradictionRow]


def compute_contradictions(
    predictions: Sequence[Prediction], asked: Sequence[Prediction] = ()
) -> Contradictions | None:
    """Counts contradictions between the answers of an evaluation.

    Args:
        predictions: the predictions.
        asked: predictions for the questions of ``generate_partners``, whose true labels are not known.

    Returns:
        The section; None for another data set than SSG-QA, whose questions it does not understand.
    """
    if not label_set_of(predictions).is_ssg_qa:
        return None
    answers = [Answer(p.video, p.frame, p.question, p.prediction, p.answer) for p in predictions]
    answers += [Answer(p.video, p.frame, p.question, p.prediction, None) for p in asked]
    pairs: dict[str, list[tuple[Answer, Answer]]] = {kind: [] for kind in KINDS}
    for kind, one, other in find_pairs(answers):
        pairs[kind].append((one, other))
    rows = [_build_row(kind, found) for kind, found in pairs.items()]
    return Contradictions(len({(p.video, p.frame) for p in asked}), len(asked), rows)


def find_pairs(answers: Iterable[Answer]) -> Iterator[tuple[str, Answer, Answer]]:
    """Finds the pairs of answers that must agree, with their kind. A pair is found once.

    Neighbouring frames are compared on the questions of the files alone, whose true answers are known.
    """
    by_frame: dict[tuple[str, int], dict[str, Answer]] = defaultdict(dict)
    for answer in answers:
        by_frame[answer.video, answer.frame].setdefault(normalise_question(answer.question), answer)
    for (video, frame), here in by_frame.items():
        yield from _pairs_of_frame(list(here.values()))
        following = by_frame.get((video, frame + 1), {})
        for text, answer in here.items():
            other = following.get(text)
            if other is not None and answer.truth is not None and other.truth is not None:
                yield "neighbouring_frames", answer, other


def contradicts(kind: str, one: str, other: str) -> bool | None:
    """Whether two answers of a pair of a kind contradict each other.

    Args:
        kind: a key of ``KINDS``.
        one: the label that answers the first question.
        other: the label that answers the second one.

    Returns:
        None if an answer is of another kind than the question asks for, which is a fault but not a contradiction.
    """
    if kind in ("synonyms", "sentences", "neighbouring_frames"):
        return one != other
    first, second = _says_there_is(one), _says_there_is(other)
    if first is None or second is None:
        return None
    return (first and second) if kind == "opposite" else first != second


def generate_partners(frame: FrameQuestions) -> FrameQuestions:
    """Writes the questions whose answers can contradict those of a frame, as far as they are not asked already.

    The labels of the generated questions are not known: ``label`` is 0, and ``answer`` is empty.
    """
    asked = {normalise_question(q.question) for q in frame.questions}
    forms = [(q.question, form) for q in frame.questions if (form := parse_question(q.question))]
    unique = _referents(form for _, form in forms)
    partners: dict[str, str] = {}
    for question, form in forms:
        for text in _partners(question, form, unique):
            partners.setdefault(normalise_question(text), text)
    for text in _relations_between(list(unique.values())[:MOST_REFERENTS]):
        partners.setdefault(normalise_question(text), text)
    questions = tuple(
        Question(frame.video, frame.frame, text, "", 0, None, None, 0)
        for plain, text in partners.items()
        if plain not in asked
    )
    return FrameQuestions(frame.video, frame.frame, questions)


def generate_partner_frames(frames: Sequence[FrameQuestions], number: int) -> list[FrameQuestions]:
    """The partner questions of evenly spaced frames, which leave out frames without one.

    Args:
        frames: the frames with their questions.
        number: number of frames.
    """
    generated = (generate_partners(frame) for frame in choose_frames(frames, number))
    return [frame for frame in generated if frame.questions]


def choose_frames(frames: Sequence[FrameQuestions], number: int) -> list[FrameQuestions]:
    """Evenly spaced frames, and so spread over the videos."""
    number = min(number, len(frames))
    return [frames[int(index)] for index in np.linspace(0, len(frames) - 1, number).round()] if number else []


def _partners(question: str, form: QuestionForm, unique: Mapping[str, str]) -> Iterator[str]:
    """The partners of one question; ``unique`` are the noun phrases that describe one object of the frame."""
    if form.asks in ("count", "exist"):
        yield write_question(replace(form, asks="exist" if form.asks == "count" else "count"))
        target = unique.get(plain_noun(form.target))
        if target is not None and len(form.places) == 1 and form.places[0].name in CONVERSE:
            (place,) = form.places
            words = RELATION_PHRASES[CONVERSE[place.name]][0]
            yield write_question(QuestionForm("exist", place.referent, (Place(words, target),)))
            yield write_question(QuestionForm("exist", form.target, (Place(words, place.referent),)))
    for other in (change_words(question), change_sentence(question)):
        if other is not None:
            yield other


def _relations_between(referents: Sequence[str]) -> Iterator[str]:
    """Questions for relations, and for their converses, between objects of a frame that have an expression each."""
    for (one, other), (name, converse) in zip(
        combinations(referents, 2), cycle([("left", "right"), ("above", "below")]), strict=False
    ):
        yield write_question(QuestionForm("exist", one, (Place(RELATION_PHRASES[name][0], other),)))
        yield write_question(QuestionForm("exist", other, (Place(RELATION_PHRASES[converse][0], one),)))
        yield write_question(QuestionForm("exist", one, (Place(RELATION_PHRASES[converse][0], other),)))


def _pairs_of_frame(answers: Sequence[Answer]) -> Iterator[tuple[str, Answer, Answer]]:
    """The pairs among the answers about one frame."""
    forms = [(answer, form) for answer in answers if (form := parse_question(answer.question))]
    unique = _referents(form for _, form in forms)
    by_key: dict[tuple[str, str, frozenset[tuple[str, str]]], list[Answer]] = defaultdict(list)
    for answer, form in forms:
        by_key[form.key].append(answer)
    for alike in by_key.values():
        for one, other in combinations(alike, 2):
            yield "synonyms" if is_same_sentence(one.question, other.question) else "sentences", one, other
    # The first wording of each question; the others would count its contradictions again.
    number = {key[1:]: alike[0] for key, alike in by_key.items() if key[0] == "count"}
    existence = {key[1:]: alike[0] for key, alike in by_key.items() if key[0] == "exist"}
    for asked, answer in existence.items():
        if asked in number:
            yield "existence_counting", answer, number[asked]
    presence = number | existence
    for (target, places), answer in presence.items():
        name, referent = next(iter(places)) if len(places) == 1 else ("", "")
        if target in unique and name in ("left", "above"):  # so that a pair is found from one of its questions
            for kind, asked in (
                ("converse", (referent, frozenset({(CONVERSE[name], target)}))),
                ("opposite", (target, frozenset({(CONVERSE[name], referent)}))),
            ):
                if asked in presence:
                    yield kind, answer, presence[asked]


def _referents(forms: Iterable[QuestionForm]) -> dict[str, str]:
    """The noun phrases that describe exactly one object of the frame, since questions refer to it: plain to worded."""
    return {plain_noun(place.referent): place.referent for form in forms for place in form.places}


def _says_there_is(label: str) -> bool | None:
    """Whether an answer says that there is something; None for an answer of another kind."""
    if label in _NUMBERS:
        return _NUMBERS[label] > 0
    return {"True": True, "False": False}.get(label)


def _build_row(kind: str, pairs: Sequence[tuple[Answer, Answer]]) -> ContradictionRow:
    compared: list[tuple[Answer, Answer, bool]] = []
    for one, other in pairs:
        is_against = contradicts(kind, LABELS[one.answer], LABELS[other.answer])
        if is_against is not None:
            compared.append((one, other, is_against))
    against = [(one, other) for one, other, found in compared if found]
    reference = [
        (contradicts(kind, LABELS[one.truth], LABELS[other.truth]), found)
        for one, other, found in compared
        if one.truth is not None and other.truth is not None
    ]
    true_contradictions = sum(bool(of_truth) for of_truth, _ in reference)
    counts = count_by_video([one.video for one, _, _ in compared], [[found for _, _, found in compared]])
    rate = estimate(counts, lambda c: c[..., 1] / c[..., 0], 0, 1)
    return ContradictionRow(
        kind=kind,
        description=KINDS[kind],
        pairs=len(compared),
        asked=sum(one.truth is None or other.truth is None for one, other, _ in compared),
        contradictions=len(against),
        rate=rate.value,
        interval=rate.interval,
        videos=len(counts),
        other_answers=len(pairs) - len(compared),
        reference_pairs=len(reference),
        reference_contradictions=true_contradictions,
        reference_rate=true_contradictions / len(reference) if reference else None,
        unlike_reference=sum(found and not of_truth for of_truth, found in reference),
        examples=[_build_example(*against[i]) for i in _spread(len(against), MOST_EXAMPLES)],
    )


def _spread(number: int, most: int) -> list[int]:
    """At most ``most`` evenly spaced indices of ``number`` items."""
    return np.linspace(0, number - 1, min(number, most)).round().astype(int).tolist() if number else []


def _build_example(one: Answer, other: Answer) -> ContradictionExample:
    return ContradictionExample(
        one.video, one.frame, one.question, LABELS[one.answer], other.frame, other.question, LABELS[other.answer]
    )


def format_contradictions(contradictions: Contradictions) -> str:
    """Formats the section as a table, in %; kinds without pairs are named in the last line."""
    lines = [f"{'contradictions':<20}{'pairs':>7}{'asked':>7}{'%':>7}{'95%':>12}{'labels %':>10}"]
    for row in contradictions.rows:
        if row.rate is None:
            continue
        interval = "" if row.interval is None else f"{100 * row.interval[0]:.1f}-{100 * row.interval[1]:.1f}"
        labels = "-" if row.reference_rate is None else f"{100 * row.reference_rate:.1f}"
        name = row.kind.replace("_", " ")
        lines.append(f"{name:<20}{row.pairs:>7}{row.asked:>7}{100 * row.rate:>7.1f}{interval:>12}{labels:>10}")
    if without := [row.kind.replace("_", " ") for row in contradictions.rows if not row.pairs]:
        lines.append(f"no pairs: {', '.join(without)} (--ask-partners asks questions that form pairs within a frame)")
    return "\n".join(lines)
