"""A file of questions for ``predict``."""

from pathlib import Path
from typing import Any

from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import parse_json
from surgvivqa.utils.text_lines import read_lines

_MAX_BYTES = 10_000_000


def read_questions(path: Path) -> list[str]:
    """The questions in a file: one on each line, or JSON lines with the key ``question``.

    Empty lines are left out.

    Raises:
        InputError: the file cannot be read, is too large, holds no question, or a line is damaged.
    """
    lines = read_lines(path, "--questions", _MAX_BYTES)
    questions = [_read_line(path, number, line) for number, line in enumerate(lines, 1) if line]
    if not questions:
        raise InputError(f"--questions {path} holds no question; write one on each line.")
    return questions


def _read_line(path: Path, number: int, line: str) -> str:
    """The question on a line.

    Raises:
        InputError: it is a JSON object without a question, or has no letters.
    """
    question: Any = line
    if line.startswith("{"):
        try:
            question = parse_json(line).get("question")
        except ValueError as error:
            raise InputError(f"{path}:{number} is not JSON ({first_line(error, 80)}).") from None
    if not isinstance(question, str) or not any(character.isalpha() for character in question):
        raise InputError(f"{path}:{number} holds no question; write a text, or an object with the key question.")
    return question
