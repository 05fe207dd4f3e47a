"""The lines that ``predict`` writes: text, JSON lines or CSV; each is written whole."""

import csv
import io
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from surgvivqa.auto import Answer
from surgvivqa.utils.atomic_files import write_file
from surgvivqa.video.times import format_time

log = logging.getLogger("surgvivqa")


class AnswerLines(Protocol):
    """How one answer is written.

    Attributes:
        header: what is before the first.
    """

    header: str

    def line(self, answer: Answer) -> str:
        """The text of one answer, with its newline."""
        ...


class TopLines:
    """The answers to one question, one below the other."""

    header = ""

    def line(self, answer: Answer) -> str:
        """The text of one answer, with its newline."""
        return "".join(f"{label:<24}{100 * probability:6.2f} %\n" for label, probability in answer.top)


class TextLines:
    """A line for each answer: time, answer, probability, question, and the other answers."""

    header = ""

    def line(self, answer: Answer) -> str:
        """The text of one answer, with its newline."""
        time = "" if answer.at is None else f"{format_time(answer.at):<10}"
        others = ", ".join(f"{label} {100 * probability:.1f} %" for label, probability in answer.top[1:])
        tail = f"  ({others})" if others else ""
        return f"{time}{answer.answer:<16}{100 * answer.probability:6.2f} %  {answer.question}{tail}\n"


class JsonLines:
    """A JSON object for each answer.

    Args:
        source: the name of the video or the picture.
        temperature: the stored temperature of the probabilities; None without one.
    """

    header = ""

    def __init__(self, source: str, temperature: float | None) -> None:
        self._source, self._temperature = source, temperature

    def line(self, answer: Answer) -> str:
        """The text of one answer, with its newline."""
        row = {
            "source": self._source,
            "at": answer.at,
            "time": None if answer.at is None else format_time(answer.at),
            "question": answer.question,
            "answer": answer.answer,
            "probability": answer.probability,
            "answers": [{"answer": label, "probability": probability} for label, probability in answer.top],
            "temperature": self._temperature,
        }
        return json.dumps(row, ensure_ascii=False) + "\n"


class CsvLines:
    """A row of a table for each answer.

    Args:
        source: the name of the video or the picture.
        top: the number of answers of a question.
    """

    def __init__(self, source: str, top: int) -> None:
        self._source = source
        others = [name for number in range(2, top + 1) for name in (f"answer_{number}", f"probability_{number}")]
        self.header = _csv_row(["source", "at", "time", "question", "answer", "probability", *others])

    def line(self, answer: Answer) -> str:
        """The text of one answer, with its newline."""
        time = ("", "") if answer.at is None else (f"{answer.at:.3f}", format_time(answer.at))
        pairs = [text for label, probability in answer.top for text in (label, f"{probability:.6f}")]
        return _csv_row([self._source, *time, answer.question, *pairs])


def _csv_row(values: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def write_answers(answers: Iterator[Answer], lines: AnswerLines, output: Path | None) -> None:
    """Writes answers as they come, each line whole and at once.

    Args:
        answers: the answers.
        lines: how they are written.
        output: the file, which appears when all is written. If an error or Ctrl-C stops the answers, it appears with
            those that there are. None for standard output.

    Raises:
        RunError: the file cannot be written.
        BaseException: what stopped the answers.
    """
    if output is None:
        _write_lines(sys.stdout, answers, lines)
        return
    stopped: BaseException | None = None
    count = 0

    def counted() -> Iterator[Answer]:
        nonlocal stopped, count
        try:
            for answer in answers:
                yield answer
                count += 1
        except (Exception, KeyboardInterrupt) as error:  # not GeneratorExit, with which a full disk ends the writing
            stopped = error

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            _write_lines(file, counted(), lines)

    write_file(output, write)
    if stopped is not None:
        log.warning("%s has the %d answers until then.", output, count)
        raise stopped


def _write_lines(file: TextIO, answers: Iterator[Answer], lines: AnswerLines) -> None:
    file.write(lines.header)
    for answer in answers:
        file.write(lines.line(answer))
        file.flush()
