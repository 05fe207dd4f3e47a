"""The question index: the text tree parsed once into one Arrow file, mapped into memory from then on.

The file is Arrow IPC without compression, not Parquet: its columns are used where they lie in the page cache, so opening
decodes nothing and DataLoader workers share the same pages, where Parquet would be decoded into each process's own
memory. There is one file a root with one record batch a video, so the splits share it, a changed video is parsed
alone, and the questions of a split that is not asked for are never looked at.

A batch has one row: ``about`` (JSON: the video, the fingerprint of its files, its frame numbers, its report), ``counts``
(questions of each frame), ``code``, ``answer``, ``label``, ``reasoning``, ``type``, ``line`` (one value a question, in
file order), ``questions`` (the distinct question strings that ``code`` indexes) and ``crc`` over all the others.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from surgvivqa import labels
from surgvivqa.data import ssgqa
from surgvivqa.data.ssgqa import REASONINGS, TYPES, Frame, Question, ReadReport
from surgvivqa.errors import InputError

_FORMAT = 1
_MANY_FILES = 2000  # from here on several processes parse
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT, some network ones)
_VALUES = {"code": "int32", "answer": "int16", "label": "int8", "reasoning": "int8", "type": "int8", "line": "int32"}
_COLUMNS = {
    "about": pa.string(),
    "counts": pa.large_list(pa.int32()),
    **{name: pa.large_list(getattr(pa, kind)()) for name, kind in _VALUES.items()},
    "questions": pa.large_list(pa.large_string()),
    "crc": pa.uint32(),
}
log = logging.getLogger("surgvivqa")


@dataclass(frozen=True)
class _Files:
    """A video's question files as they lie on disk. ``settled``: none was touched in the last two seconds."""

    numbers: tuple[int, ...]
    fingerprint: str
    settled: bool


class _Video:
    """One video's record batch: views of its columns, nothing copied."""

    def __init__(self, batch: pa.RecordBatch, path: Path | None = None) -> None:
        self.batch, self.path = batch, path
        self.about: dict[str, Any] = json.loads(batch.column("about")[0].as_py())
        self.video: str = self.about["video"]
        self.numbers: list[int] = self.about["frames"]
        self.values = {name: batch.column(name).values.to_numpy() for name in _VALUES}
        self.counts: np.ndarray = batch.column("counts").values.to_numpy()
        self.starts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        # A question is cut from the mapped bytes when it is asked for: no table of Python strings is held.
        _, offsets, text = batch.column("questions").values.buffers()
        self._offsets = np.frombuffer(offsets, np.int64) if offsets is not None else np.zeros(1, np.int64)
        self._text = memoryview(text) if text is not None else memoryview(b"")
        self.distinct = len(batch.column("questions").values)

    def text(self, code: int) -> str:
        """The question string of a code."""
        return str(self._text[self._offsets[code] : self._offsets[code + 1]], "utf-8")

    def frame(self, row: int) -> Frame:
        """One frame with its questions."""
        number, answers = self.numbers[row], self.about["answers"]
        part = slice(self.starts[row], self.starts[row + 1])
        columns = (self.values[name][part].tolist() for name in _VALUES)
        return Frame(
            self.video,
            number,
            tuple(
                Question(
                    self.video,
                    number,
                    self.text(code),
                    answers[answer],
                    label,
                    REASONINGS[reasoning] if reasoning >= 0 else None,
                    TYPES[kind] if kind >= 0 else None,
                    line,
                )
                for code, answer, label, reasoning, kind, line in zip(*columns, strict=True)
            ),
        )

    def report(self) -> ReadReport:
        """What was read and left out in this video."""
        kept = self.about["report"]
        report = ReadReport(examples={k: list(v) for k, v in kept["examples"].items()})
        report.files, report.lines, report.questions = kept["files"], kept["lines"], kept["questions"]
        report.skipped.update(kept["skipped"])
        return report

    def crc(self) -> int:
        """CRC-32 over the batch's content."""
        used = self._offsets[: self.distinct + 1]
        parts = [np.frombuffer(self.batch.column("about")[0].as_py().encode(), np.uint8), self.counts, used]
        parts += [*self.values.values(), np.frombuffer(self._text[: used[-1]], np.uint8)]
        return functools.reduce(lambda crc, part: zlib.crc32(np.ascontiguousarray(part).view(np.uint8), crc), parts, 0)


