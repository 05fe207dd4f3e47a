"""Label sets: the answers that a closed-set model chooses from. SSG-QA's 51 are the default everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_LABELS = 1000  # confusion matrices have this squared per video
MAX_LABEL_LENGTH = 200  # characters

LABELS: tuple[str, ...] = tuple(
    "0 1 10 2 3 4 5 6 7 8 9 False True abdominal_wall_cavity adhesion anatomy aspirate bipolar blood_vessel blue brown "
    "clip clipper coagulate cut cystic_artery cystic_duct cystic_pedicle cystic_plate dissect fluid gallbladder grasp "
    "grasper gut hook instrument irrigate irrigator liver omentum pack peritoneum red retract scissors silver "
    "specimen_bag specimenbag white yellow".split()
)
"""SSG-QA's 51 answer classes, in the order that all published results use."""
ALIASES: dict[str, str] = {"yes": "True", "no": "False", "true": "True", "false": "False"}


@dataclass(frozen=True)
class LabelSet:
    """The answers that a model chooses from, in the order of its scores.

    Two sets are equal if their names and their labels are; other spellings do not count.

    Attributes:
        name: a short name, such as ``ssg-qa``.
        labels: the labels; unique.
        aliases: other spellings, in lower case, to the label that they name, such as ``yes`` to ``True``.

    Raises:
        ValueError: the name or a label is not a short line of text, there are no labels or too many, one occurs twice,
            or an alias names none of them.
    """

    name: str
    labels: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)
    _index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= 100 or not self.name.isprintable():
            raise ValueError("the name of its label set is not a short line of text")
        object.__setattr__(self, "labels", check_labels(self.labels))
        object.__setattr__(self, "_index", {label: i for i, label in enumerate(self.labels)})
        if strange := [label for label in self.aliases.values() if label not in self._index]:
            raise ValueError(f"an alias names {strange[0][:60]!r}, which is not one of its labels")

    @classmethod
    def of_labels(cls, labels: Sequence[str] | None, name: str | None = None) -> "LabelSet":
        """The label set of recorded labels: SSG-QA's where none are recorded, or where they are SSG-QA's.

        Raises:
            ValueError: as the class.
        """
        if labels is None or check_labels(labels) == LABELS:
            return SSG_QA
        return cls("custom" if name is None else name, tuple(labels))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_ssg_qa(self) -> bool:
        """Whether the labels are SSG-QA's, so that what is known of its questions and answers applies."""
        return self.labels == LABELS

    def index(self, answer: str) -> int | None:
        """Index of ``answer`` among the labels, or None if it is not one of them.

        The match is exact after white space is stripped, except for aliases, whose case does not count. A part of the
        answer never matches.
        """
        text = answer.strip()
        found = self._index.get(text)
        if found is None and (alias := self.aliases.get(text.lower())) is not None:
            found = self._index[alias]
        return found


def check_labels(labels: Any) -> tuple[str, ...]:
    """The labels of an untrusted file as a tuple, after checking them.

    Raises:
        ValueError: they are not a list, there are no labels or too many, or one is not a short line of text or occurs
            twice.
    """
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise ValueError("its labels are not a list of texts")
    if not 1 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"it has {len(labels):,} labels, not 1 to {MAX_LABELS:,}")
    for label in labels:
        if not label or label != label.strip() or len(label) > MAX_LABEL_LENGTH or not label.isprintable():
            raise ValueError(
                f"its label {label[:40]!r} is not a line of text of 1 to {MAX_LABEL_LENGTH} characters without spaces "
                f"around it"
            )
    if len(set(labels)) < len(labels):
        twice = next(label for i, label in enumerate(labels) if label in labels[:i])
        raise ValueError(f"it has the label {twice[:60]!r} twice")
    return tuple(labels)


SSG_QA = LabelSet("ssg-qa", LABELS, ALIASES)
LABEL_INDEX: dict[str, int] = {label: i for i, label in enumerate(LABELS)}


def parse_label(answer: str) -> int | None:
    """Index of ``answer`` among SSG-QA's 51 labels, or None if it is not one of them.

    ``yes``, ``no``, ``true`` and ``false`` in any case name the two boolean classes. ``specimen_bag`` (a target) and
    ``specimenbag`` (a tool) are two classes.
    """
    return SSG_QA.index(answer)
