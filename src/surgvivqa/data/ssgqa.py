"""SSG-QA's question files: one text file a frame, fields separated by a bare pipe, two summary lines first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from surgvivqa.errors import InputError
from surgvivqa.labels import label_of

REASONINGS = ("zero_hop", "one_hop", "single_and")
TYPES = ("count", "exist", "query_color", "query_type", "query_component", "query_location")
_MOST_BYTES = 8_000_000
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Question:
    """One single-answer question. ``label`` indexes the 51 labels; ``line`` is its 1-based line in the file."""

    video: str
    frame: int
    question: str
    answer: str
    label: int
    reasoning: str | None
    type: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame with its questions, in file order."""

    video: str
    frame: int
    questions: tuple[Question, ...]


@dataclass
class ReadReport:
    """What was read and what was left out, and why.

    ``lines`` are non-blank lines of readable files; each is a question or is counted in ``skipped`` under ``summary``,
    ``comma_answer``, ``unknown_answer``, ``no_pipe`` or ``malformed``. Whole files are counted there under ``not_text``
    and ``empty_file``. ``examples`` keeps the first five of each reason.
    """

    files: int = 0
    lines: int = 0
    questions: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, where: str) -> None:
        """Counts one left out."""
        self.skipped[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append(where[:300])

    def add(self, later: "ReadReport") -> None:
        """Counts what ``later`` counts, as if its files had been read after these."""
        self.files += later.files
        self.lines += later.lines
        self.questions += later.questions
        self.skipped.update(later.skipped)
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
            "examples": {k: v for k, v in sorted(self.examples.items()) if k != "summary"},
        }


def read_file(path: Path, video: str, frame: int, report: ReadReport, strict: bool = False) -> Frame | None:
    """Reads one question file into a frame, counting in ``report`` what is left out.

    Returns:
        The frame, or None where the file has no usable question.

    Raises:
        InputError: the file cannot be opened; under ``strict`` also where it is no text or has an unknown answer.
    """
    report.files += 1
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= _MOST_BYTES else b"\0"
    except OSError as error:
        raise InputError(f"Question file {path} cannot be read ({error.strerror}).") from None
    try:
        if b"\0" in raw:
            raise ValueError
        text = raw.decode("utf-8-sig")
    except ValueError:
        if strict:
            raise InputError(f"Question file {path} is no UTF-8 text; replace it, or leave out --strict.") from None
        report.skip("not_text", str(path))
        return None
    # Only real line ends: str.splitlines would also cut at form feeds and the like.
    numbered = [(n, line) for n, line in enumerate(text.replace("\r", "\n" if "\n" not in text else "").split("\n"), 1)]
    lines = [(n, line.strip()) for n, line in numbered if line.strip()]
    if not lines:
        report.skip("empty_file", str(path))
        return None
    report.lines += len(lines)
    questions = []
    for index, (number, line) in enumerate(lines):
        where = f"{path}:{number}: {line}"
        fields = line.split("|")
        if index < 2:
            report.skip("summary", where)
        elif len(fields) < 2:
            report.skip("no_pipe", where)
        elif len(fields) not in (2, 3, 5) or not fields[0].strip():
            report.skip("malformed", where)
        elif "," in fields[1]:
            report.skip("comma_answer", where)
        elif (label := label_of(fields[1])) is None:
            if strict:
                raise InputError(f"{path}:{number} has the answer {fields[1].strip()[:80]!r}, which is none of the 51.")
            report.skip("unknown_answer", where)
        else:
            reasoning = fields[2].strip().removesuffix(".json") if len(fields) == 5 else None
            kind = fields[3].strip() if len(fields) == 5 else None
            questions.append(
                Question(
                    video,
                    frame,
                    fields[0].strip(),
                    fields[1].strip(),
                    label,
                    reasoning if reasoning in REASONINGS else None,
                    kind if kind in TYPES else None,
                    number,
                )
            )
    report.questions += len(questions)
    return Frame(video, frame, tuple(questions)) if questions else None


def read_split(
    root: str | Path, videos: Sequence[str], *, strict: bool = False, missing: Literal["error", "skip"] = "error"
) -> tuple[list[Frame], ReadReport]:
    """Reads the question files of the named videos, in the order of ``videos`` and by frame number.

    Args:
        root: ``<root>/<VIDxx>/<frame>.txt``; other folders and other files are ignored.
        videos: names of the videos.
        strict: an unknown answer or a file that is no text is an error.
        missing: whether a video without a folder is an error.

    Raises:
        InputError: the root or a video's folder is not there, or there is no question file at all.
    """
    root = Path(root)
    report = ReadReport()
    frames = []
    for video in present_videos(root, videos, missing):
        for number in question_files(root / video):
            frame = read_file(root / video / f"{number}.txt", video, number, report, strict)
            if frame is not None:
                frames.append(frame)
    refuse_no_file(root, videos, report)
    return frames, report


def present_videos(root: Path, videos: Sequence[str], missing: Literal["error", "skip"] = "error") -> list[str]:
    """The videos that have a folder, in the order of ``videos``.

    Raises:
        InputError: the root is not there, or none of the videos, or (unless ``missing`` is ``skip``) not all of them.
    """
    if not root.is_dir():
        raise InputError(f"--ssgvqa-root {root} is no folder; it must hold <VIDxx>/<frame>.txt.")
    absent = [v for v in videos if not (root / v).is_dir()]
    if videos and len(absent) == len(videos):
        raise InputError(
            f"--ssgvqa-root {root} has none of the {len(videos)} videos of the split ({', '.join(videos[:3])}, ...); "
            f"it must hold <VIDxx>/<frame>.txt."
        )
    if absent and missing == "error":
        raise InputError(
            f"--ssgvqa-root {root} lacks {len(absent)} of the split's {len(videos)} videos ({', '.join(absent[:5])}); "
            f"add them, or name the videos you have through --splits-dir."
        )
    return [v for v in videos if v not in absent]


def is_synthetic(root: Path) -> bool:
    """Whether the questions under ``root`` were made by ``surgvivqa synth``, which leaves its mark beside them."""
    return (root.parent / "synthetic.json").is_file()


def frame_number(name: str) -> int | None:
    """The frame that a file's name stands for, or None for other files; padded names are other tools' copies."""
    stem = name.removesuffix(".txt")
    if stem == name or not (stem.isascii() and stem.isdigit()) or str(int(stem)) != stem:
        return None
    return int(stem)


def question_files(folder: Path) -> list[int]:
    """The frame numbers of a folder's question files, in order.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return sorted(number for path in folder.iterdir() if (number := frame_number(path.name)) is not None)
    except OSError as error:
        raise InputError(f"Folder {folder} cannot be read ({error.strerror}).") from None


def refuse_no_file(root: Path, videos: Sequence[str], report: ReadReport) -> None:
    """Raises InputError where videos were asked for and hold no question file at all."""
    if not report.files and videos:
        raise InputError(f"--ssgvqa-root {root} holds no question file <frame>.txt in {', '.join(videos[:3])}.")
