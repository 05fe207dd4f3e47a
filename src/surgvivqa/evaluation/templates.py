"""The template of a question: its text with colours, places, components, kinds and actions replaced by placeholders.

SSG-QA fills CLEVR-style templates from scene graphs (Yuan et al., 2024), but its files do not name them. Questions with
one template differ in what they ask about only, so the most frequent answer to a template is what a reader could guess
from the wording alone.
"""

import functools
import re
from collections.abc import Iterable

from surgvivqa.data.labels import LABELS

COLORS = ("blue", "brown", "red", "silver", "white", "yellow")
KINDS = ("anatomy", "instrument", "object", "thing")
# The labels that are verbs, with the participles of "Which target is being dissected in the scene?".
ACTIONS = {
    "aspirate": "aspirated",
    "clip": "clipped",
    "coagulate": "coagulated",
    "cut": "cut",
    "dissect": "dissected",
    "grasp": "grasped",
    "irrigate": "irrigated",
    "pack": "packed",
    "retract": "retracted",
}
COMPONENTS = tuple(
    label for label in LABELS if label not in (*COLORS, *KINDS, *ACTIONS, "True", "False") and not label.isdigit()
)


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_NOUNS = re.compile(
    rf"\b(?:(?P<place>(?:top|middle|mid|bottom)-(?:left|middle|mid|right))|(?P<color>{_any_of(COLORS)})|"
    rf"(?P<component>{_any_of(COMPONENTS)})|(?P<kind>{_any_of((*KINDS, 'anatomie'))})|"
    rf"(?P<action>{_any_of({*ACTIONS, *ACTIONS.values()})}))(?P<plural>s?)\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=65_536)
def question_template(question: str) -> str:
    """Replaces the nouns of a question by placeholders.

    ``How many red top-mid things are there?`` gives ``how many <color> <place> <kind>s are there?``. A plural keeps its
    ``s``, also SSG-QA's ``anatomys``. Case and white space do not count.
    """

    def placeholder(found: re.Match[str]) -> str:
        noun = next(name for name, text in found.groupdict().items() if text)
        return f"<{noun}>{found['plural']}"

    return " ".join(_NOUNS.sub(placeholder, question.lower()).split())
