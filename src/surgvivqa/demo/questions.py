"""Questions that the page suggests, by type: SSG-QA's wordings, or those of a file."""

from collections.abc import Mapping
from pathlib import Path

from surgvivqa.utils.errors import InputError
from surgvivqa.utils.text_lines import read_lines

_MOST_BYTES = 100_000
_MOST_QUESTIONS = 60
_UNNAMED = "Questions"

SSG_QA_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "Counting": ("How many instruments are there?", "How many anatomies are there?"),
    "Colour": ("What color is the top-left anatomy?", "What color is the grasper instrument?"),
    "Object": ("What is the blue instrument?", "What is the bottom-mid anatomy?"),
    "Action": ("What is the grasper doing?", "What is the hook doing?"),
    "Target": ("Which target is being retracted in the scene?", "Which tool is operating on gallbladder"),
    "Existence": ("Are there any silver instruments?", "Are there any brown anatomies?"),
    "Kind": ("What type is the white object?", "What type is the red object?"),
}


def read_questions(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads suggested questions: one per line, perhaps with a type before it, as in ``Counting: How many ...?``.

    Empty lines and lines that begin with ``#`` are left out.

    Raises:
        InputError: the file cannot be read, or holds no question or too many.
    """
    found: dict[str, tuple[str, ...]] = {}
    for line in read_lines(path, "--questions", _MOST_BYTES):
        if line and not line.startswith("#"):
            kind, colon, question = line.partition(":")
            if not colon or not question.strip():
                kind, question = _UNNAMED, line
            found[kind.strip()] = (*found.get(kind.strip(), ()), question.strip())
    count = sum(map(len, found.values()))
    if not 0 < count <= _MOST_QUESTIONS:
        raise InputError(f"--questions {path} has {count} questions; give 1 to {_MOST_QUESTIONS}, one per line.")
    return found
