"""Compares the answers of SSG-QA's questions with the action triplets that people labelled in CholecT50.

SSG-QA's tools and anatomy come from detectors (its README); its actions are probably CholecT45's own labels. People
labelled which instrument does what to what, not where things are, how many of a kind there are, or the anatomy that
nothing acts on. So a question is judged only where these labels settle it:

- The six instruments (``triplets.LABELLED_TOOLS``) are taken to be labelled wherever they are visible, so a tool that
  is not labelled is not there, at no place and with no number but 0.
- A target that is labelled is there. One that is not labelled may be there.
- A question that takes a tool for granted (``what is left of the hook?``) is contradicted where it is not labelled.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from surgvivqa.data.labels import LABELS
from surgvivqa.data.question_forms import QuestionForm, normalise_question, parse_question
from surgvivqa.data.ssgqa import FrameQuestions, Question
from surgvivqa.data.triplets import LABELLED_TARGETS, LABELLED_TOOLS, Triplet, VideoTriplets
from surgvivqa.data.vocabulary import ANATOMIES, COMPONENTS, PARTICIPLES
from surgvivqa.evaluation.intervals import fraction_intervals

Verdict = Literal["agrees", "contradicts", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("agrees", "contradicts", "undecided")
# What decides, or why nothing does.
REASONS = {
    "labelled": "the labels have this answer",
    "other_label": "the labels have another answer",
    "no_such_action": "the labels have no such action",
    "tool_absent": "the labels have no such tool",
    "tool_present": "the labels have the tool",
    "target_present": "the labels have an action on it",
    "only_tool": "it is the only tool in the labels",
    "too_few": "the labels have more kinds of tools",
    "premise": "the question names a tool that the labels do not have",
    "not_labelled": "the labels do not say that",
    "not_understood": "the question is not understood",
    "frame_not_labelled": "the frame has no labels",
}
_ACTIONS = (
    (re.compile(r"what is the action being performed on (?P<target>\w+)"), "verb"),
    (re.compile(r"which tool is operating on (?P<target>\w+)"), "tool"),
    (re.compile(r"which target is being (?P<verb>\w+) in the scene"), "target"),
    (re.compile(r"what is the (?P<tool>\w+) doing"), "verb"),
)
_VERBS = {participle: verb for verb, participle in PARTICIPLES.items()}
_PLACE = re.compile(r"what anatomy is at the \S+ of the frame")
_NAMED = {*COMPONENTS, *LABELLED_TOOLS, *LABELLED_TARGETS}


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether the labels agree with the answer of a question.

    Attributes:
        verdict: what they say.
        reason: a key of ``REASONS``.
    """

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class AuditRow:
    """The verdicts on a group of questions.

    Attributes:
        name: the group: a question type, ``action``, ``place``, ``other`` or ``all``.
        agrees: number of questions whose answer the labels agree with.
        contradicts: number of questions whose answer they contradict.
        undecided: number of questions that they do not settle.
        share: the fraction that agrees of those that are settled; None if none is.
        low: lower end of its 95% interval by Student's t over videos; None for fewer than two videos with a settled
            question.
        high: upper end.
        videos: number of videos with a settled question.
    """

    name: str
    agrees: int
    contradicts: int
    undecided: int
    share: float | None
    low: float | None
    high: float | None
    videos: int


@dataclass
class Audit:
    """The verdicts on the questions of some videos.

    Attributes:
        verdicts: by group and video, the number of questions of each verdict, in the order of ``VERDICTS``.
        reasons: number of questions by verdict and reason.
    """

    verdicts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    reasons: Counter[tuple[Verdict, str]] = field(default_factory=Counter)

    def add(self, question: Question, judgement: Judgement) -> None:
        """Counts a judged question."""
        for group in ("all", group_of(question)):
            counts = self.verdicts.setdefault(group, {}).setdefault(question.video, [0] * len(VERDICTS))
            counts[VERDICTS.index(judgement.verdict)] += 1
        self.reasons[judgement.verdict, judgement.reason] += 1

    def rows(self) -> list[AuditRow]:
        """A row for each group, the largest one (``all``) first."""
        rows = [_build_row(name, list(counts.values())) for name, counts in self.verdicts.items()]
        return sorted(rows, key=lambda row: (-(row.agrees + row.contradicts + row.undecided), row.name))


def judge_frame(
    frame: FrameQuestions, labels: VideoTriplets, audit: Audit
) -> list[tuple[Question, Judgement, Sequence[Triplet]]]:
    """Judges the questions of a frame and counts them in ``audit``.

    Args:
        frame: the questions.
        labels: the triplets of its video.
        audit: gets the counts.

    Returns:
        The questions with their judgements and the triplets of the frame, in their order.
    """
    triplets = labels.get(frame.frame)
    judged = []
    for question in frame.questions:
        found = (
            Judgement("undecided", "frame_not_labelled")
            if triplets is None
            else judge_question(question.question, LABELS[question.label], triplets)
        )
        audit.add(question, found)
        judged.append((question, found, triplets or ()))
    return judged


def judge_question(question: str, answer: str, triplets: Iterable[Triplet]) -> Judgement:
    """Judges the answer of a question by the triplets of its frame."""
    triplets = list(triplets)
    text = normalise_question(question)
    for pattern, asks in _ACTIONS:
        if found := pattern.fullmatch(text):
            return _judge_action(found.groupdict(), asks, answer, triplets)
    form = parse_question(question)
    if form is None:
        return Judgement("undecided", "not_labelled" if _PLACE.fullmatch(text) else "not_understood")
    return _judge_form(form, answer, _Scene.of_triplets(triplets))


