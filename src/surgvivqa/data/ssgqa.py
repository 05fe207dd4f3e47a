"""Reads SSG-QA's question files: one text file per frame, two summary lines first, fields separated by a pipe."""

import logging
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.suggestions import suggest_question_files, suggest_question_root
from surgvivqa.utils.errors import InputError

REASONINGS = ("zero_hop", "one_hop", "single_and")
TYPES = ("count", "exist", "query_color", "query_type", "query_component", "query_location")
# What begins the two summary lines of every SSG-QA file. They list several answers and are no questions.
SUMMARIES = ("Which anatomical structures are present?|", "Which tools are present?|")
# The reasons for which a file or a line is left out because it breaks the format, those of files first.
FORMAT_FAULTS = {
    "other_name": "files under names other than <frame>.txt",
    "too_large": "files too large",
    "not_text": "files that are not UTF-8 text",
    "not_a_file": "folders, pipes or devices",
    "empty_file": "empty files",
    "malformed": "malformed lines",
    "no_pipe": "lines without '|'",
    "unknown_answer": "answers outside the labels",
}
# The reasons for which something that is read looks wrong.
CONTENT_FAULTS = {
    "no_summary": "files that do not begin with the two summary lines, so that their first lines are read as questions",
    "repeated": "repeated lines",
    "contradiction": "questions with different answers about the same frame",
    "no_questions": "videos without a usable question",
}
# ``surgvivqa check`` reports them. All but an empty file (a frame without questions) are errors under --strict.
STRICT_FAULTS = tuple(reason for reason in (*FORMAT_FAULTS, *CONTENT_FAULTS) if reason != "empty_file")
_SUSPICIONS = {
    "repeated": "repeats an earlier line",
    "contradiction": "answers a question differently than an earlier line",
}
_SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "Desktop.ini", "__MACOSX", "Icon\r")
_MAX_BYTES = 8_000_000  # about 2000 times a real file
_MAX_DIGITS = 18  # frame numbers are int64
_EXAMPLES = 5
log = logging.getLogger("surgvivqa")


@dataclass(frozen=True, slots=True)
class Question:
    """One single-answer question.

    Attributes:
        video: name of the video.
        frame: number of the frame.
        question: the question's text.
        answer: the answer as it is spelled in the file.
        label: index of the answer among the labels of its data set.
        reasoning: one of ``REASONINGS``; None for lines without one.
        type: one of ``TYPES``; None for lines without one.
        line: line number in the file, from 1.
        long_answer: the answer as a sentence, in data sets that have one.
        pair_id: what it shares with the same question in another wording; None if there is no other wording.
        wording: the name of its wording; None if there is one only.
        image: the path of the frame below the root of the frames; None for ``<video>/<frame padded to 6>.png``.
    """

    video: str
    frame: int
    question: str
    answer: str
    label: int
    reasoning: str | None
    type: str | None
    line: int
    long_answer: str | None = None
    pair_id: str | None = None
    wording: str | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class FrameQuestions:
    """One frame with its questions, in file order."""

    video: str
    frame: int
    questions: tuple[Question, ...]


@dataclass
class ReadReport:
    """Counts of what was read, of what was left out by reason, and of what looks wrong.

    ``lines`` are non-blank lines of readable files; each is a question or is counted in ``skipped`` under ``summary``,
    ``comma_answer``, ``unknown_answer``, ``no_pipe`` or ``malformed``. Whole files are counted there under
    ``not_text``, ``too_large`` (more than 8 MB: not read), ``not_a_file`` (a folder or a pipe with such a name: not
    opened), ``empty_file`` and ``other_name``. ``suspect`` counts what is read and looks wrong (``CONTENT_FAULTS``).
    ``examples`` keeps the first five of each reason.
    """

    files: int = 0
    lines: int = 0
    questions: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    suspect: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, where: str) -> None:
        """Counts a line or file that is left out."""
        self.skipped[reason] += 1
        self._add_example(reason, where)

    def suspect_at(self, reason: str, where: str) -> None:
        """Counts something that is read and looks wrong."""
        self.suspect[reason] += 1
        self._add_example(reason, where)

    def describe_faults(self) -> list[str]:
        """A phrase for each format or content fault: its count, what it is, and the first example."""
        counts, texts = self.skipped + self.suspect, FORMAT_FAULTS | CONTENT_FAULTS
        return [f"{counts[r]} {text} (first: {self.examples[r][0]})" for r, text in texts.items() if counts[r]]

    def _add_example(self, reason: str, where: str) -> None:
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append(where[:300])

    def add(self, later: "ReadReport") -> None:
        """Adds the counts of ``later``, whose files were read after these."""
        self.files += later.files
        self.lines += later.lines
        self.questions += later.questions
        self.skipped.update(later.skipped)
        self.suspect.update(later.suspect)
        for reason, where in later.examples.items():
            shown = self.examples.setdefault(reason, [])
            shown += where[: _EXAMPLES - len(shown)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "files": self.files,
            "lines": self.lines,
            "questions": self.questions,
            "skipped": dict(sorted(self.skipped.items())),
            "suspect": dict(sorted(self.suspect.items())),
            "examples": {k: v for k, v in sorted(self.examples.items()) if k != "summary"},
        }


