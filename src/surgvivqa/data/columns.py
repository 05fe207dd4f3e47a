"""The columns of one video's questions: one Arrow record batch, written by the parser and read by memory map.

A batch has one row: ``about`` (JSON: the video, the fingerprint of its files, its frame numbers, the spellings of its
answers, its report), ``counts`` (questions of each frame), ``code``, ``answer``, ``label``, ``reasoning``, ``type``,
``line`` (one value per question, in file order) and ``questions`` (the distinct question strings that ``code``
indexes). Reasoning and type are indices into ``ssgqa.REASONINGS`` and ``ssgqa.TYPES``, -1 for none.
"""

import contextlib
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from surgvivqa.data import labels, ssgqa
from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.ssgqa import REASONINGS, TYPES, FrameQuestions, Question, QuestionFileNames, ReadReport
from surgvivqa.utils.safe_json import parse_json

_FORMAT = 2
_VALUES = {"code": "int32", "answer": "int16", "label": "int16", "reasoning": "int8", "type": "int8", "line": "int32"}
_COLUMNS = {
    "about": pa.string(),
    "counts": pa.large_list(pa.int32()),
    **{name: pa.large_list(getattr(pa, kind)()) for name, kind in _VALUES.items()},
    "questions": pa.large_list(pa.large_string()),
}


@dataclass(frozen=True)
class QuestionFiles:
    """The state of a video's question files on disk.

    Attributes:
        names: the names in the folder.
        fingerprint: hash of names, sizes and times of the files.
        settled: whether no file was changed in the last two seconds.
    """

    names: QuestionFileNames
    fingerprint: str
    settled: bool


