"""The 51 answer classes of SSG-QA, in the order that all published results use."""

from collections.abc import Mapping
from dataclasses import dataclass

LABELS: tuple[str, ...] = tuple(
    "0 1 10 2 3 4 5 6 7 8 9 False True abdominal_wall_cavity adhesion anatomy aspirate bipolar blood_vessel blue brown "
    "clip clipper coagulate cut cystic_artery cystic_duct cystic_pedicle cystic_plate dissect fluid gallbladder grasp "
    "grasper gut hook instrument irrigate irrigator liver omentum pack peritoneum red retract scissors silver "
    "specimen_bag specimenbag white yellow".split()
)
LABEL_INDEX: dict[str, int] = {label: i for i, label in enumerate(LABELS)}
ALIASES: dict[str, str] = {"yes": "True", "no": "False"}


def parse_label(answer: str) -> int | None:
    """Index of ``answer`` among the 51 labels, or None if it is not one of them.

    The match is exact after white space is stripped, except that ``yes``, ``no``, ``true`` and ``false`` in any case
    name the two boolean classes. ``specimen_bag`` (a target) and ``specimenbag`` (a tool) are two classes. A part of
    the answer never matches.
    """
    text = answer.strip()
    if text in LABEL_INDEX:
        return LABEL_INDEX[text]
    folded = text.lower()
    alias = ALIASES.get(folded) or (folded.capitalize() if folded in ("true", "false") else None)
    return LABEL_INDEX[alias] if alias else None


@dataclass(frozen=True)
class LabelSet:
    """The answer classes of a data set.

    Attributes:
        name: name of the data set.
        labels: the labels in order, each once.
        aliases: folded spellings to labels.
    """

    name: str
    labels: tuple[str, ...]
    aliases: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, answer: str) -> int | None:
        """Index of an answer; None if it is not one of the labels."""
        text = answer.strip()
        if text in self.labels:
            return self.labels.index(text)
        alias = self.aliases.get(text.lower())
        return self.labels.index(alias) if alias else None


SSG_QA = LabelSet("ssg-qa", LABELS, ALIASES)
