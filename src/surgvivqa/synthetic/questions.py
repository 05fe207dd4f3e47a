"""Questions from a scene graph, in SSG-QA's phrasing and line format.

The templates follow SSG-QA (Yuan et al., 2024), whose generator follows CLEVR (Johnson et al., 2017): ``zero_hop``
asks about one set of objects, ``one_hop`` about the objects in a relation to a referent, ``single_and`` about those in
relations to two referents. As there, a referring expression is used only if it names exactly one object.

Answers are balanced over scenes: a candidate is drawn with a weight that falls with the frequency of its answer among
the candidates of the same template, so that a question's wording alone says little about its answer.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from surgvivqa.data.vocabulary import ANATOMIES, COLORS, COMPONENTS, LOCATIONS, PARTICIPLES, RELATION_PHRASES
from surgvivqa.synthetic.scene import RELATIONS, GraphObject, SceneGraph

KINDS = ("anatomy", "instrument", "thing", "object")


class ColoredObject(GraphObject):
    """An object of a scene graph with its colour."""

    color: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question that a scene allows: the fields of its line, and the template (``form``) for balancing."""

    text: str
    answer: str
    reasoning: str
    type: str
    relation: str
    form: str

    def line(self) -> str:
        """The line in SSG-QA's format."""
        return f"{self.text}|{self.answer}|{self.reasoning}.json|{self.type}|{self.relation}"


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase such as ``white top-mid hook instrument``; empty parts are left out."""

    color: str = ""
    place: str = ""
    component: str = ""
    kind: str = "thing"

    def __str__(self) -> str:
        return " ".join(w for w in (self.color, self.place, self.component, self.kind) if w)

    def matches(self, item: ColoredObject) -> bool:
        """Whether it describes an object of the graph."""
        return (
            self.color in ("", item["color"])
            and self.place in ("", item["location"])
            and self.component in ("", item["component"])
            and (self.kind in ("thing", "object") or self.kind == item["type"])
        )


class SceneIndex:
    """A scene graph with the lookups that questions need; ``colors`` maps a component to its colour."""

    def __init__(self, graph: SceneGraph, colors: dict[str, str] = COLORS) -> None:
        self.objects: list[ColoredObject] = [
            {**o, "color": colors[o["component"]]} for o in graph["scenes"][0]["objects"]
        ]
        self.relations: dict[str, list[list[int]]] = graph["scenes"][0]["relationships"]
        self.triplets: list[list[str]] = [t.split(",") for t in graph["info"]["triplet"]]

    def matching(self, phrase: Phrase, among: Sequence[int] | None = None) -> list[int]:
        """Indices of the objects that a phrase describes."""
        pool = range(len(self.objects)) if among is None else among
        return [i for i in pool if phrase.matches(self.objects[i])]


def generate_candidates(scene_index: SceneIndex, rng: np.random.Generator, tries: int = 160) -> list[Candidate]:
    """Draws a few hundred different questions that a scene allows."""
    drawn = list(_zero_hop(scene_index, rng))
    if scene_index.objects:
        for _ in range(tries):
            drawn += _relational(scene_index, rng)
    return list(dict.fromkeys(drawn))


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Draws one of the options."""
    return options[int(rng.integers(len(options)))]


def _zero_hop(s: SceneIndex, rng: np.random.Generator) -> Iterator[Candidate]:
    for component in COMPONENTS:
        kind = "anatomy" if component in ANATOMIES else "instrument"
        count = len(s.matching(Phrase(component=component)))
        yield _exist(Phrase(component=component, kind=kind), count, "", "zero_hop", component)
        yield _count(Phrase(component=component, kind=kind), count, "", "zero_hop", component)
    for place in LOCATIONS:
        for kind in ("anatomy", "instrument", "thing"):
            phrase = Phrase(place=place, kind=kind)
            here = s.matching(phrase)
            yield _exist(phrase, len(here), "", "zero_hop", str(phrase))
            yield _count(phrase, len(here), "", "zero_hop", str(phrase))
            if len(here) == 1:
                yield from _queries(s.objects[here[0]], phrase, "", "zero_hop", rng)
    for kind in ("anatomy", "instrument"):
        yield _count(Phrase(kind=kind), len(s.matching(Phrase(kind=kind))), "", "zero_hop", kind)
    for color in sorted(set(COLORS.values())):
        phrase = Phrase(color=color, kind=pick(rng, ("thing", "object")))
        here = s.matching(phrase)
        yield _exist(phrase, len(here), "", "zero_hop", color)
        yield _count(phrase, len(here), "", "zero_hop", color)
        if len(here) == 1:
            yield from _queries(s.objects[here[0]], phrase, "", "zero_hop", rng)