def read_question_file(
    path: Path, video: str, frame: int, report: ReadReport, strict: bool = False, label_set: LabelSet = SSG_QA
) -> FrameQuestions | None:
    """Reads one question file into a frame, counting in ``report`` what is left out.

    Returns:
        The frame, or None where the file has no usable question.

    Raises:
        InputError: the file cannot be opened; under ``strict`` also where one of ``STRICT_FAULTS`` is met.
    """
    report.files += 1
    try:
        status = path.stat()
        fault = _find_file_fault(path, status.st_mode, status.st_size)
        raw = b"" if fault else path.read_bytes()
    except OSError as error:
        raise InputError(_unreadable(path, error)) from None
    text, fault = _decode(path, raw) if fault is None else ("", fault)
    if fault:
        reason, where, advice = fault
        if strict:
            raise InputError(f"Question file {where}; {advice}, or leave out --strict.")
        report.skip(reason, where)
        return None
    # Lines end with LF, CRLF or CR, as in Python's text files. str.splitlines would also split at form feeds and
    # others; dropping a lone CR would join "1" and "0" into another answer.
    numbered = enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)
    lines = [(n, line.strip()) for n, line in numbered if line.strip()]
    if not lines:
        report.skip("empty_file", str(path))
        return None
    report.lines += len(lines)
    questions = _parse_lines(path, video, frame, lines, report, strict, label_set)
    report.questions += len(questions)
    return FrameQuestions(video, frame, tuple(questions)) if questions else None


def _parse_lines(
    path: Path,
    video: str,
    frame: int,
    lines: Sequence[tuple[int, str]],
    report: ReadReport,
    strict: bool,
    label_set: LabelSet,
) -> list[Question]:
    """The questions of a file's numbered lines, blank ones left out."""
    questions: list[Question] = []
    labels: dict[str, int] = {}
    seen: set[str] = set()
    summaries = 0
    for index, (number, line) in enumerate(lines):
        where = f"{path}:{number}: {line}"
        if index < len(SUMMARIES) and line.startswith(SUMMARIES):
            summaries += 1
            report.skip("summary", where)
            continue
        fields = [field.strip() for field in line.split("|")]
        reason, what = _find_line_fault(fields, label_set)
        suspicions = ["repeated"] if line in seen else []
        seen.add(line)
        if not reason:
            label = label_set.index(fields[1])
            assert label is not None
            if labels.setdefault(fields[0], label) != label:
                suspicions.append("contradiction")
            reasoning, kind = (fields[2].removesuffix(".json"), fields[3]) if len(fields) == 5 else ("", "")
            questions.append(
                Question(
                    video,
                    frame,
                    fields[0],
                    fields[1],
                    label,
                    reasoning if reasoning in REASONINGS else None,
                    kind if kind in TYPES else None,
                    number,
                )
            )
        if strict and (suspicions or reason in STRICT_FAULTS):
            what = _SUSPICIONS[suspicions[0]] if suspicions else what
            raise InputError(f"{path}:{number} {what}; fix or remove the line, or leave out --strict.")
        for suspicion in suspicions:
            report.suspect_at(suspicion, where)
        if reason:
            report.skip(reason, where)
    if summaries < len(SUMMARIES):
        if strict:
            raise InputError(
                f"Question file {path} does not begin with SSG-QA's two summary lines ({SUMMARIES[0][:-1]} and "
                f"{SUMMARIES[1][:-1]}), so that its first lines are questions; add them, or leave out --strict."
            )
        report.suspect_at("no_summary", str(path))
    return questions


