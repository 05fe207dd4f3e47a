"""The lines of a data set's files as records: plain values by name, before they become rows of the table."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa.datasets.description import DatasetDescription, QuestionFile
from surgvivqa.utils.errors import InputError

MAX_BYTES = 2_000_000_000
"""The largest file of questions that is read; the largest public one has a few hundred MB."""

_PLACEHOLDER = re.compile(r"\\\{(video|frame)\\\}")


@dataclass(frozen=True)
class Record:
    """A line of a file.

    Attributes:
        values: its values by name.
        where: the file and line, for messages.
        file: the file's entry in the description.
        line: number of the line in the file, from 1.
    """

    values: Mapping[str, Any]
    where: str
    file: QuestionFile
    line: int


@dataclass
class Faults:
    """The lines and files that cannot be used.

    Attributes:
        strict: whether the first one is an error.
        found: for each, the reason (``ssgqa.FORMAT_FAULTS``), where it is, and the split of its file if that is known.
        files: number of files.
    """

    strict: bool = False
    found: list[tuple[str, str, str | None]] = field(default_factory=list)
    files: int = 0

    def add(self, reason: str, where: str, what: str, split: str | None = None) -> None:
        """Records a fault.

        Raises:
            InputError: faults are errors.
        """
        if self.strict:
            raise InputError(f"{where} {what}; fix or remove it, or leave out --strict.")
        self.found.append((reason, f"{where} {what}", split))


@dataclass(frozen=True)
class FoundFile:
    """A file of questions.

    Attributes:
        path: where it is.
        entry: its entry in the description.
        values: the fields that its path names, such as the video.
    """

    path: Path
    entry: QuestionFile
    values: Mapping[str, str]


def find_files(
    description: DatasetDescription, root: Path, videos: Collection[str] | None = None
) -> Iterator[FoundFile]:
    """Finds the files of questions, in the description's order and by name.

    Args:
        description: the data set.
        root: the folder of the questions; or its only file.
        videos: names of the videos; files that name other ones are left out. None takes all.

    Raises:
        InputError: the root does not exist, or a file does not.
    """
    if root.is_file():
        if len(description.files) > 1:
            names = ", ".join(file.path for file in description.files)
            raise InputError(
                f"--question-root {root} is a file, but {description.name} has several ({names}); give their folder."
            )
        yield FoundFile(root, description.files[0], {})
        return
    if not root.is_dir():
        raise InputError(
            f"--question-root {root} is neither a folder nor a file; it must hold {_expected(description)}."
        )
    for entry in description.files:
        if "*" not in entry.path and "{" not in entry.path:
            path = root / entry.path
            if not path.is_file():
                raise InputError(f"{path} does not exist; {description.name} has its questions there.")
            yield FoundFile(path, entry, {})
            continue
        count = 0
        for path, values in _match_pattern(root, entry.path):
            count += 1
            if videos is None or values.get("video") is None or values["video"] in videos:
                yield FoundFile(path, entry, values)
        if not count:
            raise InputError(
                f"--question-root {root} holds no file {entry.path}, where {description.name} has its questions."
            )


def read_text(file: FoundFile, faults: Faults) -> str | None:
    """The text of a file; None, after recording the fault, if it cannot be read as text.

    Raises:
        InputError: it cannot be opened.
    """
    faults.files += 1
    try:
        if not file.path.is_file():
            faults.add("not_a_file", str(file.path), "is not a regular file", file.entry.split)
            return None
        if file.path.stat().st_size > MAX_BYTES:
            faults.add("too_large", str(file.path), "is too large for a file of questions", file.entry.split)
            return None
        raw = file.path.read_bytes()
    except OSError as error:
        raise InputError(
            f"Question file {file.path} cannot be read ({error.strerror or error}); make it readable."
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        faults.add("not_text", str(file.path), f"is not UTF-8 text (line {line})", file.entry.split)
        return None
    if "\0" in text:
        faults.add("not_text", str(file.path), "is not text: it has a NUL byte", file.entry.split)
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _match_pattern(root: Path, pattern: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The files of a pattern with the fields in their paths, by name."""
    seen: set[str] = set()

    def group(found: re.Match[str]) -> str:
        if found[1] in seen:
            return f"(?P={found[1]})"
        seen.add(found[1])
        return f"(?P<{found[1]}>[^/]+?)"

    regex = re.compile(_PLACEHOLDER.sub(group, re.escape(pattern)).replace(r"\*", "[^/]*"))
    for path in sorted(root.glob(re.sub(r"\{(video|frame)\}", "*", pattern)), key=_natural_key):
        found = regex.fullmatch(path.relative_to(root).as_posix())
        if found and not path.name.startswith("."):
            yield path, found.groupdict()


def _natural_key(path: Path) -> list[Any]:
    """Sorts ``frame9`` before ``frame10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.as_posix())]


def _expected(description: DatasetDescription) -> str:
    return ", ".join(file.path for file in description.files)