class Frames(Sequence[Frame]):
    """The frames of a split in order, each built when it is asked for.

    Slices and ``joined`` are lazy too. A pickle holds the index file's path and the selection; whoever loads it maps
    the file again. Where there is no file (no folder could be written) it holds the columns themselves.
    """

    def __init__(self, root: Path = Path(), videos: Iterable[_Video] = ()) -> None:
        self._root, self._videos = root, list(videos)
        self._video = np.repeat(np.arange(len(self._videos)), [len(v.numbers) for v in self._videos])
        self._row = np.concatenate([np.arange(len(v.numbers)) for v in self._videos] or [np.zeros(0, np.int64)])

    @classmethod
    def joined(cls, pieces: Iterable["Frames"]) -> "Frames":
        """The frames of all pieces, one after the other."""
        whole = cls()
        for piece in pieces:
            whole._root = piece._root if piece._videos else whole._root
            whole._video = np.concatenate([whole._video, piece._video + len(whole._videos)])
            whole._row = np.concatenate([whole._row, piece._row])
            whole._videos += piece._videos
        return whole

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> "Frames": ...
    def __getitem__(self, index: int | slice) -> "Frame | Frames":
        if not isinstance(index, slice):
            return self._videos[self._video[index]].frame(self._row[index])
        some = Frames(self._root)
        some._videos, some._video, some._row = self._videos, self._video[index], self._row[index]
        return some

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    @property
    def counts(self) -> np.ndarray:
        """Questions of each frame, ``[frames]`` int32."""
        counts = np.zeros(len(self), np.int32)
        for index, video in enumerate(self._videos):
            here = self._video == index
            counts[here] = video.counts[self._row[here]]
        return counts

    def names(self) -> Iterator[tuple[str, int]]:
        """Video and number of each frame, without its questions."""
        for index, row in zip(self._video.tolist(), self._row.tolist(), strict=True):
            yield self._videos[index].video, self._videos[index].numbers[row]

    def unique_questions(self) -> list[str]:
        """Each distinct question once, in the order of the index."""
        seen: dict[str, None] = {}
        for index, video in enumerate(self._videos):
            rows = self._row[self._video == index]
            used = np.zeros(video.distinct, bool)
            if len(rows) == len(video.numbers) and len(np.unique(rows)) == len(rows):
                used[:] = True  # whole videos are the rule, and each of their strings occurs in some frame
            else:
                for row in rows:
                    used[video.values["code"][video.starts[row] : video.starts[row + 1]]] = True
            seen.update(dict.fromkeys(video.text(code) for code in np.flatnonzero(used)))
        return list(seen)

    def __getstate__(self) -> dict[str, Any]:
        sources = [
            v.batch if v.path is None else (v.path, v.video, v.about["fingerprint"], v.about["settled"])
            for v in self._videos
        ]
        return {"root": self._root, "sources": sources, "video": self._video, "row": self._row}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._root, self._video, self._row = state["root"], state["video"], state["row"]
        self._videos = []
        wanted: dict[Path, dict[str, _Files]] = {}
        for source in state["sources"]:
            if isinstance(source, tuple):
                wanted.setdefault(source[0], {})[source[1]] = _Files((), *source[2:])
        mapped = {path: _mapped(path, files) for path, files in wanted.items()}
        for source in state["sources"]:
            if not isinstance(source, tuple):
                self._videos.append(_Video(source))
                continue
            path, video, fingerprint, _ = source
            if video not in mapped[path]:
                # Another process has replaced or removed the file: the text gives the same columns again.
                mapped[path][video] = _Video(_parsed(self._root, video, _scanned(self._root / video)))
            if mapped[path][video].about["fingerprint"] != fingerprint:
                raise InputError(f"The question files in {self._root / video} changed during the run; start it again.")
            self._videos.append(mapped[path][video])