def group_of(question: Question) -> str:
    """The group of a question in the tables: its type, or what kind of line without a type it is."""
    if question.type is not None:
        return question.type
    text = normalise_question(question.question)
    if any(pattern.fullmatch(text) for pattern, _ in _ACTIONS):
        return "action"
    return "place" if _PLACE.fullmatch(text) else "other"


def _judge_action(given: Mapping[str, str | None], asks: str, answer: str, triplets: Sequence[Triplet]) -> Judgement:
    """Judges a question about an action: given one or two parts of a triplet, it asks for another."""
    tool, target = given.get("tool"), given.get("target")
    verb = None
    if participle := given.get("verb"):
        verb = _VERBS.get(participle)
        if verb is None:
            return Judgement("undecided", "not_understood")
    if (tool and tool not in LABELLED_TOOLS) or (target and target not in LABELLED_TARGETS):
        return Judgement("undecided", "not_labelled")
    if asks == "tool" and answer not in LABELLED_TOOLS:
        return Judgement("undecided", "not_labelled")
    actions = [
        t
        for t in triplets
        if t.verb is not None and tool in (None, t.tool) and verb in (None, t.verb) and target in (None, t.target)
    ]
    if not actions:
        return Judgement("contradicts", "no_such_action")
    if answer in (getattr(action, asks) for action in actions):
        return Judgement("agrees", "labelled")
    return Judgement("contradicts", "other_label")


@dataclass(frozen=True, slots=True)
class _Scene:
    """The instruments and targets that are labelled in a frame."""

    tools: frozenset[str]
    targets: frozenset[str]

    @classmethod
    def of_triplets(cls, triplets: Iterable[Triplet]) -> "_Scene":
        """Collects them."""
        found = list(triplets)
        return cls(frozenset(t.tool for t in found), frozenset(t.target for t in found if t.target))

    def has(self, noun: "_Noun") -> bool | None:
        """Whether there is an object of a noun's component and kind, at any place; None if the labels do not say."""
        if noun.component in LABELLED_TOOLS:
            return noun.component in self.tools
        if noun.component is not None:
            return True if noun.component in self.targets else None
        anatomy = self.targets & set(ANATOMIES)
        by_kind = {"instrument": self.tools, "anatomy": anatomy, "object": self.tools | anatomy}
        return True if by_kind[noun.kind] else None


@dataclass(frozen=True, slots=True)
class _Noun:
    """A noun phrase: its component if it names one, its kind, and whether it also names a colour or a place."""

    component: str | None
    kind: str
    is_restricted: bool

    @classmethod
    def parse(cls, phrase: str) -> "_Noun":
        """Parses a phrase such as ``white top-mid hook instrument``."""
        *words, kind = phrase.split()
        named = [word for word in words if word in _NAMED]
        component = named[0] if named else None
        return cls(component, "object" if kind == "thing" else kind, len(words) > len(named))


def _judge_form(form: QuestionForm, answer: str, scene: _Scene) -> Judgement:
    """Judges a template question."""
    noun = _Noun.parse(form.target)
    supposed = [_Noun.parse(place.referent) for place in form.places]
    if form.asks not in ("exist", "count"):
        supposed.append(noun)
    if any(scene.has(other) is False for other in supposed):
        return Judgement("contradicts", "premise")
    is_restricted = noun.is_restricted or bool(form.places)
    if form.asks == "exist":
        return _judge_existence(scene.has(noun), is_restricted, answer == "True", noun)
    if form.asks == "count":
        return _judge_count(scene, noun, is_restricted, answer)
    if form.asks == "name":
        return _judge_name(scene, noun, answer)
    return Judgement("undecided", "not_labelled")


def _judge_existence(is_there: bool | None, is_restricted: bool, answer: bool, noun: _Noun) -> Judgement:
    if is_there is None or (is_there and is_restricted):
        return Judgement("undecided", "not_labelled")
    present = "target_present" if noun.component in LABELLED_TARGETS or noun.kind == "anatomy" else "tool_present"
    return Judgement("agrees" if answer == is_there else "contradicts", present if is_there else "tool_absent")


def _judge_count(scene: _Scene, noun: _Noun, is_restricted: bool, answer: str) -> Judgement:
    is_there = scene.has(noun)
    if is_there is False:
        return Judgement("agrees" if answer == "0" else "contradicts", "tool_absent")
    if is_there and not is_restricted and answer == "0":
        return _judge_existence(is_there, is_restricted, answer=False, noun=noun)
    counts_tools = noun.component is None and noun.kind == "instrument" and not is_restricted
    if counts_tools and answer.isdigit() and int(answer) < len(scene.tools):
        return Judgement("contradicts", "too_few")
    return Judgement("undecided", "not_labelled")


def _judge_name(scene: _Scene, noun: _Noun, answer: str) -> Judgement:
    if answer in LABELLED_TOOLS and answer not in scene.tools:
        return Judgement("contradicts", "tool_absent")
    if noun.kind == "instrument" and scene.tools == {answer}:
        return Judgement("agrees", "only_tool")
    return Judgement("undecided", "not_labelled")


def _build_row(name: str, counts: Sequence[Sequence[int]]) -> AuditRow:
    """The row of a group, of ``[videos][verdicts]`` counts."""
    table = np.array(counts)
    agrees, contradicts, undecided = (int(n) for n in table.sum(0))
    settled = table[table[:, :2].sum(1) > 0, :2]
    if not len(settled):
        return AuditRow(name, agrees, contradicts, undecided, None, None, None, 0)
    share = agrees / (agrees + contradicts)
    left_out = settled.sum(0) - settled
    ends = (
        fraction_intervals({"share": share}, {"share": left_out[:, 0] / left_out.sum(1)}, len(settled))
        if len(settled) > 1
        else None
    )
    low, high = (None, None) if ends is None else ends["share"]
    return AuditRow(name, agrees, contradicts, undecided, share, low, high, len(settled))
