"""Lists of questions: JSON lines with ``video``, ``frame`` and ``question``, on which ``eval --only`` reports.

``surgvivqa data audit`` writes such files; lines of ``predictions.jsonl`` have these fields too.
"""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import check_regular_file, parse_json

QuestionName = tuple[str, int, str]  # video, frame, question
log = logging.getLogger("surgvivqa")


@dataclass(frozen=True)
class QuestionList:
    """The questions that a file lists.

    Attributes:
        file: the file's name, without its folder.
        sha256: checksum of the file.
        names: the questions, each once.
    """

    file: str
    sha256: str
    names: frozenset[QuestionName]


@dataclass(frozen=True)
class Selection:
    """What ``--only`` selected: the section ``only`` of ``metrics.json``.

    Attributes:
        file: name of the list of questions, without its folder.
        sha256: checksum of the list.
        listed: number of questions in the list, each counted once.
        missing: number of them that the split does not have.
        selected: number of questions of the split that are listed; a repeated line of a question file counts each time.
        of: number of questions of the split.
    """

    file: str
    sha256: str
    listed: int
    missing: int
    selected: int
    of: int


def read_question_list(path: Path) -> QuestionList:
    """Reads a list of questions; other fields than the three are ignored.

    Raises:
        InputError: the file cannot be read, a line is not such an object, or there is none.
    """
    names, number = set(), 0
    digest = hashlib.sha256()
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            for line in file:
                number += 1
                digest.update(line)
                if line.strip():
                    names.add(_parse_name(parse_json(line)))
    except OSError as error:
        raise InputError(f"The list of questions {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}:{number} is not a line of a list of questions ({str(error)[:120]}); a line is a JSON object with "
            f"video, frame and question, as `surgvivqa data audit` writes it."
        ) from None
    if not names:
        raise InputError(f"The list of questions {path} is empty, so nothing would be evaluated.")
    return QuestionList(path.name, digest.hexdigest(), frozenset(names))


def select_questions(frames: Iterable[FrameQuestions], wanted: QuestionList) -> tuple[list[FrameQuestions], Selection]:
    """The questions that a list names; frames without one are left out.

    Returns:
        The frames, in their order, and the counts. A warning names the first listed question that is not there.

    Raises:
        InputError: no listed question is there.
    """
    selected, found, total = [], set[QuestionName](), 0
    for frame in frames:
        total += len(frame.questions)
        questions = tuple(q for q in frame.questions if (frame.video, frame.frame, q.question) in wanted.names)
        if questions:
            found.update((frame.video, frame.frame, q.question) for q in questions)
            selected.append(FrameQuestions(frame.video, frame.frame, questions))
    missing = wanted.names - found
    if not selected:
        video, number, text = min(missing)
        raise InputError(
            f"None of the {len(wanted.names):,} questions of --only {wanted.file} is in the split (first: {video}, "
            f"frame {number}: {text!r}); give a list of this split's questions."
        )
    if missing:
        video, number, text = min(missing)
        log.warning(
            "%d of the %d questions of --only %s are not in the split (first: %s, frame %d: %r).",
            *(len(missing), len(wanted.names), wanted.file, video, number, text),
        )
    count = sum(len(frame.questions) for frame in selected)
    return selected, Selection(wanted.file, wanted.sha256, len(wanted.names), len(missing), count, total)


def _parse_name(line: object) -> QuestionName:
    if not isinstance(line, dict):
        raise ValueError("it is not an object")
    video, frame, question = line["video"], line["frame"], line["question"]
    if not isinstance(video, str) or not isinstance(question, str) or type(frame) is not int:
        raise ValueError("video and question must be text, and frame a whole number")
    return video, frame, question
