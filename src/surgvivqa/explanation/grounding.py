"""Finds the objects that a question asks about in the scene graph of its frame.

A question in SSG-QA's phrasing is read as a noun phrase (the *target*) and up to two relations to other noun phrases
(the *referents*); SSG-QA's generator follows CLEVR (Johnson et al., CVPR 2017)::

    How many white things are left of the top-mid hook and above the brown anatomy?
             ------------     ------- ----------------     ----- -----------------
             target           relation referent            relation referent

``data.question_forms`` reads the sentence. A word of a noun phrase that is not SSG-QA's makes the question unreadable:
it is better not grounded than grounded wrongly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from surgvivqa.data.labels import LABELS
from surgvivqa.data.question_forms import parse_question
from surgvivqa.data.vocabulary import COLOR_NAMES, COLORS, LOCATIONS, PARTICIPLES
from surgvivqa.explanation.scene_graphs import GraphObject, SceneGraph

T = TypeVar("T")
_ANY_KIND = ("thing", "object")
_COMPONENTS = {*COLORS, *LABELS} - {*COLOR_NAMES, "anatomy", "instrument", "True", "False"}
_WORDS = {"color": COLOR_NAMES, "place": LOCATIONS, "component": _COMPONENTS}
_ACTION_FORMS = (
    (r"what is the (?P<tool>\w+) doing", "tool"),
    (r"what is the action being performed on (?:the )?(?P<target>\w+)", "target"),
    (r"which tool is operating on (?:the )?(?P<target>\w+)", "operating"),
    (r"which target is being (?P<verb>\w+) in the scene", "acted on"),
)
_PLACE_FORM = rf"what (?P<kind>anatomy|instrument|tool) is at the (?P<place>{'|'.join(LOCATIONS)}) of the frame"


@dataclass(frozen=True)
class Phrase:
    """A noun phrase such as ``white top-mid hook instrument``; a part that it does not name is empty."""

    color: str = ""
    place: str = ""
    component: str = ""
    kind: str = ""

    def matches(self, item: GraphObject) -> bool:
        """Whether it describes an object."""
        return (
            self.color in ("", item.color)
            and self.place in ("", item.location)
            and self.component in ("", item.component)
            and self.kind in ("", item.kind)
        )


@dataclass(frozen=True)
class ParsedQuestion:
    """A template question.

    Attributes:
        asked: what it asks about its target: ``count``, ``exist``, ``color``, ``type``, ``component`` or ``location``.
        target: the target.
        relations: up to two relations, each with the referent that the target has it to.
    """

    asked: str
    target: Phrase
    relations: tuple[tuple[str, Phrase], ...]


@dataclass(frozen=True)
class Grounding:
    """The objects that a question asks about, as indices of the scene graph's objects.

    Attributes:
        asked: what is asked about the targets: as ``ParsedQuestion.asked``, or ``verb``.
        targets: the objects whose number, existence, property or action is the answer; empty if there are none.
        referents: the other objects that the question depends on: those it names, and those that take part in an
            action.
        answers: the answers that the graph gives, as labels; several if the graph allows several.
    """

    asked: str
    targets: tuple[int, ...]
    referents: tuple[int, ...]
    answers: tuple[str, ...]


def read_template(question: str) -> ParsedQuestion | None:
    """Reads a template question; None for a question of another form, or with a word that is not SSG-QA's."""
    form = parse_question(question)
    if form is None:
        return None
    target = _read_phrase(form.target)
    relations = [(place.name, _read_phrase(place.referent)) for place in form.places]
    known = tuple((name, referent) for name, referent in relations if referent is not None)
    if target is None or len(known) != len(relations):
        return None
    return ParsedQuestion("component" if form.asks == "name" else form.asks, target, known)


def ground_question(question: str, graph: SceneGraph) -> Grounding | None:
    """Finds the objects that a question asks about.

    Args:
        question: the question's text.
        graph: the scene graph of its frame.

    Returns:
        None if the question's form is not known, if a referent's description does not fit exactly one object (as
        SSG-QA requires), or if the graph does not have one of its relations.
    """
    parsed = read_template(question)
    if parsed is not None:
        return _ground_template(parsed, graph)
    text = " ".join(question.lower().replace("?", " ").split())
    for pattern, form in _ACTION_FORMS:
        if match := re.fullmatch(pattern, text):
            return _ground_action(form, match[1], graph)
    if match := re.fullmatch(_PLACE_FORM, text):
        kind = "anatomy" if match["kind"] == "anatomy" else "instrument"
        targets = _matching(Phrase(place=match["place"], kind=kind), graph)
        return Grounding("component", targets, (), _distinct([graph.objects[i].component for i in targets]))
    return None


def _ground_template(parsed: ParsedQuestion, graph: SceneGraph) -> Grounding | None:
    pool = set(range(len(graph.objects)))
    referents: list[int] = []
    for relation, phrase in parsed.relations:
        found = _matching(phrase, graph)
        if len(found) != 1 or relation not in graph.relations:
            return None
        referents += found
        pool &= graph.related(relation, found[0])
    targets = tuple(i for i in _matching(parsed.target, graph) if i in pool)
    objects = [graph.objects[i] for i in targets]
    answers = {
        "count": lambda: [str(min(len(targets), 10))],  # SSG-QA has no larger number
        "exist": lambda: [str(bool(targets))],
        "color": lambda: [item.color for item in objects],
        "type": lambda: [item.kind for item in objects],
        "component": lambda: [item.component for item in objects],
        "location": lambda: [item.location for item in objects],
    }[parsed.asked]()
    return Grounding(parsed.asked, targets, _distinct(referents), _distinct(answers))


def _ground_action(form: str, word: str, graph: SceneGraph) -> Grounding | None:
    """The objects of a question about an action; None if the graph has no such action."""
    names = [item.component for item in graph.objects]
    selects, asks_for = {
        "tool": (lambda tool, verb, target: names[tool] == word, "verb"),
        "target": (lambda tool, verb, target: names[target] == word, "verb"),
        "operating": (lambda tool, verb, target: names[target] == word, "tool"),
        "acted on": (lambda tool, verb, target: PARTICIPLES.get(verb) == word, "target"),
    }[form]
    actions = [action for action in graph.actions if selects(*action)]
    if not actions:
        return None
    tools, acted_on = _distinct([a[0] for a in actions]), _distinct([a[2] for a in actions])
    # A verb is what the tool does, so it is the tool that shows it.
    targets, partners = (acted_on, tools) if asks_for == "target" else (tools, acted_on)
    answers = [verb for _, verb, _ in actions] if asks_for == "verb" else [names[i] for i in targets]
    asked = "verb" if asks_for == "verb" else "component"
    return Grounding(asked, targets, tuple(i for i in partners if i not in targets), _distinct(answers))


def _matching(phrase: Phrase, graph: SceneGraph) -> tuple[int, ...]:
    return tuple(i for i, item in enumerate(graph.objects) if phrase.matches(item))


def _read_phrase(text: str) -> Phrase | None:
    """A noun phrase such as ``white top-mid hook instrument``; None if it has another word."""
    *words, kind = text.split()
    parts: dict[str, str] = {}
    for word in words:
        part = next((name for name, known in _WORDS.items() if word in known), None)
        if part is None or part in parts:
            return None
        parts[part] = word
    return Phrase(**parts, kind="" if kind in _ANY_KIND else kind)


def _distinct(values: Sequence[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