def _relational(s: SceneIndex, rng: np.random.Generator) -> Iterator[Candidate]:
    """The questions of one draw of referents and relations."""
    hops = 1 if rng.random() < 0.65 else 2
    places, names, pool = [], [], set(range(len(s.objects)))
    relations = [pick(rng, RELATIONS) for _ in range(hops)]
    referents: list[int] = []
    for relation in relations:
        named = unique_phrase(s, int(rng.integers(len(s.objects))), rng)
        if named is None or named[1] in referents:
            return
        phrase, index = named
        referents.append(index)
        pool &= set(s.relations[relation][index])
        places.append(f"{pick(rng, RELATION_PHRASES[relation])} the {phrase}")
        names.append(relation)
    where = " and ".join(places)
    reasoning = "one_hop" if hops == 1 else "single_and"
    form = " ".join(names)
    target = Phrase(
        place=pick(rng, LOCATIONS) if rng.random() < 0.25 else "",
        color=pick(rng, sorted(set(COLORS.values()))) if rng.random() < 0.25 else "",
        kind=pick(rng, KINDS),
    )
    among = sorted(pool)
    count = len(s.matching(target, among))
    yield _count(target, count, where, reasoning, form)
    yield _exist(target, count, where, reasoning, form)
    if among:
        item = s.objects[among[int(rng.integers(len(among)))]]
        described = Phrase(
            place=item["location"] if rng.random() < 0.4 else "",
            color=item["color"] if rng.random() < 0.3 else "",
            kind=pick(rng, (item["type"], "thing", "object")),
        )
        if len(s.matching(described, among)) == 1:
            yield from _queries(item, described, where, reasoning, rng)


def unique_phrase(s: SceneIndex, index: int, rng: np.random.Generator) -> tuple[Phrase, int] | None:
    """Draws a phrase that describes object ``index`` and no other, with that index; None if no draw does."""
    item = s.objects[index]
    for _ in range(4):
        phrase = Phrase(
            color=item["color"] if rng.random() < 0.4 else "",
            place=item["location"] if rng.random() < 0.4 else "",
            component=item["component"] if rng.random() < 0.6 else "",
            kind=pick(rng, (item["type"], "thing", "object")),
        )
        if s.matching(phrase) == [index]:
            return phrase, index
    return None


def _count(phrase: Phrase, count: int, where: str, reasoning: str, form: str) -> Candidate:
    start = "How many" if len(str(phrase)) % 2 else "What number of"
    text = f"{start} {phrase}s are {where}?" if where else f"How many {phrase}s are there?"
    return Candidate(text, str(min(count, 10)), reasoning, "count", _relation(where, reasoning), f"count {form}")


def _exist(phrase: Phrase, count: int, where: str, reasoning: str, form: str) -> Candidate:
    text = f"Are there any {phrase}s {where}?" if where else f"Are there any {phrase}s?"
    return Candidate(text, str(count > 0), reasoning, "exist", _relation(where, reasoning), f"exist {form}")


def _queries(
    item: ColoredObject, phrase: Phrase, where: str, reasoning: str, rng: np.random.Generator
) -> Iterator[Candidate]:
    """Asks for colour, type and component of the object described, if the phrase does not contain the answer."""
    relation, form = _relation(where, reasoning), f"{phrase.color} {phrase.place} {phrase.kind}"
    both = "both " if reasoning == "single_and" else ""
    subject = f"the {phrase} that is {both}{where}" if where else f"the {phrase}"
    if not phrase.color and not phrase.component:
        text = f"The {phrase} {where} is what color?" if where and rng.random() < 0.5 else f"What color is {subject}?"
        yield Candidate(text, item["color"], reasoning, "query_color", relation, f"color {form}")
    if phrase.kind in ("thing", "object") and not phrase.component:
        text = f"The {phrase} {where} is what type?" if where and rng.random() < 0.5 else f"What type is {subject}?"
        yield Candidate(text, item["type"], reasoning, "query_type", relation, f"type {form}")
    if not phrase.component:
        query = "what name is it?" if reasoning == "single_and" else "what is it?"
        text = f"There is a {phrase} that is {where}; {query}" if where else f"What is {subject}?"
        yield Candidate(text, item["component"], reasoning, "query_component", relation, f"component {form}")


