"""The template of a question: its text with colours, places, components, kinds and actions replaced by placeholders.

SSG-QA fills CLEVR-style templates from scene graphs (Yuan et al., 2024), but its files do not name them. Questions with
one template differ in what they ask about only, so the most frequent answer to a template is what a reader could guess
from the wording alone.
"""

import functools

from surgvivqa.data.labels import LABELS
from surgvivqa.data.vocabulary import COLOR_NAMES, PARTICIPLES

KINDS = ("anatomy", "instrument", "object", "thing")
COMPONENTS = tuple(
    label
    for label in LABELS
    if label not in (*COLOR_NAMES, *KINDS, *PARTICIPLES, "True", "False") and not label.isdigit()
)
PLACES = tuple(f"{row}-{column}" for row in ("top", "mid", "bottom") for column in ("left", "mid", "right"))
_ENDS = "?;,.:!"


def _placeholders() -> dict[str, str]:
    """The placeholder of each noun; of a plural with an ``s``."""
    nouns = {"place": PLACES, "color": COLOR_NAMES, "component": COMPONENTS, "kind": (*KINDS, "anatomie")}
    found = {word: f"<{name}>" for name, words in nouns.items() for word in words}
    found |= {f"{word}s": f"{placeholder}s" for word, placeholder in found.items()}
    return found | dict.fromkeys((*PARTICIPLES, *PARTICIPLES.values()), "<action>")


_PLACEHOLDERS = _placeholders()


def question_template(question: str) -> str:
    """Replaces the nouns of a question by placeholders.

    ``How many red top-mid things are there?`` gives ``how many <color> <place> <kind>s are there?``. A plural keeps its
    ``s``, also SSG-QA's ``anatomys``. Case and white space do not count.
    """
    return " ".join(map(_without_noun, question.lower().split()))


@functools.lru_cache(maxsize=10_000)
def _without_noun(word: str) -> str:
    """A word of a question, or the placeholder of a noun; questions have few words, and repeat them."""
    placeholder = _PLACEHOLDERS.get(word)
    if placeholder is None:
        stem = word.rstrip(_ENDS)
        placeholder = _PLACEHOLDERS.get(stem, stem) + word[len(stem) :]
    return placeholder
