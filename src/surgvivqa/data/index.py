"""The question index: the text files are parsed once into one Arrow file, which later runs map into memory.

The file is an Arrow IPC stream without compression. Opening it decodes nothing, and DataLoader workers share its pages;
Parquet would be decoded into the memory of each process. There is one file per root with one record batch per video
(``columns``), so all splits use the same file, and only a changed video is parsed again. A checksum follows the end of
the stream, where Arrow's readers do not look.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import current_process
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from surgvivqa.data import ssgqa
from surgvivqa.data.columns import QuestionFiles, VideoColumns, parse_video, schema
from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.ssgqa import FrameQuestions, ReadReport
from surgvivqa.utils.atomic_files import atomic_path
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.warn_once import warn_once

_MANY_FILES = 2000  # with more files several processes parse
_DIGEST = 16  # bytes of the checksum at the end of a file
_SETTLED_NS = 2_000_000_000  # the coarsest clock of file systems in use (FAT, some network ones)


class IndexedFrames(Sequence[FrameQuestions]):
    """The frames of a split in order; each is built on access. Slices and ``concatenate`` are lazy too.

    A pickle holds the path of the index file and the selection, and maps the file again when it is loaded. If there is
    no index file, it holds the columns.
    """

    def __init__(self, videos: Iterable[VideoColumns] = ()) -> None:
        self._videos = list(videos)
        lengths = [len(v.numbers) for v in self._videos]
        # Frame i is row _row[i] of video _video[i].
        self._video = np.repeat(np.arange(len(lengths)), np.array(lengths, np.int64))
        self._row = np.concatenate([np.zeros(0, np.int64), *map(np.arange, lengths)])

    @classmethod
    def concatenate(cls, pieces: Iterable["IndexedFrames"]) -> "IndexedFrames":
        """The frames of all pieces, one after the other."""
        whole = cls()
        for piece in pieces:
            whole._video = np.concatenate([whole._video, piece._video + len(whole._videos)])
            whole._row = np.concatenate([whole._row, piece._row])
            whole._videos += piece._videos
        return whole

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, index: int) -> FrameQuestions: ...
    @overload
    def __getitem__(self, index: slice) -> "IndexedFrames": ...
    def __getitem__(self, index: int | slice) -> "FrameQuestions | IndexedFrames":
        if not isinstance(index, slice):
            return self._videos[self._video[index]].build_frame(self._row[index])
        selected = IndexedFrames()
        selected._videos, selected._video, selected._row = self._videos, self._video[index], self._row[index]
        return selected

    def __iter__(self) -> Iterator[FrameQuestions]:
        return (self[i] for i in range(len(self)))

    @property
    def counts(self) -> np.ndarray:
        """Questions of each frame, ``[frames]`` int32."""
        counts = np.zeros(len(self), np.int32)
        for index, video in enumerate(self._videos):
            is_of_video = self._video == index
            counts[is_of_video] = video.counts[self._row[is_of_video]]
        return counts

    def names(self) -> Iterator[tuple[str, int]]:
        """Video and number of each frame, without its questions."""
        for index, row in zip(self._video.tolist(), self._row.tolist(), strict=True):
            yield self._videos[index].video, self._videos[index].numbers[row]

    def checksum(self) -> int:
        """CRC-32 of the frames, their questions and their labels."""
        crc = 0
        for video, rows, is_selected in self._selections():
            codes, inverse = np.unique(video.values["code"][is_selected], return_inverse=True)
            crc = zlib.crc32(json.dumps([video.video, video.question_texts(codes)]).encode(), crc)
            for column in (np.asarray(video.numbers)[rows], rows, inverse, video.values["label"][is_selected]):
                crc = zlib.crc32(np.ascontiguousarray(column, np.int64).tobytes(), crc)
        return crc

    def unique_questions(self) -> list[str]:
        """Each distinct question once, in the order of the index."""
        seen: dict[str, None] = {}
        for video, _, is_selected in self._selections():
            codes = np.unique(video.values["code"][is_selected])
            seen.update(dict.fromkeys(video.question_texts(codes)))
        return list(seen)

    def _selections(self) -> Iterator[tuple[VideoColumns, np.ndarray, np.ndarray]]:
        """For each video, its columns, the selected rows, and ``[questions]`` bool, whether a question is selected."""
        for index, video in enumerate(self._videos):
            rows = self._row[self._video == index]
            is_selected = np.zeros(len(video.numbers), bool)
            is_selected[rows] = True
            yield video, rows, np.repeat(is_selected, video.counts)

    def __getstate__(self) -> dict[str, Any]:
        sources = [v.batch if v.path is None else (v.path, v.video, v.files) for v in self._videos]
        about = [(v.root, v.label_set) for v in self._videos]
        return {"sources": sources, "about": about, "video": self._video, "row": self._row}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._video, self._row, self._videos = state["video"], state["row"], []
        mapped: dict[Path, dict[str, VideoColumns]] = {}
        pairs = list(zip(state["about"], state["sources"], strict=True))
        for path, (root, label_set) in {s[0]: about for about, s in pairs if isinstance(s, tuple)}.items():
            wanted = {s[1]: s[2] for _, s in pairs if isinstance(s, tuple) and s[0] == path}
            mapped[path] = _map_videos(path, root, wanted, label_set)
        for (root, label_set), source in pairs:
            if not isinstance(source, tuple):
                self._videos.append(VideoColumns(source, root, label_set=label_set))
                continue
            path, video, files = source
            if video not in mapped[path]:
                # Another process has replaced or removed the index file; unchanged text gives the same columns.
                batch = parse_video(root, video, _scan(root / video), label_set)
                parsed = VideoColumns(batch, root, label_set=label_set)
                if parsed.files.fingerprint != files.fingerprint:
                    raise InputError(f"The question files in {root / video} changed during the run; start it again.")
                mapped[path][video] = parsed
            self._videos.append(mapped[path][video])


def concatenate_frames(pieces: Sequence[Sequence[FrameQuestions]]) -> Sequence[FrameQuestions]:
    """The frames of all pieces, one after the other; lazy if they all come from the index."""
    filled = [piece for piece in pieces if len(piece)]
    indexed = [piece for piece in filled if isinstance(piece, IndexedFrames)]
    if len(indexed) == len(filled):
        return IndexedFrames.concatenate(indexed)
    return [frame for piece in filled for frame in piece]


def question_counts(frames: Sequence[FrameQuestions]) -> list[int]:
    """Questions of each frame."""
    return frames.counts.tolist() if isinstance(frames, IndexedFrames) else [len(f.questions) for f in frames]


def questions_checksum(frames: Sequence[FrameQuestions]) -> int:
    """CRC-32 of frames, their questions and their labels. A list gives another value than the index."""
    if isinstance(frames, IndexedFrames):
        return frames.checksum()
    crc = 0
    for frame in frames:
        questions = [(q.question, q.label) for q in frame.questions]
        crc = zlib.crc32(json.dumps([frame.video, frame.frame, questions]).encode(), crc)
    return crc


def distinct_questions(frames: Iterable[FrameQuestions]) -> list[str]:
    """Each distinct question once, in the order of first appearance."""
    if isinstance(frames, IndexedFrames):
        return frames.unique_questions()
    return list(dict.fromkeys(q.question for f in frames for q in f.questions))


def frame_names(frames: Iterable[FrameQuestions]) -> Iterator[tuple[str, int]]:
    """Video and number of each frame."""
    return frames.names() if isinstance(frames, IndexedFrames) else ((f.video, f.frame) for f in frames)


def subsample(frames: Sequence[FrameQuestions], max_questions: int | None) -> Sequence[FrameQuestions]:
    """At most ``max_questions`` questions, from evenly spaced frames; deterministic. None keeps all."""
    total = sum(question_counts(frames))
    if max_questions is None or total <= max_questions:
        return frames
    wanted = max(1, round(len(frames) * max_questions / total))
    return _first_questions(frames, np.linspace(0, len(frames) - 1, wanted).round().astype(int), max_questions)


def draw_subsample(frames: Sequence[FrameQuestions], max_questions: int, seed: int) -> list[FrameQuestions]:
    """At most ``max_questions`` questions, from frames in a random order; the last frame may be incomplete."""
    return _first_questions(frames, np.random.default_rng(seed).permutation(len(frames)), max_questions)


def _first_questions(
    frames: Sequence[FrameQuestions], order: Iterable[int], max_questions: int
) -> list[FrameQuestions]:
    """The first questions of frames in an order; the last frame may be incomplete."""
    selected, remaining = [], max_questions
    for index in order:
        if remaining <= 0:
            break
        frame = frames[index]
        selected.append(FrameQuestions(frame.video, frame.frame, frame.questions[:remaining]))
        remaining -= len(selected[-1].questions)
    return selected


def open_questions(
    root: str | Path,
    videos: Sequence[str],
    *,
    strict: bool = False,
    index_dir: Path | None = None,
    label_set: LabelSet = SSG_QA,
) -> tuple[IndexedFrames, ReadReport]:
    """Reads the questions of videos as ``ssgqa.read_split`` does, but from the index.

    New and changed videos are parsed first.

    A video is unchanged if the names, sizes, modification times and status-change times of its question files are.
    Files that were changed less than two seconds before they were read are read again the next time, since a second
    change within the clock's resolution would not show.

    Args:
        root: ``<root>/<VIDxx>/<frame>.txt``.
        videos: names of the videos; nothing else under the root is read.
        strict: lines and files of the reasons in ``ssgqa.STRICT_FAULTS`` are an error.
        index_dir: folder of the index files; None takes ``$SURGVIVQA_CACHE/index`` or ``~/.cache/surgvivqa/index``.
            If it cannot be written, the text is parsed each time, and the log says so once.
        label_set: the labels; a line with another answer is left out. Each set has an index of its own.

    Raises:
        InputError: the root or a video's folder does not exist, there is no question file, or one cannot be read; under
            ``strict`` also a line or file with one of ``STRICT_FAULTS``.

    Returns:
        The frames, in the order of ``videos`` and by number, and the report about their files.
    """
    root = Path(root)
    names = ssgqa.find_videos(root, videos)
    path = _index_path(root, index_dir, label_set)
    files = {name: _scan(root / name) for name in names}
    columns: dict[str, VideoColumns] = {}
    if path:
        settled = {name: f for name, f in files.items() if f is not None and f.settled}
        columns = _map_videos(path, root, settled, label_set)
    stale = {name: f for name, f in files.items() if name not in columns}
    if stale:
        batches = _parse_all(root, stale, label_set)
        parsed = {c.video: c for c in (VideoColumns(batch, root, label_set=label_set) for batch in batches)}
        columns |= parsed
        if path and _write(path, parsed, label_set):
            # Mapped columns share their memory with the DataLoader workers.
            known = {name: f for name, f in stale.items() if f is not None}
            columns |= _map_videos(path, root, known, label_set)
    report = ReadReport()
    for name in names:
        report.add(columns[name].build_report())
    if strict and any(report.skipped[reason] or report.suspect[reason] for reason in ssgqa.STRICT_FAULTS):
        ssgqa.read_split(root, videos, strict=True, label_set=label_set)  # raises an error that names the first fault
        # The file has been fixed meanwhile.
        return open_questions(root, videos, strict=strict, index_dir=index_dir, label_set=label_set)
    ssgqa.check_any_file(root, videos, report)
    return IndexedFrames(columns[name] for name in names), report


def _index_path(root: Path, index_dir: Path | None, label_set: LabelSet) -> Path | None:
    """The index file of a root and a label set; of the root's spelling too, since examples in the report show it."""
    try:
        folder = index_dir or Path(os.environ.get("SURGVIVQA_CACHE") or "~/.cache/surgvivqa").expanduser() / "index"
    except RuntimeError:
        warn_once("There is no home folder for the question index; set SURGVIVQA_CACHE, or each start parses the text.")
        return None
    spelled = os.fsencode(root.resolve()) + b"\0" + os.fsencode(root)
    if label_set != SSG_QA:
        spelled += f"\0{label_set.name}\0{label_set.labels}".encode()
    return folder / f"{hashlib.blake2b(spelled, digest_size=16).hexdigest()}.arrow"


