"""The source domain's questions: other wordings than SSG-QA's, and with each question what its words point at.

Four ways of speaking (by video) share the words of anatomy and instruments with SSG-QA and nothing of its sentences.
What a word, a referring phrase or the phrase asked for points at is known from the scene graph; pretraining draws
cross-attention there (``pretraining.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from surgvivqa.synthetic.questions import Phrase, Scenery, pick, unique_phrase
from surgvivqa.synthetic.scene import ANATOMIES, COLORS, COMPONENTS, LOCATIONS, RELATIONS

Role = Literal["word", "referent", "target", "end"]
SPEAKERS = 4
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
# X is the phrase asked for, Xs its plural, W where it is; by speaker.
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
class Mark:
    """Characters ``start`` to ``end`` of a question point at these objects of the graph; none: at nothing there.

    What is asked for (``target``) is pointed at from the question's end too; ``end`` is that alone.
    """

    start: int
    end: int
    role: Role
    objects: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """A question, its answer (free text), its kind, and what its words point at."""

    text: str
    answer: str
    kind: str
    marks: tuple[Mark, ...]


class Speaker:
    """One way of speaking; ``number`` from 0 to 3."""

    def __init__(self, number: int) -> None:
        self.number = number

    def component(self, name: str) -> str:
        """What this speaker calls a component."""
        return _SAID.get(name, name) if self.number >= 2 else name

    def kind(self, name: str) -> str:
        """What this speaker calls an anatomy, an instrument, a thing."""
        return _KINDS[name] if self.number in (1, 3) else name

    def truth(self, value: bool) -> str:
        """Yes or no."""
        return str(value) if self.number < 2 else "yes" if value else "no"

    def number_of(self, count: int) -> str:
        """A count of at most ten."""
        return _NUMBERS[min(count, 10)] if self.number == 3 else str(min(count, 10))


class _Writer:
    """Text in pieces, each of which may point at something."""

    def __init__(self) -> None:
        self.text = ""
        self.marks: list[Mark] = []

    def say(self, text: str, role: Role | None = None, objects: Sequence[int] = ()) -> None:
        if role is not None:
            self.marks.append(Mark(len(self.text), len(self.text) + len(text), role, tuple(objects)))
        self.text += text


def source_questions(
    s: Scenery, speaker: Speaker, rng: np.random.Generator, count: int, moving: bool = True
) -> list[SourceQuestion]:
    """``count`` questions on one scene, drawn at random: its own answer priors, no balance over scenes.

    ``moving`` tells whether they will be asked of a clip that moves.
    """
    kinds, shares = list(_SHARES), list(_SHARES.values())
    found: list[SourceQuestion] = []
    for kind in rng.choice(kinds, size=40 * count, p=shares):
        if len(found) == count:
            break
        one = _action(s, speaker, rng, moving) if kind == "action" else _question(s, speaker, str(kind), rng)
        if one is not None:
            found.append(one)
    return found


def _question(s: Scenery, speaker: Speaker, kind: str, rng: np.random.Generator) -> SourceQuestion | None:
    """One draw; None where no such question can be asked of the scene."""
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
        # What is wanted is drawn first, so that neither "no" nor "1" answers most.
        wanted = int(rng.integers(2)) if kind == "exist" else int(rng.integers(5))
        for _ in range(8):
            phrase = _phrase(s, pool, rng)
            meant = s.meant(phrase, pool)
            if (len(meant) > 0) == bool(wanted) if kind == "exist" else len(meant) == wanted:
                break
        answer = speaker.truth(bool(meant)) if kind == "exist" else speaker.number_of(len(meant))
    else:
        if not pool:
            return None
        index = int(pool[int(rng.integers(len(pool)))])
        thing = s.objects[index]
        phrase = Phrase(
            color=thing["color"] if kind != "color" and rng.random() < 0.35 else "",
            place=thing["location"] if kind != "place" and rng.random() < 0.35 else "",
            component=thing["component"] if kind in ("place", "color") and rng.random() < 0.6 else "",
            kind=pick(rng, (thing["type"], "thing", "object")) if kind != "type" else pick(rng, ("thing", "object")),
        )
        meant = s.meant(phrase, pool)
        if meant != [index]:
            return None
        answer = {
            "color": thing["color"],
            "type": thing["type"],
            "place": thing["location"],
            "component": speaker.component(thing["component"]),
        }[kind]
    writer = _Writer()
    form = _FORMS[kind][speaker.number if rng.random() < 0.7 else int(rng.integers(SPEAKERS))]
    before, slot, rest = form.partition("{Xs}") if "{Xs}" in form else form.partition("{X}")
    middle, _, after = rest.partition("{W}")
    if not relations and middle.endswith((" is", " lie")):
        middle += " there"
    writer.say(before)
    _say_phrase(writer, s, speaker, phrase, "target", meant, plural=slot == "{Xs}")
    writer.say(middle)
    for n, (relation, (referent, index)) in enumerate(zip(relations, referents, strict=True)):
        words = _RELATIONS[relation][speaker.number if rng.random() < 0.7 else int(rng.integers(SPEAKERS))]
        writer.say(f" {'and ' if n else ''}{words} the ")
        _say_phrase(writer, s, speaker, referent, "referent", [index])
    writer.say(after)
    return SourceQuestion(writer.text, answer, kind, tuple(writer.marks))


def _phrase(s: Scenery, pool: Sequence[int], rng: np.random.Generator) -> Phrase:
    """A phrase of random words, most of them true of some object of the pool."""
    if pool and rng.random() < 0.7:
        thing = s.objects[int(pool[int(rng.integers(len(pool)))])]
        color, place, component, kind = thing["color"], thing["location"], thing["component"], thing["type"]
    else:
        color, place = pick(rng, sorted(set(COLORS.values()))), pick(rng, LOCATIONS)
        component, kind = pick(rng, COMPONENTS), pick(rng, ("anatomy", "instrument"))
    named = rng.random() < 0.45
    if named:  # "liver instrument" would be answered by the words alone
        kind = "anatomy" if component in ANATOMIES else "instrument"
    return Phrase(
        color=color if rng.random() < 0.25 else "",
        place=place if rng.random() < 0.3 else "",
        component=component if named else "",
        kind=kind if rng.random() < 0.5 else pick(rng, ("thing", "object")),
    )


def _say_phrase(
    writer: _Writer,
    s: Scenery,
    speaker: Speaker,
    phrase: Phrase,
    role: Role,
    meant: Sequence[int],
    plural: bool = False,
) -> None:
    """Each word points at all that it is true of; the last one also at what the whole phrase means."""
    parts = [
        (phrase.color, Phrase(color=phrase.color), phrase.color),
        (phrase.place, Phrase(place=phrase.place), phrase.place),
        (phrase.component, Phrase(component=phrase.component), speaker.component(phrase.component)),
    ]
    for word, alone, spoken in parts:
        if word:
            writer.say(spoken, "word", s.meant(alone))
            writer.say(" ")
    start = len(writer.text)
    writer.say(speaker.kind(phrase.kind) + ("s" if plural else ""), "word", s.meant(Phrase(kind=phrase.kind)))
    writer.marks.append(Mark(start, len(writer.text), role, tuple(meant)))


def _action(s: Scenery, speaker: Speaker, rng: np.random.Generator, moving: bool) -> SourceQuestion | None:
    """A question on what a tool does to what; on what it does only of clips that move, since that alone shows it."""
    if not s.triplets:
        return None
    tool, verb, target = s.triplets[int(rng.integers(len(s.triplets)))]
    tools, targets = s.meant(Phrase(component=tool)), s.meant(Phrase(component=target))
    doing = [t for t in s.triplets if t[0] == tool]
    suffering = [t for t in s.triplets if t[2] == target]
    writer = _Writer()
    about_verb = moving and rng.random() < 0.7
    if rng.random() < 0.5:
        if len(tools) != 1 or len(doing) != 1:
            return None
        writer.say("What does the ")
        writer.say(speaker.component(tool), "target" if about_verb else "referent", tools)
        writer.say(" do?" if about_verb else " act on?")
        end, answer = targets, verb if about_verb else speaker.component(target)
    else:
        if len(suffering) != 1:
            return None
        writer.say("What is done to the " if about_verb else "Which one acts on the ")
        writer.say(speaker.component(target), "referent", targets)
        writer.say("?")
        end, answer = tools, verb if about_verb else speaker.component(tool)
    if not any(mark.role == "target" for mark in writer.marks):
        writer.say("", "end", end)
    return SourceQuestion(writer.text, answer, "action", tuple(writer.marks))