class VideoColumns:
    """The columns of one video's record batch, without copies.

    Args:
        batch: the record batch.
        root: the folder of the text files.
        path: the index file; None if the batch is in memory.
        label_set: the labels that the column ``label`` indexes.

    Raises:
        ValueError: ``about`` is not JSON.
        KeyError: a column or an entry of ``about`` is missing.

    Attributes:
        about: the entries of the column ``about``.
        video: name of the video.
        files: the fingerprint of the question files, without their names.
        numbers: numbers of the frames that have questions.
        values: the columns with one value per question, ``[questions]`` of the dtypes in ``_VALUES``.
        counts: ``[frames]`` int32, the number of questions of each frame.
        starts: ``[frames + 1]`` int64, the index of each frame's first question.
        num_texts: number of distinct question strings.
    """

    def __init__(
        self, batch: pa.RecordBatch, root: Path, path: Path | None = None, label_set: LabelSet = SSG_QA
    ) -> None:
        self.batch, self.root, self.path, self.label_set = batch, root, path, label_set
        self.about: dict[str, Any] = parse_json(batch.column("about")[0].as_py())
        self.video: str = self.about["video"]
        self.files = QuestionFiles(QuestionFileNames(()), self.about["fingerprint"], self.about["settled"])
        self.numbers: list[int] = self.about["frames"]
        self.values = {name: batch.column(name).values.to_numpy() for name in _VALUES}
        self.counts: np.ndarray = batch.column("counts").values.to_numpy()
        self.starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        # Questions are decoded from the mapped bytes on access, so no Python strings are kept.
        self.num_texts = len(batch.column("questions").values)
        _, offsets, text = batch.column("questions").values.buffers()
        self._offsets = (
            np.frombuffer(offsets, np.int64)[: self.num_texts + 1] if self.num_texts else np.zeros(1, np.int64)
        )
        self._text = memoryview(text if self.num_texts else b"")[: self._offsets[-1]]

    def is_valid(self) -> bool:
        """Whether all indices are in range. Arrow does not check them, and a forged file may have a valid checksum.

        Raises:
            pyarrow.ArrowInvalid: the batch itself is malformed.
        """
        self.batch.validate(full=True)
        sizes = {"code": self.num_texts, "label": len(self.label_set), "answer": len(self.about["answers"])}
        sizes |= {"reasoning": len(REASONINGS), "type": len(TYPES)}
        minimums = {"reasoning": -1, "type": -1}  # 0 for the others
        num_questions = int(self.counts.sum())
        return bool(
            isinstance(self.video, str)
            and all(isinstance(number, int) for number in self.numbers)
            and all(isinstance(answer, str) for answer in self.about["answers"])
            and len(self.numbers) == len(self.counts)
            and (self.counts >= 0).all()
            and all(len(values) == num_questions for values in self.values.values())
            and all(
                not num_questions
                or (self.values[name].min() >= minimums.get(name, 0) and self.values[name].max() < size)
                for name, size in sizes.items()
            )
        )

    def question_texts(self, codes: np.ndarray) -> list[str]:
        """The question strings that ``codes`` ``[n]`` int32 refer to."""
        starts, ends = self._offsets[codes].tolist(), self._offsets[codes + 1].tolist()
        return [str(self._text[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]

    def build_frame(self, row: int) -> FrameQuestions:
        """Builds the frame ``numbers[row]`` with its questions."""
        number, answers = self.numbers[row], self.about["answers"]
        part = slice(self.starts[row], self.starts[row + 1])
        code, *others = (self.values[name][part] for name in _VALUES)
        return FrameQuestions(
            self.video,
            number,
            tuple(
                Question(
                    self.video,
                    number,
                    text,
                    answers[answer],
                    label,
                    REASONINGS[reasoning] if reasoning >= 0 else None,
                    TYPES[kind] if kind >= 0 else None,
                    line,
                )
                for text, answer, label, reasoning, kind, line in zip(
                    self.question_texts(code), *(column.tolist() for column in others), strict=True
                )
            ),
        )

    def build_report(self) -> ReadReport:
        """Builds the report about this video's question files."""
        stored = self.about["report"]
        report = ReadReport(examples={reason: list(examples) for reason, examples in stored["examples"].items()})
        report.files, report.lines, report.questions = stored["files"], stored["lines"], stored["questions"]
        report.skipped.update(stored["skipped"])
        report.suspect.update(stored["suspect"])
        return report


def parse_video(root: Path, video: str, files: QuestionFiles | None, label_set: LabelSet = SSG_QA) -> pa.RecordBatch:
    """Parses one video's question files into a record batch.

    Args:
        root: the folder of the text files.
        video: name of the video.
        files: the state of the question files; None lists the folder, and the batch has no fingerprint.
        label_set: the labels.

    Raises:
        InputError: the folder or a file cannot be read.
    """
    names = files.names if files else ssgqa.list_question_files(root / video)
    report = ReadReport()
    codes: dict[str, int] = {}
    answers: dict[str, int] = {}
    counts: dict[int, int] = {}
    rows: list[tuple[int, ...]] = []
    for frame in ssgqa.read_video(root, video, names, report, label_set=label_set):
        rows += [
            (
                codes.setdefault(q.question, len(codes)),
                answers.setdefault(q.answer, len(answers)),
                q.label,
                -1 if q.reasoning is None else REASONINGS.index(q.reasoning),
                -1 if q.type is None else TYPES.index(q.type),
                q.line,
            )
            for q in frame.questions
        ]
        counts[frame.frame] = len(frame.questions)
    about = {
        "video": video,
        "fingerprint": files.fingerprint if files else "",
        "settled": files is not None and files.settled,
        "frames": list(counts),
        "answers": list(answers),
        "report": vars(report),
    }
    columns: dict[str, Any] = {"about": json.dumps(about), "counts": list(counts.values())}
    table = np.array(rows, np.int32).reshape(-1, len(_VALUES))
    columns |= {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(_VALUES.items())}
    columns["questions"] = list(codes)
    arrays = [pa.array([columns[name]], kind) for name, kind in _COLUMNS.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=schema(label_set))


@functools.cache
def _parser_key(names: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> bytes:
    """A hash of this file's format, the labels and the parser's source, so that another version's index is rebuilt."""
    digest = hashlib.blake2b(f"{_FORMAT} {names} {aliases}".encode(), digest_size=16)
    for source in (ssgqa.__file__, labels.__file__, __file__):
        with contextlib.suppress(OSError):
            digest.update(Path(source or "").read_bytes())
    return digest.hexdigest().encode()


def schema(label_set: LabelSet = SSG_QA) -> pa.Schema:
    """The columns' names and types; the metadata identifies the format and the parser."""
    key = _parser_key(label_set.labels, tuple(sorted(label_set.aliases.items())))
    return pa.schema(_COLUMNS, metadata={b"surgvivqa": key})