def question_counts(frames: Sequence[Frame]) -> list[int]:
    """Questions of each frame."""
    return frames.counts.tolist() if isinstance(frames, Frames) else [len(f.questions) for f in frames]


def distinct_questions(frames: Iterable[Frame]) -> list[str]:
    """Each distinct question once, in the order of first appearance."""
    if isinstance(frames, Frames):
        return frames.unique_questions()
    return list(dict.fromkeys(q.question for f in frames for q in f.questions))


def frame_names(frames: Iterable[Frame]) -> Iterator[tuple[str, int]]:
    """Video and number of each frame."""
    return frames.names() if isinstance(frames, Frames) else ((f.video, f.frame) for f in frames)


def open_questions(
    root: str | Path, videos: Sequence[str], *, strict: bool = False, index_dir: Path | None = None
) -> tuple[Frames, ReadReport]:
    """What ``ssgqa.read_split`` gives, from the index; the videos that it lacks or that have changed are parsed first.

    A video is unchanged where the names, sizes, modification times and status-change times of its question files are.
    Files touched less than two seconds before they were read are read again the next time, since a second write in the
    same tick of the clock would not show.

    Args:
        root: ``<root>/<VIDxx>/<frame>.txt``.
        videos: names of the videos; nothing else under the root is read.
        strict: an unknown answer or a file that is no text is an error.
        index_dir: folder of the index files; None takes ``$SURGVIVQA_CACHE/index`` or ``~/.cache/surgvivqa/index``.
            Where it cannot be written, the text is parsed into memory each time, and the log says so once.

    Raises:
        InputError: as ``read_split`` does.
    """
    root = Path(root)
    names = ssgqa.present_videos(root, videos)
    path = _index_path(root, index_dir)
    files = {name: _scanned(root / name) for name in names}
    found = _mapped(path, {name: f for name, f in files.items() if f is not None and f.settled}) if path else {}
    stale = {name: f for name, f in files.items() if name not in found}
    if stale:
        parsed = {video.video: video for video in map(_Video, _parse_all(root, stale))}
        if path is None or not _written(path, parsed):
            found |= parsed
        else:
            # The file rather than the parser's own columns, so that the memory is shared with the workers.
            found |= parsed | _mapped(path, {n: f for n, f in stale.items() if f is not None})
    report = ReadReport()
    for name in names:
        report.add(found[name].report())
    ssgqa.refuse_no_file(root, videos, report)
    if strict and (report.skipped["not_text"] or report.skipped["unknown_answer"]):
        ssgqa.read_split(root, videos, strict=True)  # raises, naming the first one
        return open_questions(root, videos, strict=strict, index_dir=index_dir)  # the file was put right meanwhile
    return Frames(root, [found[name] for name in names]), report


def _index_path(root: Path, index_dir: Path | None) -> Path | None:
    """The root's index file. The root as it was spelled counts as well: the report's examples show it."""
    try:
        folder = index_dir or Path(os.environ.get("SURGVIVQA_CACHE") or Path.home() / ".cache" / "surgvivqa") / "index"
    except RuntimeError:  # no home folder
        return None
    spelled = os.fsencode(root.resolve()) + b"\0" + os.fsencode(root)
    return folder / f"{hashlib.blake2b(spelled, digest_size=16).hexdigest()}.arrow"


