"""What SSG-QA's template questions ask, whatever their wording, and other wordings of them.

A template question asks for something (``count``, ``exist``, ``color``, ``type``, ``location`` or ``name``) about the
objects that a noun phrase describes, such as ``white top-mid hook instrument``, perhaps only about those in a relation
to one or two other objects. ``How many things are left of the liver object?`` and ``There is a liver object; what
number of objects are on the left side of it?`` have one form. The wordings are those of SSG-QA's files (Yuan et al.,
2024), whose generator follows CLEVR (Johnson et al., 2017).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from surgvivqa.data.vocabulary import RELATION_PHRASES

CONVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}  # ``within`` has none
_RELATION_OF = {phrase: name for name, phrases in RELATION_PHRASES.items() for phrase in phrases}
_SYNONYMS = {"thing": "object", "object": "thing"}

_NOUNS = r"(?:[a-z0-9_-]+ )*?(?:anatomy|instrument|thing|object)"
_RELATION = "|".join(sorted(_RELATION_OF, key=len, reverse=True))
_PLACE = rf"(?:that (?:is|are) )?(?:both )?(?:{_RELATION}) the {_NOUNS}(?: and (?:{_RELATION}) the {_NOUNS})?"
_ONE_PLACE = re.compile(rf"({_RELATION}) the ({_NOUNS})")
_ATTRIBUTE = "color|type|location|name"
_TEMPLATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<count>how many|what number of) (?P<target>{_NOUNS})s are (?:there|(?P<places>{_PLACE}))",
        rf"are there any (?P<target>{_NOUNS})s(?: (?P<places>{_PLACE}))?",
        rf"there is an? (?P<referent>{_NOUNS}); (?P<count>how many|what number of) (?P<target>{_NOUNS})s are "
        rf"(?P<relation>{_RELATION}) it",
        rf"there is an? (?P<referent>{_NOUNS}); are there any (?P<target>{_NOUNS})s (?P<relation>{_RELATION}) it",
        rf"what (?P<asks>{_ATTRIBUTE}) is the (?P<target>{_NOUNS})(?: (?P<places>{_PLACE}))?",
        rf"the (?P<target>{_NOUNS})(?: (?P<places>{_PLACE}))? is what (?P<asks>{_ATTRIBUTE})",
        rf"there is an? (?P<target>{_NOUNS})(?: (?P<places>{_PLACE}))?; what (?:(?P<asks>{_ATTRIBUTE}) )?is it",
        rf"what is the (?P<target>{_NOUNS})(?: (?P<places>{_PLACE}))?",
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """A relation to another object, as it is worded.

    Attributes:
        relation: the words of the relation, such as ``to the left of``.
        referent: the noun phrase of the other object, such as ``liver anatomy``. It describes one object of the frame.
    """

    relation: str
    referent: str

    @property
    def name(self) -> str:
        """The relation, whatever its wording: a key of ``RELATION_PHRASES``."""
        return _RELATION_OF[self.relation]


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """What a template question asks, in the words of its parts.

    Attributes:
        asks: ``count``, ``exist``, ``color``, ``type``, ``location`` or ``name``.
        target: the noun phrase of the objects in question, singular.
        places: their relations to other objects: none, one or two.
    """

    asks: str
    target: str
    places: tuple[Place, ...] = ()

    @property
    def key(self) -> tuple[str, str, frozenset[tuple[str, str]]]:
        """What is asked, equal for all wordings."""
        return self.asks, plain_noun(self.target), frozenset((p.name, plain_noun(p.referent)) for p in self.places)


def normalise_question(question: str) -> str:
    """A question in lower case, with single spaces and without question marks and a full stop."""
    return re.sub(r"\s*;\s*", "; ", " ".join(question.lower().replace("?", " ").split())).removesuffix(".").strip("; ")


def plain_noun(phrase: str) -> str:
    """A noun phrase with ``object`` for ``thing``, which mean the same."""
    return re.sub(r"\bthing$", "object", phrase)


@lru_cache(maxsize=100_000)
def parse_question(question: str) -> QuestionForm | None:
    """What a question asks; None if it is not of a template."""
    text = re.sub(r"\banatomies\b", "anatomys", normalise_question(question))
    for template in _TEMPLATES:
        if found := template.fullmatch(text):
            parts = found.groupdict()
            places = tuple(Place(*pair) for pair in _ONE_PLACE.findall(parts.get("places") or ""))
            if parts.get("referent"):
                places = (Place(parts["relation"], parts["referent"]),)
            asks = (
                "count" if parts.get("count") else "exist" if "are there any" in text else parts.get("asks") or "name"
            )
            return QuestionForm(asks, parts["target"], places)
    return None


def write_question(form: QuestionForm, count: str = "How many") -> str:
    """Writes a question in the most frequent wording of its template.

    Args:
        form: what to ask.
        count: the beginning of questions for a number.
    """
    where = " and ".join(f"{p.relation} the {p.referent}" for p in form.places)
    if form.asks == "count":
        return f"{count} {form.target}s are {where or 'there'}?"
    if form.asks == "exist":
        return f"Are there any {form.target}s {where}?" if where else f"Are there any {form.target}s?"
    both = "both " if len(form.places) > 1 else ""
    if form.asks == "name":
        query = "what name is it?" if len(form.places) > 1 else "what is it?"
        return f"There is a {form.target} that is {where}; {query}" if where else f"What is the {form.target}?"
    return f"What {form.asks} is the {form.target}{f' that is {both}{where}' if where else ''}?"


def change_words(question: str) -> str | None:
    """Writes a template question with synonyms: other words for left and right, or else ``thing`` for ``object``.

    Returns:
        A question of the same form, or None if it has no word with a synonym.
    """
    plain = normalise_question(question)
    for name, phrases in RELATION_PHRASES.items():
        if name in CONVERSE and len(phrases) > 1:
            longest_first = "|".join(sorted(phrases, key=len, reverse=True))
            plain = re.sub(longest_first, lambda found: _next_words(Place(found[0], "")), plain)
    if plain == normalise_question(question):
        plain = re.sub(r"\b(thing|object)(?=s?\b)", lambda found: _SYNONYMS[found[0]], plain)
    return None if plain == normalise_question(question) else f"{plain[:1].upper()}{plain[1:]}?"


def change_sentence(question: str) -> str | None:
    """Writes a template question as another sentence of SSG-QA with the same words for objects and relations.

    Returns:
        A question of the same form, or None if SSG-QA has no other sentence for it.
    """
    form = parse_question(question)
    if form is None:
        return None
    plain = normalise_question(question)
    return next((text for text in _sentences(form, plain) if normalise_question(text) != plain), None)


def is_same_sentence(question: str, other: str) -> bool:
    """Whether two questions of one form differ in synonyms alone."""
    return _without_synonyms(question) == _without_synonyms(other)


def _sentences(form: QuestionForm, plain: str) -> Iterator[str]:
    """The sentences for a form; ``plain`` is the normalised question that it comes from."""
    where = " and ".join(f"{p.relation} the {p.referent}" for p in form.places)
    if form.asks == "count":
        yield write_question(form, count="How many" if "what number of" in plain else "What number of")
    elif form.asks == "exist":
        if len(form.places) == 1:
            (place,) = form.places
            yield f"There is a {place.referent}; are there any {form.target}s {place.relation} it?"
            yield write_question(form)
    elif form.asks == "name" and where:
        yield f"There is a {form.target} that is {where}; what name is it?"
        yield f"There is a {form.target} that is {where}; what is it?"
    elif where:
        yield f"The {form.target} {where} is what {form.asks}?"
        yield write_question(form)


@lru_cache(maxsize=100_000)
def _without_synonyms(question: str) -> str:
    plain = re.sub(r"\bthing(?=s?\b)", "object", normalise_question(question))
    return re.sub(_RELATION, lambda found: _RELATION_OF[found[0]], plain)


def _next_words(place: Place) -> str:
    """Other words for a relation, if it has any."""
    phrases = RELATION_PHRASES[place.name]
    return phrases[(phrases.index(place.relation) + 1) % len(phrases)]
