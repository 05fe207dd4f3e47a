"""Names of models on the hub: ``model``, ``user/model``, and either with ``@revision``."""

import re
from dataclasses import dataclass

from surgvivqa.utils.secrets import holds_secret

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>\w[\w./-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A model on the hub.

    Attributes:
        repo: ``user/model``, or ``model`` for a few old ones such as ``gpt2``.
        revision: a branch, tag or commit; None for the default branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def commit(self) -> str | None:
        """The revision, if it is a whole commit, whose files never change."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None


def parse_hub_name(value: str) -> HubName | None:
    """The parts of a name on the hub; None for a value of another form. A folder may have the same form."""
    found = _NAME.fullmatch(value)
    if not found or holds_secret(value):  # a token is never sent as a name
        return None
    return HubName(found["repo"], found["revision"])


def without_revision(value: str) -> str:
    """A model's name without ``@revision``; a value of another form is returned as it is."""
    name = parse_hub_name(value)
    return value if name is None else name.repo


def is_pinned_form(pinned: str, value: str) -> bool:
    """Whether ``pinned`` is the name ``value`` with a revision added."""
    name = parse_hub_name(pinned)
    return name is not None and name.revision is not None and name.repo == value
