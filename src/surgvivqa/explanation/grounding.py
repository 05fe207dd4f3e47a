"""Finds the objects that a question asks about in the scene graph of its frame.

A question in SSG-QA's phrasing is read as a noun phrase (the *target*) and up to two relations to other noun phrases
(the *referents*); SSG-QA's generator follows CLEVR (Johnson et al., CVPR 2017)::

    How many white things are left of the top-mid hook and above the brown anatomy?
             ------------     ------- ----------------     ----- -----------------
             target           relation referent            relation referent

Words that no phrase accounts for make the question unreadable: it is better not grounded than grounded wrongly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from surgvivqa.data.labels import LABELS
from surgvivqa.explanation.scene_graphs import COLORS, LOCATIONS, GraphObject, SceneGraph

T = TypeVar("T")
_COLOR_NAMES = tuple(sorted(set(COLORS.values())))
_ANY_KIND = ("thing", "object")
_NOT_COMPONENTS = {*_COLOR_NAMES, "anatomy", "instrument", "True", "False"}
# Every word among the labels, verbs included: a noun phrase needs a kind after it, so a verb never matches alone.
_COMPONENTS = tuple(sorted({*COLORS, *(x for x in LABELS if not x.isdigit())} - _NOT_COMPONENTS, key=len, reverse=True))
_PHRASE = (
    rf"(?:(?P<color>{'|'.join(_COLOR_NAMES)}) )?(?:(?P<place>{'|'.join(LOCATIONS)}) )?"
    rf"(?:(?P<component>{'|'.join(_COMPONENTS)}) )?(?P<kind>anatom(?:ys?|ies)|instruments?|things?|objects?)\b"
)
_RELATIONS = {
    r"to the left of|(?:on|at) the left side of|left of": "left",
    r"to the right of|(?:on|at) the right side of|right of": "right",
    r"above": "above",
    r"below": "below",
    r"within": "within",
    r"horizontal (?:to|with)": "horizontal",
}
_ITEM = re.compile(
    rf"(?P<relation>{'|'.join(_RELATIONS)})|(?P<pronoun>\bit\b)|(?P<phrase>{_PHRASE})", flags=re.IGNORECASE
)
# What is asked, by the first of these that the question contains.
_ASKED = (
    (r"\b(?:how many|what number of)\b", "count"),
    (r"\b(?:are there any|is there an?y?)\b(?=[^;]*$)", "exist"),
    (r"\bwhat (?:is the )?colou?r\b", "color"),
    (r"\bwhat (?:is the )?(?:type|kind)\b", "type"),
    (r"\bwhat (?:is the )?location\b|\bwhere\b", "location"),
    (r"\bwhat (?:name )?is\b|\bwhat is the name\b", "component"),
)
_FUNCTION_WORDS = set(
    "a an and any are both color colour count frame how in is it kind location many name number of that the there type "
    "visible what where which".split()
)
_ACTION_FORMS = (
    (r"what is the (?P<tool>\w+) doing", "tool"),
    (r"what is the action being performed on (?:the )?(?P<target>\w+)", "target"),
    (r"which tool is operating on (?:the )?(?P<target>\w+)", "operating"),
    (r"which target is being (?P<verb>\w+) in the scene", "acted on"),
)
_PLACE_FORM = rf"what (?P<kind>anatomy|instrument|tool) is at the (?P<place>{'|'.join(LOCATIONS)}) of the frame"
_PARTICIPLES = {
    "grasped": "grasp",
    "retracted": "retract",
    "dissected": "dissect",
    "coagulated": "coagulate",
    "clipped": "clip",
    "cut": "cut",
    "aspirated": "aspirate",
    "irrigated": "irrigate",
    "packed": "pack",
}


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


def parse_question(question: str) -> ParsedQuestion | None:
    """Reads a template question; None for a question of another form."""
    text = " ".join(re.sub(r"[?;,.]", lambda mark: f" {mark[0] if mark[0] == ';' else ''} ", question).lower().split())
    asked = next((name for pattern, name in _ASKED if re.search(pattern, text)), None)
    items = list(_ITEM.finditer(text))
    left_over = _ITEM.sub(" ", text).replace(";", " ").split()
    if asked is None or any(word not in _FUNCTION_WORDS for word in left_over):
        return None
    relations: list[tuple[str, Phrase | None]] = []
    others: list[Phrase] = []
    pending: str | None = None
    for item in items:
        if item["relation"]:
            if pending:
                return None
            pending = _relation_name(item["relation"])
        elif item["pronoun"]:
            if pending:  # "within it"; in "what is it" it is only the subject
                relations.append((pending, None))
                pending = None
        elif pending:
            relations.append((pending, _phrase(item)))
            pending = None
        else:
            others.append(_phrase(item))
    has_pronoun = any(referent is None for _, referent in relations)
    if pending or len(others) != 1 + has_pronoun or len(relations) > 2:
        return None
    # "There is a hook; how many things are within it?": the first phrase is the referent.
    resolved = tuple((name, others[0] if referent is None else referent) for name, referent in relations)
    return ParsedQuestion(asked, others[-1], resolved)


def ground_question(question: str, graph: SceneGraph) -> Grounding | None:
    """Finds the objects that a question asks about.

    Args:
        question: the question's text.
        graph: the scene graph of its frame.

    Returns:
        None if the question's form is not known, if a referent's description does not fit exactly one object (as
        SSG-QA requires), or if the graph does not have one of its relations.
    """
    parsed = parse_question(question)
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
        "acted on": (lambda tool, verb, target: verb == _PARTICIPLES.get(word), "target"),
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


def _relation_name(text: str) -> str:
    return next(name for pattern, name in _RELATIONS.items() if re.fullmatch(pattern, text))


def _phrase(item: re.Match[str]) -> Phrase:
    kind = "anatomy" if item["kind"].startswith("anatom") else item["kind"].rstrip("s")
    return Phrase(item["color"] or "", item["place"] or "", item["component"] or "", "" if kind in _ANY_KIND else kind)


def _distinct(values: Sequence[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