def _find_line_fault(fields: Sequence[str], label_set: LabelSet) -> tuple[str, str]:
    """The reason for which a line is left out, with a phrase for messages; empty for a question."""
    if len(fields) < 2:
        return "no_pipe", "has no '|'"
    if len(fields) not in (2, 3, 5):
        return "malformed", f"has {len(fields)} fields, not 2, 3 or 5"
    if not fields[0]:
        return "malformed", "has an empty question"
    if "," in fields[1]:
        return "comma_answer", "has several answers"
    if label_set.index(fields[1]) is None:
        return "unknown_answer", f"has the answer {fields[1][:80]!r}, which is not one of the {len(label_set)} labels"
    return "", ""


# What is wrong with a whole file: the reason, the path with a description, and what to do.
_Fault = tuple[str, str, str]


def _find_file_fault(path: Path, mode: int, size: int) -> _Fault | None:
    """The fault of a file that must not be opened, such as a pipe, which would block."""
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a named pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        return "not_a_file", f"{path} is {kind}", "move it away"
    if size > _MAX_BYTES:
        limit = f"{_MAX_BYTES / 1e6:.0f} MB"
        large = f"{path} has {size / 1e6:.1f} MB, too large for the questions of a frame (at most {limit})"
        return "too_large", large, "replace it"
    return None