def _scan(folder: Path) -> QuestionFiles | None:
    """The state of a video's question files; None if they cannot be listed, and the parser will report why."""
    now, newest = time.time_ns(), 0
    entries, names = [], list[str]()
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                names.append(entry.name)
                number = ssgqa.parse_frame_number(entry.name)
                if number is not None:
                    stat = entry.stat()
                    newest = max(newest, stat.st_ctime_ns)
                    entries.append((number, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError:
        return None
    entries.sort()
    sorted_names = ssgqa.QuestionFileNames.sort(names)
    digest = hashlib.blake2b(
        repr((entries, sorted_names.others)).encode("utf-8", "replace"), digest_size=16
    ).hexdigest()
    return QuestionFiles(sorted_names, digest, newest + _SETTLED_NS < now)


def _read_batches(path: Path, label_set: LabelSet = SSG_QA) -> list[pa.RecordBatch]:
    """The record batches of an index file, mapped; empty if it is missing, damaged, or of another version."""
    # Arrow does not check what it maps: a flipped bit could make it read outside the file.
    faults = (ValueError, KeyError, TypeError, AttributeError, IndexError)  # from a forged file
    with contextlib.suppress(OSError, pa.ArrowException, *faults):
        raw = pa.memory_map(str(path)).read_buffer()
        if raw.size > _DIGEST and _digest(raw[:-_DIGEST]) == raw[-_DIGEST:].to_pybytes():
            reader = pa.ipc.open_stream(raw[:-_DIGEST])
            if reader.schema.equals(schema(label_set), check_metadata=True):
                batches = list(reader)
                if all(VideoColumns(batch, Path(), path, label_set).is_valid() for batch in batches):
                    return batches
    return []


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _map_videos(
    path: Path, root: Path, wanted: Mapping[str, QuestionFiles], label_set: LabelSet
) -> dict[str, VideoColumns]:
    """The videos of ``wanted`` that an index file holds, if their files have not changed."""
    unchanged = {}
    for video in (VideoColumns(batch, root, path, label_set) for batch in _read_batches(path, label_set)):
        files = wanted.get(video.video)
        # Files that were not settled when they were read are used by that run only.
        if files and video.files.fingerprint == files.fingerprint and video.files.settled >= files.settled:
            unchanged[video.video] = video
    return unchanged


def _write(path: Path, parsed: Mapping[str, VideoColumns], label_set: LabelSet) -> bool:
    """Adds videos to an index file, atomically. Returns False, after a warning, if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, durable=False, shared=True) as temporary:
            others = [b for b in _read_batches(path, label_set) if VideoColumns(b, Path()).video not in parsed]
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, schema(label_set)) as writer:
                for batch in [*others, *(video.batch for video in parsed.values())]:
                    writer.write_batch(batch)
            digest = _digest(pa.memory_map(str(temporary)).read_buffer())
            with temporary.open("ab") as file:
                file.write(digest)
    except OSError as error:
        warn_once(
            f"The question index cannot be written in {path.parent} ({error.strerror or error}); set SURGVIVQA_CACHE "
            f"to a folder, or each start parses the text."
        )
        return False
    return True


def _parse_all(root: Path, stale: Mapping[str, QuestionFiles | None], label_set: LabelSet) -> list[pa.RecordBatch]:
    """The record batch of each video, in order; several processes parse them if there are many files."""
    arguments = [root] * len(stale), list(stale), list(stale.values()), [label_set] * len(stale)
    many = sum(len(f.names.numbers) for f in stale.values() if f) >= _MANY_FILES
    workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(stale))
    if many and workers > 1 and not current_process().daemon:  # a daemon (a DataLoader worker) cannot have children
        with contextlib.suppress(BrokenProcessPool), ProcessPoolExecutor(workers) as pool:
            return list(_show_progress(pool.map(parse_video, *arguments), len(stale), is_visible=many))
    return list(_show_progress(map(parse_video, *arguments), len(stale), is_visible=many))


def _show_progress(batches: Iterable[pa.RecordBatch], total: int, *, is_visible: bool) -> Iterable[pa.RecordBatch]:
    """The batches, with a progress bar if standard error is a terminal."""
    console = Console(stderr=True)
    return track(batches, "index", total, console=console, disable=not is_visible or not console.is_terminal)
