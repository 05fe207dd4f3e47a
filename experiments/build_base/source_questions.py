"""Questions of the source domain, each with the objects that its words refer to.

Four wordings share the names of anatomies and instruments with SSG-QA, and none of its sentences. The scene graph
tells what a word, a referring phrase or the queried phrase refers to; stage 2 supervises cross-attention with it
(``attention_supervision.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from surgvivqa.data.vocabulary import ANATOMIES, COLORS, COMPONENTS, LOCATIONS
from surgvivqa.synthetic.questions import Phrase, SceneIndex, pick, unique_phrase
from surgvivqa.synthetic.scene import RELATIONS

Role = Literal["word", "referent", "target", "end"]
WORDINGS = 4
_SAID = {
    "abdominal_wall_cavity": "abdominal wall",
    "cystic_plate": "cystic plate",
    "cystic_duct": "cystic duct",
    "gut": "bowel",
    "grasper": "forceps",
    "specimenbag": "bag",
    "irrigator": "sucker",
}
_KINDS = {"anatomy": "organ", "instrument": "tool", "thing": "structure", "object": "item"}
_RELATIONS = {
    "left": ("left of", "to the left of", "at the left side of", "left from"),
    "right": ("right of", "to the right of", "at the right side of", "right from"),
    "above": ("above", "over", "above", "higher than"),
    "below": ("below", "under", "below", "lower than"),
    "within": ("within", "inside", "within", "in"),
}
_NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# By wording; X is the queried phrase, Xs its plural, W its relations to referents.
_FORMS: dict[str, tuple[str, ...]] = {
    "exist": ("Is there a {X}{W}?", "Do you see any {Xs}{W}?", "Can a {X} be seen{W}?", "Any {Xs}{W}?"),
    "count": ("Count the {Xs}{W}.", "How many {Xs} do you see{W}?", "Number of {Xs}{W}?", "How many {Xs} lie{W}?"),
    "color": (
        "Which color has the {X}{W}?", "Name the color of the {X}{W}.", "The {X}{W}: what color?",
        "What color does the {X}{W} have?",
    ),
    "component": ("Name the {X}{W}.", "Which {X} is{W}?", "What {X} do you see{W}?", "The {X}{W}: what is it called?"),
    "type": (
        "Is the {X}{W} an anatomy or an instrument?", "Which type has the {X}{W}?", "Name the type of the {X}{W}.",
        "The {X}{W}: what type?",
    ),
    "place": (
        "Where is the {X}{W}?", "Name the place of the {X}{W}.", "The {X}{W}: where?", "Where do you see the {X}{W}?",
    ),
}  # fmt: skip
_SHARES = {"exist": 0.25, "count": 0.25, "color": 0.13, "component": 0.2, "type": 0.05, "place": 0.06, "action": 0.06}


@dataclass(frozen=True, slots=True)
class Mention:
    """Characters ``start`` to ``end`` of a question refer to these objects of the graph, or to none.

    The prompt's last token refers to the objects of a ``target`` too; ``end`` mentions objects that only it refers to.
    """

    start: int
    end: int
    role: Role
    objects: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """A question with its free-text answer, its kind, and what its words refer to."""

    text: str
    answer: str
    kind: str
    mentions: tuple[Mention, ...]


class Wording:
    """A vocabulary and preferred templates; ``number`` is 0 to 3."""

    def __init__(self, number: int) -> None:
        self.number = number

    def component(self, name: str) -> str:
        """The name of a component."""
        return _SAID.get(name, name) if self.number >= 2 else name

    def kind(self, name: str) -> str:
        """The word for an anatomy, an instrument, a thing or an object."""
        return _KINDS[name] if self.number in (1, 3) else name

    def truth(self, value: bool) -> str:
        """The word for true or false."""
        return str(value) if self.number < 2 else "yes" if value else "no"

    def number_of(self, count: int) -> str:
        """The word for a count of at most ten."""
        return _NUMBERS[min(count, 10)] if self.number == 3 else str(min(count, 10))


class _Writer:
    """Builds a text from pieces, each of which may refer to objects."""

    def __init__(self) -> None:
        self.text = ""
        self.mentions: list[Mention] = []

    def say(self, text: str, role: Role | None = None, objects: Sequence[int] = ()) -> None:
        if role is not None:
            self.mentions.append(Mention(len(self.text), len(self.text) + len(text), role, tuple(objects)))
        self.text += text


def source_questions(
    s: SceneIndex, wording: Wording, rng: np.random.Generator, count: int, moving: bool = True
) -> list[SourceQuestion]:
    """Draws up to ``count`` questions about one scene, without balancing answers over scenes.

    ``moving`` tells whether the clip moves: verbs are queried only then.
    """
    kinds, shares = list(_SHARES), list(_SHARES.values())
    found: list[SourceQuestion] = []
    for kind in rng.choice(kinds, size=40 * count, p=shares):
        if len(found) == count:
            break
        one = _action(s, wording, rng, moving) if kind == "action" else _question(s, wording, str(kind), rng)
        if one is not None:
            found.append(one)
    return found


def _question(s: SceneIndex, wording: Wording, kind: str, rng: np.random.Generator) -> SourceQuestion | None:
    """One draw; None where the scene does not allow such a question."""
    hops = int(rng.choice(3, p=(0.5, 0.35, 0.15))) if len(s.objects) > 1 else 0
    relations = [pick(rng, RELATIONS) for _ in range(hops)]
    referents: list[tuple[Phrase, int]] = []
    among = set(range(len(s.objects)))
    for relation in relations:
        named = unique_phrase(s, int(rng.integers(len(s.objects))), rng)
        if named is None or named[1] in [index for _, index in referents]:
            return None
        referents.append(named)
        among &= set(s.relations[relation][named[1]])
    pool = sorted(among)
    if kind in ("exist", "count"):
        # The wanted answer is drawn first, so that neither "no" nor "1" dominates.
        wanted = int(rng.integers(2)) if kind == "exist" else int(rng.integers(5))
        for _ in range(8):
            phrase = _phrase(s, pool, rng)
            matching = s.matching(phrase, pool)
            if (len(matching) > 0) == bool(wanted) if kind == "exist" else len(matching) == wanted:
                break
        answer = wording.truth(bool(matching)) if kind == "exist" else wording.number_of(len(matching))
    else:
        if not pool:
            return None
        index = int(pool[int(rng.integers(len(pool)))])
        item = s.objects[index]
        phrase = Phrase(
            color=item["color"] if kind != "color" and rng.random() < 0.35 else "",
            place=item["location"] if kind != "place" and rng.random() < 0.35 else "",
            component=item["component"] if kind in ("place", "color") and rng.random() < 0.6 else "",
            kind=pick(rng, (item["type"], "thing", "object")) if kind != "type" else pick(rng, ("thing", "object")),
        )
        matching = s.matching(phrase, pool)
        if matching != [index]:
            return None
        answer = {
            "color": item["color"],
            "type": item["type"],
            "place": item["location"],
            "component": wording.component(item["component"]),
        }[kind]
    writer = _Writer()
    form = _FORMS[kind][wording.number if rng.random() < 0.7 else int(rng.integers(WORDINGS))]
    before, slot, rest = form.partition("{Xs}") if "{Xs}" in form else form.partition("{X}")
    middle, _, after = rest.partition("{W}")
    if not relations and middle.endswith((" is", " lie")):
        middle += " there"
    writer.say(before)
    _say_phrase(writer, s, wording, phrase, "target", matching, plural=slot == "{Xs}")
    writer.say(middle)
    for n, (relation, (referent, index)) in enumerate(zip(relations, referents, strict=True)):
        words = _RELATIONS[relation][wording.number if rng.random() < 0.7 else int(rng.integers(WORDINGS))]
        writer.say(f" {'and ' if n else ''}{words} the ")
        _say_phrase(writer, s, wording, referent, "referent", [index])
    writer.say(after)
    return SourceQuestion(writer.text, answer, kind, tuple(writer.mentions))


def _phrase(s: SceneIndex, pool: Sequence[int], rng: np.random.Generator) -> Phrase:
    """A phrase of random words, most of which describe some object of the pool."""
    if pool and rng.random() < 0.7:
        item = s.objects[int(pool[int(rng.integers(len(pool)))])]
        color, place, component, kind = item["color"], item["location"], item["component"], item["type"]
    else:
        color, place = pick(rng, sorted(set(COLORS.values()))), pick(rng, LOCATIONS)
        component, kind = pick(rng, COMPONENTS), pick(rng, ("anatomy", "instrument"))
    named = rng.random() < 0.45
    if named:  # "liver instrument" would be answerable from the words alone
        kind = "anatomy" if component in ANATOMIES else "instrument"
    return Phrase(
        color=color if rng.random() < 0.25 else "",
        place=place if rng.random() < 0.3 else "",
        component=component if named else "",
        kind=kind if rng.random() < 0.5 else pick(rng, ("thing", "object")),
    )


def _say_phrase(
    writer: _Writer,
    s: SceneIndex,
    wording: Wording,
    phrase: Phrase,
    role: Role,
    matching: Sequence[int],
    plural: bool = False,
) -> None:
    """Each word refers to all objects that it describes; the last one also to those that the whole phrase describes."""
    parts = [
        (phrase.color, Phrase(color=phrase.color), phrase.color),
        (phrase.place, Phrase(place=phrase.place), phrase.place),
        (phrase.component, Phrase(component=phrase.component), wording.component(phrase.component)),
    ]
    for word, alone, spoken in parts:
        if word:
            writer.say(spoken, "word", s.matching(alone))
            writer.say(" ")
    start = len(writer.text)
    writer.say(wording.kind(phrase.kind) + ("s" if plural else ""), "word", s.matching(Phrase(kind=phrase.kind)))
    writer.mentions.append(Mention(start, len(writer.text), role, tuple(matching)))


def _action(s: SceneIndex, wording: Wording, rng: np.random.Generator, moving: bool) -> SourceQuestion | None:
    """A question about a tool's action; about the verb only if the clip moves, since only motion shows it."""
    if not s.triplets:
        return None
    tool, verb, target = s.triplets[int(rng.integers(len(s.triplets)))]
    tools, targets = s.matching(Phrase(component=tool)), s.matching(Phrase(component=target))
    doing = [t for t in s.triplets if t[0] == tool]
    suffering = [t for t in s.triplets if t[2] == target]
    writer = _Writer()
    about_verb = moving and rng.random() < 0.7
    if rng.random() < 0.5:
        if len(tools) != 1 or len(doing) != 1:
            return None
        writer.say("What does the ")
        writer.say(wording.component(tool), "target" if about_verb else "referent", tools)
        writer.say(" do?" if about_verb else " act on?")
        end, answer = targets, verb if about_verb else wording.component(target)
    else:
        if len(suffering) != 1:
            return None
        writer.say("What is done to the " if about_verb else "Which one acts on the ")
        writer.say(wording.component(target), "referent", targets)
        writer.say("?")
        end, answer = tools, verb if about_verb else wording.component(tool)
    if not any(mention.role == "target" for mention in writer.mentions):
        writer.say("", "end", end)
    return SourceQuestion(writer.text, answer, "action", tuple(writer.mentions))
