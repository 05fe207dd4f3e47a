"""Accuracy inside and outside of real strata, such as frames with smoke, given by a table of frame flags."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgvivqa.evaluation.estimates import Estimate, count_by_video, estimate, format_interval, format_percent
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import check_regular_file, read_json

Frame = tuple[str, int]
_TRUE, _FALSE, _UNKNOWN = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no"), ("", "null", "none", "na", "nan")
_MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class FlagTable:
    """Flags of frames.

    Attributes:
        source: name of the file.
        flags: names of the flags, in the order of the file.
        frames: by frame, the value of each flag; None where it is not known.
    """

    source: str
    flags: tuple[str, ...]
    frames: Mapping[Frame, tuple[bool | None, ...]]


@dataclass(frozen=True)
class StratumRow:
    """The frames with a flag beside those without it.

    Attributes:
        flag: the flag.
        n_inside: number of questions about frames with the flag.
        n_outside: number of questions about frames without it; frames for which it is not known are in neither.
        frames_inside: number of frames with the flag.
        frames_outside: number of frames without it.
        inside: accuracy on the frames with the flag, over all videos.
        outside: accuracy on the frames without it, over all videos.
        difference: mean over videos of the difference between the accuracies within the video, inside minus outside,
            with its t-interval. It compares frames of the same operation.
        videos: number of videos with frames of both kinds, which ``difference`` is about.
    """

    flag: str
    n_inside: int
    n_outside: int
    frames_inside: int
    frames_outside: int
    inside: Estimate
    outside: Estimate
    difference: Estimate
    videos: int


@dataclass(frozen=True)
class Strata:
    """The section ``strata`` of ``metrics.json``.

    Attributes:
        source: name of the table's file.
        frames: number of evaluated frames that are in the table.
        frames_not_listed: number of evaluated frames that are not in the table, and are left out.
        n: number of questions about frames in the table.
        n_not_listed: number of questions that are left out.
        rows: one for each flag, in the order of the table.
    """

    source: str
    frames: int
    frames_not_listed: int
    n: int
    n_not_listed: int
    rows: list[StratumRow]


def read_flag_table(path: Path) -> FlagTable:
    """Reads a table of frame flags: CSV with a header, or a JSON list of objects.

    The columns ``video`` and ``frame`` name the frame as the question files do, or ``frame`` the image's file; every
    other column is a flag, with the values true, false, 1, 0 (also 1.0 and 0.0, which a table with unknown values may
    have), yes and no. An empty value means that it is not known. CSV may have semicolons or tabs in place of commas.

    Raises:
        InputError: the file cannot be read, a column is missing, a value is not a flag, or a frame occurs twice.
    """
    try:
        rows = _read_json_rows(path) if path.suffix.lower() == ".json" else _read_csv_rows(path)
    except OSError as error:
        raise InputError(f"--strata {path} cannot be read ({error.strerror}).") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"--strata {path} cannot be read as a table ({str(error)[:120]}).") from None
    if not rows:
        raise InputError(f"--strata {path} has no row; it needs one for each frame, with video, frame and the flags.")
    names = list(dict.fromkeys(str(name) for _, row in rows for name in row))
    if missing := [name for name in ("video", "frame") if name not in names]:
        raise InputError(f"--strata {path} has no column {missing[0]}; it needs video, frame and one for each flag.")
    flags = tuple(name for name in names if name not in ("video", "frame"))
    if not flags:
        raise InputError(f"--strata {path} has no flag besides video and frame, such as a column smoke with 0 and 1.")
    frames: dict[Frame, tuple[bool | None, ...]] = {}
    for place, row in rows:
        where = f"--strata {path}, {place}"
        frame = _parse_frame(row, where)
        if frame in frames:
            raise InputError(f"{where}: {frame[0]} frame {frame[1]} occurs a second time; keep one row for a frame.")
        frames[frame] = tuple(_parse_flag(row.get(flag), flag, where) for flag in flags)
    return FlagTable(path.name, flags, frames)


def check_overlap(table: FlagTable, frames: Iterable[Frame]) -> None:
    """Checks that the table names some of the frames.

    Raises:
        InputError: it names none.
    """
    wanted = list(frames)
    if not any(frame in table.frames for frame in wanted):
        videos = ", ".join(sorted({video for video, _ in wanted})[:5])
        listed = ", ".join(sorted({video for video, _ in table.frames})[:5])
        raise InputError(
            f"--strata {table.source} names none of the {len(wanted)} frames that are evaluated (of {videos}; the "
            f"table has {listed or 'no frame'}); name videos and frames as the question files do."
        )


def compute_strata(table: FlagTable, predictions: Sequence[Prediction]) -> Strata:
    """Compares the accuracy inside and outside of each flag."""
    listed = [p for p in predictions if (p.video, p.frame) in table.frames]
    frames, all_frames = ({(p.video, p.frame) for p in some} for some in (listed, predictions))
    return Strata(
        source=table.source,
        frames=len(frames),
        frames_not_listed=len(all_frames) - len(frames),
        n=len(listed),
        n_not_listed=len(predictions) - len(listed),
        rows=[_compute_row(table, index, listed) for index in range(len(table.flags))],
    )


def _compute_row(table: FlagTable, index: int, listed: Sequence[Prediction]) -> StratumRow:
    marked = [(p, table.frames[p.video, p.frame][index]) for p in listed]
    marked = [(p, value) for p, value in marked if value is not None]
    is_inside = [bool(value) for _, value in marked]
    correct = [p.correct for p, _ in marked]
    both = [inside and hit for inside, hit in zip(is_inside, correct, strict=True)]
    counts = count_by_video([p.video for p, _ in marked], [is_inside, both, correct])
    # n inside, correct inside, n outside, correct outside
    table4 = np.column_stack([counts[:, 1], counts[:, 2], counts[:, 0] - counts[:, 1], counts[:, 3] - counts[:, 2]])
    paired = table4[(table4[:, 0] > 0) & (table4[:, 2] > 0)]
    differences = paired[:, 1] / paired[:, 0] - paired[:, 3] / paired[:, 2]
    frames = [{(p.video, p.frame) for p, value in marked if value is kind} for kind in (True, False)]
    return StratumRow(
        flag=table.flags[index],
        n_inside=int(table4[:, 0].sum()),
        n_outside=int(table4[:, 2].sum()),
        frames_inside=len(frames[0]),
        frames_outside=len(frames[1]),
        inside=estimate(table4[table4[:, 0] > 0], lambda c: c[..., 1] / c[..., 0], 0, 1),
        outside=estimate(table4[table4[:, 2] > 0], lambda c: c[..., 3] / c[..., 2], 0, 1),
        # Each video counts once: its difference over 1.
        difference=estimate(
            np.column_stack([np.ones(len(paired)), differences]), lambda c: c[..., 1] / c[..., 0], -1, 1
        ),
        videos=len(paired),
    )


def format_strata(strata: Strata) -> str:
    """The section as a table in %: accuracy with and without each flag, and the paired difference."""
    lines = [
        f"{'frames':<18}{'n with':>8}{'acc':>7}{'n without':>11}{'acc':>7}{'diff':>7}{'95% interval':>18}{'videos':>8}"
    ]
    for row in strata.rows:
        lines.append(
            f"{row.flag[:17]:<18}{row.n_inside:>8}{format_percent(row.inside):>7}{row.n_outside:>11}"
            f"{format_percent(row.outside):>7}{format_percent(row.difference):>7}{format_interval(row.difference):>18}"
            f"{row.videos:>8}"
        )
    if strata.frames_not_listed:
        lines.append(
            f"left out: {strata.n_not_listed} questions on {strata.frames_not_listed} frames that {strata.source} does "
            f"not name"
        )
    return "\n".join(lines)


def _read_csv_rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    check_regular_file(path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
    text = path.read_text(encoding="utf-8-sig")
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # names of columns have none of them
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names = [name.strip() for name in reader.fieldnames or ()]
    if len(set(names)) < len(names):
        raise ValueError("its header names a column twice")
    reader.fieldnames = names
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has another number of values than the header")
        rows.append((f"line {reader.line_num}", row))
    return rows


def _read_json_rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("it is not a list of objects")
    return [(f"entry {number}", row) for number, row in enumerate(content, 1)]


def _parse_frame(row: Mapping[str, Any], where: str) -> Frame:
    video, frame = row.get("video"), row.get("frame")
    text = str(frame).strip().removesuffix(".png")
    if not isinstance(video, str) or not video.strip():
        raise InputError(f"{where}: video is {video!r}, not a name such as VID02.")
    if isinstance(frame, bool) or not text.isdecimal() or len(text) > 18:
        raise InputError(f"{where}: frame is {frame!r}, not a number such as 12.")
    return video.strip(), int(text)


def _parse_flag(value: Any, flag: str, where: str) -> bool | None:
    text = "" if value is None else str(value).strip().lower()
    if text in _UNKNOWN:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise InputError(f"{where}: {flag} is {value!r}, not true, false, 1 or 0; leave out columns that are not flags.")