def _relation(where: str, reasoning: str) -> str:
    return "relate_spatial" if where and reasoning == "one_hop" else "NA"


class AnswerBalance:
    """Counts of the answers of each template over many scenes, which give sampling weights."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.answers: dict[str, set[str]] = {}

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Counts one scene's candidates."""
        for c in candidates:
            self.counts[c.form, c.answer] += 1
            self.answers.setdefault(c.form, set()).add(c.answer)

    def weight(self, c: Candidate) -> float:
        """Sampling weight: 0 for a template with one answer, otherwise smaller for more frequent answers."""
        if len(self.answers.get(c.form, ())) < 2:
            return 0.0
        return 1.0 / (self.counts[c.form, c.answer] + 3.0)


# Questions per frame by (reasoning, type), approximately as in SSG-QA.
MIX = {
    ("zero_hop", "exist"): 4,
    ("zero_hop", "count"): 4,
    ("zero_hop", "query_color"): 2,
    ("zero_hop", "query_type"): 1,
    ("zero_hop", "query_component"): 3,
    ("one_hop", "exist"): 3,
    ("one_hop", "count"): 3,
    ("one_hop", "query_color"): 2,
    ("one_hop", "query_type"): 1,
    ("one_hop", "query_component"): 2,
    ("single_and", "exist"): 1,
    ("single_and", "count"): 2,
    ("single_and", "query_color"): 1,
    ("single_and", "query_component"): 1,
}


def question_lines(graph: SceneGraph, balance: AnswerBalance, rng: np.random.Generator) -> list[str]:
    """The lines of one frame's file: two summaries, actions, locations, template questions."""
    s = SceneIndex(graph)
    anatomy = [o["component"] for o in s.objects if o["type"] == "anatomy"]
    tools = [o["component"] for o in s.objects if o["type"] == "instrument"]
    lines = [
        f"Which anatomical structures are present?|{', '.join(dict.fromkeys(anatomy))}",
        f"Which tools are present?|{', '.join(dict.fromkeys(tools))}",
        *_action_lines(s),
        *_place_lines(s),
    ]
    by_kind: dict[tuple[str, str], list[Candidate]] = {}
    for c in generate_candidates(s, rng):
        by_kind.setdefault((c.reasoning, c.type), []).append(c)
    for kind, count in MIX.items():
        pool = by_kind.get(kind, [])
        weights = np.array([balance.weight(c) for c in pool])
        count = min(count, int((weights > 0).sum()))
        if count:
            chosen = rng.choice(len(pool), size=count, replace=False, p=weights / weights.sum())
            lines += [pool[i].line() for i in chosen]
    return lines


def _action_lines(s: SceneIndex) -> list[str]:
    """Questions about the actions; several answers to one question are separated by commas, as in SSG-QA."""
    answers: dict[str, list[str]] = {}
    for tool, verb, target in s.triplets:
        answers.setdefault(f"What is the {tool} doing?", []).append(verb)
        answers.setdefault(f"What is the action being performed on {target}?", []).append(verb)
        answers.setdefault(f"Which tool is operating on {target}", []).append(tool)
        answers.setdefault(f"Which target is being {PARTICIPLES[verb]} in the scene?", []).append(target)
    return [f"{question}|{', '.join(dict.fromkeys(given))}" for question, given in answers.items()]


def _place_lines(s: SceneIndex) -> list[str]:
    lines = []
    for place in LOCATIONS:
        here = [o for o in s.objects if o["location"] == place and o["type"] == "anatomy"]
        if len(here) == 1:
            lines.append(f"What anatomy is at the {place} of the frame ?|{here[0]['component']}|{here[0]['center']}")
    return lines