def _decode(path: Path, raw: bytes) -> tuple[str, _Fault | None]:
    """The text of a file, and its fault if it is not UTF-8 text."""
    at, what = raw.find(b"\0"), "a NUL byte"
    if at < 0:
        try:
            return raw.decode("utf-8-sig"), None
        except UnicodeDecodeError as error:
            # The codec's position does not count a byte order mark.
            at = error.start + len(raw) - len(error.object)
            what = f"the byte 0x{raw[at]:02X}"
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        wrong = f"{path} is UTF-16, not UTF-8 text"
    else:
        before = raw[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        wrong = f"{path} is not UTF-8 text (line {before.count(10) + 1} has {what})"
    return "", ("not_text", wrong, "save it as UTF-8 or replace it")


def _unreadable(path: Path, error: OSError) -> str:
    """The message for a file that cannot be read. It is an error, since a later run might be able to read it."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        target = path.readlink()
        return f"Question file {path} cannot be read: it is a link to {target}, which does not exist; fix or remove it."
    return f"Question file {path} cannot be read ({error.strerror or error}); make it readable, or remove it."


@dataclass(frozen=True)
class QuestionFileNames:
    """The names in a video's question folder.

    Attributes:
        numbers: frame numbers of the question files, in order.
        others: names that are not those of question files, sorted; files of operating systems are left out.
    """

    numbers: tuple[int, ...]
    others: tuple[str, ...] = ()

    @classmethod
    def sort(cls, names: Iterable[str]) -> "QuestionFileNames":
        """Sorts the names of a folder into question files and others."""
        numbers, others = [], []
        for name in names:
            number = parse_frame_number(name)
            if number is not None:
                numbers.append(number)
            elif not is_system_file(name):
                others.append(name)
        return cls(tuple(sorted(numbers)), tuple(sorted(others)))


def read_split(
    root: str | Path,
    videos: Sequence[str],
    *,
    strict: bool = False,
    missing: Literal["error", "skip"] = "error",
    label_set: LabelSet = SSG_QA,
) -> tuple[list[FrameQuestions], ReadReport]:
    """Reads the question files of the named videos, in the order of ``videos`` and by frame number.

    Args:
        root: ``<root>/<VIDxx>/<frame>.txt``; other folders and other files are ignored.
        videos: names of the videos.
        strict: lines and files with one of ``STRICT_FAULTS`` are an error.
        missing: whether a video without a folder is an error.
        label_set: the labels; a line with another answer is left out.

    Raises:
        InputError: the root or a video's folder does not exist, or there is no question file.
    """
    root = Path(root)
    report = ReadReport()
    frames = []
    for video in find_videos(root, videos, missing):
        frames += read_video(root, video, list_question_files(root / video), report, strict, label_set)
    check_any_file(root, videos, report)
    return frames, report


def read_video(
    root: Path,
    video: str,
    names: QuestionFileNames,
    report: ReadReport,
    strict: bool = False,
    label_set: LabelSet = SSG_QA,
) -> list[FrameQuestions]:
    """Reads a video's question files, counting in ``report`` what is left out or looks wrong.

    Raises:
        InputError: a file cannot be opened; under ``strict`` also where one of ``STRICT_FAULTS`` is met.
    """
    frames = []
    for name in names.others:
        path = root / video / name
        if strict:
            raise InputError(
                f"{path} is not a question file <frame>.txt and would be left out; rename or remove it, or leave out "
                f"--strict."
            )
        report.skip("other_name", str(path))
    for number in names.numbers:
        frame = read_question_file(root / video / f"{number}.txt", video, number, report, strict, label_set)
        if frame is not None:
            frames.append(frame)
    if not frames:
        if strict:
            raise InputError(
                f"Video {root / video} has no usable question; take it out of the split, or leave out --strict."
            )
        report.suspect_at("no_questions", str(root / video))
    return frames


def find_videos(root: Path, videos: Sequence[str], missing: Literal["error", "skip"] = "error") -> list[str]:
    """The videos that have a folder, in the order of ``videos``.

    Raises:
        InputError: the root does not exist, or none of the videos, or (unless ``missing`` is ``skip``) not all of them.
    """
    try:
        exists = root.is_dir()
        absent = [v for v in videos if not (root / v).is_dir()] if exists else []
    except OSError as error:
        raise InputError(_unlistable(root, error)) from None
    if not exists:
        raise InputError(f"--ssgvqa-root {root} is not a folder; it must hold <VIDxx>/<frame>.txt.")
    if videos and len(absent) == len(videos):
        raise InputError(
            f"--ssgvqa-root {root} has none of the {len(videos)} videos of the split ({', '.join(videos[:3])}, ...); "
            f"it must hold <VIDxx>/<frame>.txt.{suggest_question_root(root, videos)}"
        )
    if absent and missing == "error":
        raise InputError(
            f"--ssgvqa-root {root} lacks {len(absent)} of the split's {len(videos)} videos ({', '.join(absent[:5])}); "
            f"add them, or name the videos you have through --splits-dir.{suggest_question_root(root, absent)}"
        )
    return [v for v in videos if v not in absent]


def warn_of_faults(split: str, report: ReadReport) -> None:
    """Logs a warning about what looks wrong in a split's question files, if anything does."""
    if faults := report.describe_faults():
        log.warning("Question files of the %s split: %s.", split, "; ".join(faults))


def is_synthetic(root: Path) -> bool:
    """Whether the questions under ``root`` are those of ``surgvivqa synth``, which writes a marker file."""
    return (root.parent / "synthetic.json").is_file()


def is_system_file(name: str) -> bool:
    """Whether a file is one that operating systems leave in folders, such as ``.DS_Store``."""
    return name.startswith(".") or name in _SYSTEM_FILES


def parse_frame_number(name: str) -> int | None:
    """The frame number of a question file's name; None for other files, such as padded names of other tools' copies."""
    stem = name.removesuffix(".txt")
    if stem == name or len(stem) > _MAX_DIGITS or not (stem.isascii() and stem.isdigit()) or str(int(stem)) != stem:
        return None
    return int(stem)


def list_question_files(folder: Path) -> QuestionFileNames:
    """The names in a video's question folder.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return QuestionFileNames.sort(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(_unlistable(folder, error)) from None


def _unlistable(folder: Path, error: OSError) -> str:
    return (
        f"Question folder {folder} cannot be read ({error.strerror or error}); make it readable, "
        f"or leave its videos out through --splits-dir."
    )


def check_any_file(root: Path, videos: Sequence[str], report: ReadReport) -> None:
    """Raises InputError if there are videos, but no question file in them."""
    if not report.files and videos:
        raise InputError(
            f"--ssgvqa-root {root} holds no question file <frame>.txt in {', '.join(videos[:3])}."
            f"{suggest_question_files(root, videos)}"
        )