def _scanned(folder: Path) -> _Files | None:
    """The state of a video's question files, or None where it cannot be had: then the parser says what is wrong."""
    now, newest = time.time_ns(), 0
    entries = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                number = ssgqa.frame_number(entry.name)
                if number is not None:
                    stat = entry.stat()
                    newest = max(newest, stat.st_ctime_ns, stat.st_mtime_ns)
                    entries.append((number, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError:
        return None
    entries.sort()
    digest = hashlib.blake2b(repr(entries).encode(), digest_size=16).hexdigest()
    return _Files(tuple(e[0] for e in entries), digest, newest + _SETTLED_NS < now)


@functools.cache
def _parser_key() -> bytes:
    """Names this file format and the parser whose results are kept, by its source: nobody has to bump a number."""
    digest = hashlib.blake2b(f"{_FORMAT} {labels.LABELS} {labels.ALIASES}".encode(), digest_size=16)
    for module in (ssgqa, labels):
        with contextlib.suppress(OSError):
            digest.update(Path(module.__file__ or "").read_bytes())
    return digest.hexdigest().encode()


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The record batches of an index file; none where it is missing, damaged or another parser's."""
    # Several kinds of error, for the bytes of a damaged file may say anything; the text tree is the truth.
    with contextlib.suppress(OSError, pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.equals(_schema(), check_metadata=True):
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                batch.validate(full=True)
                yield batch


def _mapped(path: Path, wanted: Mapping[str, _Files]) -> dict[str, _Video]:
    """The wanted videos that an index file holds whole and in the wanted state."""
    found = {}
    for batch in _batches(path):
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError):
            video = _Video(batch, path)
            files = wanted.get(video.video)
            same = files is not None and video.about["fingerprint"] == files.fingerprint
            # What was read too soon after a write serves the run that read it (settled False) and no later one.
            if same and files and video.about["settled"] >= files.settled and video.crc() == batch["crc"][0].as_py():
                found[video.video] = video
    return found


def _written(path: Path, parsed: Mapping[str, _Video]) -> bool:
    """Puts videos into an index file beside what it holds, by rename; False, and one line in the log, if it cannot."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _schema()) as writer:
                for batch in _batches(path):
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        if json.loads(batch["about"][0].as_py())["video"] not in parsed:
                            writer.write_batch(batch)
                for video in parsed.values():
                    writer.write_batch(video.batch)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        _say_once(f"The question index cannot be written in {path.parent} ({error}); set SURGVIVQA_CACHE to a folder.")
        return False
    return True


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)


def _schema() -> pa.Schema:
    return pa.schema(_COLUMNS, metadata={b"surgvivqa": _parser_key()})


def _parse_all(root: Path, stale: Mapping[str, _Files | None]) -> list[pa.RecordBatch]:
    """The record batch of each video, in order; several processes where there are many files, the same result."""
    arguments = [root] * len(stale), list(stale), list(stale.values())
    many = sum(len(f.numbers) for f in stale.values() if f) >= _MANY_FILES
    console = Console(stderr=True)
    shown = functools.partial(
        track, description="index", total=len(stale), console=console, disable=not many or not console.is_terminal
    )
    workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(stale))
    if many and workers > 1 and not current_process().daemon:  # a daemon (a DataLoader's worker) has no children
        with contextlib.suppress(BrokenProcessPool), ProcessPoolExecutor(workers) as pool:
            return list(shown(pool.map(_parsed, *arguments)))
    return list(shown(map(_parsed, *arguments)))


def _parsed(root: Path, video: str, files: _Files | None) -> pa.RecordBatch:
    """Parses one video."""
    numbers = files.numbers if files else ssgqa.question_files(root / video)
    report = ReadReport()
    codes: dict[str, int] = {}
    answers: dict[str, int] = {}
    kept: list[Frame] = []
    rows: list[tuple[int, ...]] = []
    for number in numbers:
        frame = ssgqa.read_file(root / video / f"{number}.txt", video, number, report)
        if frame is not None:
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
            kept.append(frame)
    about = {
        "video": video,
        "fingerprint": files.fingerprint if files else "",
        "settled": files is not None and files.settled,
        "frames": [f.frame for f in kept],
        "answers": list(answers),
        "report": asdict(report),
    }
    columns: dict[str, Any] = {"about": json.dumps(about), "counts": [len(f.questions) for f in kept]}
    table = np.array(rows, np.int32).reshape(-1, len(_VALUES))
    columns |= {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(_VALUES.items())}
    columns |= {"questions": list(codes), "crc": 0}
    arrays = {name: pa.array([columns[name]], kind) for name, kind in _COLUMNS.items()}
    arrays["crc"] = pa.array([_Video(_batch(arrays)).crc()], pa.uint32())
    return _batch(arrays)


def _batch(arrays: Mapping[str, pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(arrays.values()), schema=_schema())
