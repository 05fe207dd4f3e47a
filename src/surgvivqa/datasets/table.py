"""The table that every data set becomes: one row per question, whatever its files look like."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa.data.picture_files import INNER, PictureFiles, fill_path, frame_number, is_inside, rule_by_number
from surgvivqa.datasets.description import ROW_FIELDS, DatasetDescription, FieldRule
from surgvivqa.datasets.records import Faults, Record

_VIDEO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SEPARATOR = ";"  # between the frames of a clip in a CSV


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question.

    Attributes:
        id: its id in the data set; empty if it has none.
        video: name of the video.
        frames: names or numbers of its frames as the data set writes them, oldest first.
        question: the question.
        answer: its short answer, one of the labels.
        long_answer: its answer as a sentence; None if it has none.
        type: its type; None if it has none.
        group: another group that it belongs to, such as the way in which an object is pointed out.
        box: the box that it is about, as the data set writes it; None if it has none.
        split: the split of its video as its file or line says; None if neither does.
        pair_id: what it shares with the same question in another wording; None if it has no other wording.
        wording: the name of its wording; None if there is one only.
        where: the file and line, for messages.
        line: number of the line in the file, from 1.
    """

    id: str
    video: str
    frames: tuple[str, ...]
    question: str
    answer: str
    long_answer: str | None
    type: str | None
    group: str | None
    box: str | None
    split: str | None
    pair_id: str | None
    wording: str | None
    where: str
    line: int


class RowError(ValueError):
    """A record that is no row, and why, as a phrase that follows its place."""


def build_rows(
    description: DatasetDescription, records: Iterable[Record], faults: Faults, dropped: list[QuestionRow]
) -> Iterator[QuestionRow]:
    """Builds the rows of records.

    Args:
        description: the data set.
        records: the records of its files.
        faults: gets the records that are no rows.
        dropped: gets the rows whose answers or frames the description leaves out.

    Raises:
        InputError: under ``faults.strict``, a record is no row.
    """
    rules = {name: description.fields.get(name, FieldRule.model_validate({"from": name})) for name in ROW_FIELDS}
    types = {kind: re.compile(pattern) for kind, pattern in description.types.items()}
    for record in records:
        try:
            row = _build_row(description, rules, types, record)
        except RowError as error:
            faults.add("malformed", record.where, str(error), record.file.split)
            continue
        if row.answer in description.drop_answers or _is_between(description, row):
            dropped.append(row)
        else:
            yield row


def _build_row(
    description: DatasetDescription,
    rules: Mapping[str, FieldRule],
    types: Mapping[str, re.Pattern[str]],
    record: Record,
) -> QuestionRow:
    values = {name: _find(record.values, rule) for name, rule in rules.items()}
    if values["frames"] is None:
        values["frames"] = record.values.get("frame")
    for name in ("video", "frames", "question", "answer"):
        if values[name] is None or (isinstance(values[name], str) and not values[name].strip()):
            raise RowError(f"has no {rules[name].name or name}")
    video, question = _text(values["video"], "video"), _text(values["question"], "question")
    if not _VIDEO_NAME.fullmatch(video):
        raise RowError(f"has the video {video[:40]!r}; a name has letters, digits, - and _ only")
    frames = _frames(values["frames"])
    if description.clip is not None and len(frames) != description.clip:
        raise RowError(f"has {len(frames)} frames, not {description.clip}")
    texts = {name: _optional(values[name], name) for name in ("long_answer", "type", "group", "split", "pair_id")}
    kind = texts["type"] or next((kind for kind, pattern in types.items() if pattern.search(question)), None)
    split = record.file.split or texts["split"]
    if split not in (None, "train", "val", "test"):
        raise RowError(f"has the split {split!r}, not train, val or test")
    wording = record.file.wording or _optional(values["wording"], "wording")
    row = QuestionRow(
        _optional(values["id"], "id") or "",
        video,
        frames,
        question,
        _text(values["answer"], "answer"),
        texts["long_answer"],
        kind,
        texts["group"],
        _optional(values["box"], "box"),
        split,
        texts["pair_id"],
        wording,
        record.where,
        record.line,
    )
    return row if row.pair_id is not None else _with_pair_id(description, row)


def _with_pair_id(description: DatasetDescription, row: QuestionRow) -> QuestionRow:
    """The row with the id of its pair, which follows from its line or from some of its columns."""
    if description.pairs is None or row.wording is None:
        return row
    if description.pairs == "line":
        parts = [row.split or "", str(row.line)]
    else:
        parts = [str(getattr(row, name)) if name != "frames" else ";".join(row.frames) for name in description.pairs]
    values = {name: getattr(row, name) for name in QuestionRow.__slots__}
    return QuestionRow(**{**values, "pair_id": ":".join(parts)})


def _is_between(description: DatasetDescription, row: QuestionRow) -> bool:
    """Whether a row's frame is one of those that the description leaves out."""
    if description.every == 1:
        return False
    number = frame_number(row.frames[-1])
    return number is None or number % description.every != 0


def _find(values: Mapping[str, Any], rule: FieldRule) -> Any:
    """The value that a rule finds in a record; None if there is none."""
    if rule.name is None:
        return rule.value
    found: Any = values.get(rule.name)
    if found is None and "." in rule.name:
        found = values
        for part in rule.name.split("."):
            if isinstance(found, Mapping):
                found = found.get(part)
            elif isinstance(found, Sequence) and not isinstance(found, str) and part.isdigit():
                found = found[int(part)] if int(part) < len(found) else None
            else:
                return None
    if found is None or rule.match is None:
        return found
    match = re.search(rule.match, _text(found, rule.name), re.DOTALL)
    if match is None:
        return None
    return match[1] if match.re.groups else match[0]


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"has a {name} that is not text")
    return str(value).strip()


def _optional(value: Any, name: str) -> str | None:
    """The text of a value; None if it is absent or empty. A list, such as a box, becomes text."""
    if value is None:
        return None
    if isinstance(value, list):
        value = ", ".join(str(part) for part in value)
    return _text(value, name) or None


def _frames(value: Any) -> tuple[str, ...]:
    """The names of a clip's frames: of a list, or of text with ``;`` between them."""
    if isinstance(value, list):
        frames = [_text(frame, "frame") for frame in value]
    else:
        frames = [frame.strip() for frame in _text(value, "frame").split(_SEPARATOR)]
    frames = [frame for frame in frames if frame]
    if not frames:
        raise RowError("has no frames")
    if unsafe := [frame for frame in frames if not is_inside(frame)]:
        raise RowError(f"has the frame {unsafe[0][:60]!r}, which is not a path below --image-root")
    return tuple(frames)


@dataclass(frozen=True)
class Clips:
    """The clips of a table.

    Attributes:
        numbers: video and frames of a clip to the clip's number in the video: its newest frame's number if that is
            different for all clips of the data set, otherwise a running number from 0.
        files: where their pictures are.
    """

    numbers: Mapping[tuple[str, tuple[str, ...]], int]
    files: PictureFiles


def number_clips(description: DatasetDescription, rows: Iterable[QuestionRow]) -> Clips:
    """Numbers the clips of a table and finds their pictures.

    Raises:
        ValueError: the description's rule gives no path for a frame.
    """
    by_video: dict[str, dict[tuple[str, ...], None]] = {}
    for row in rows:
        by_video.setdefault(row.video, {})[row.frames] = None
    rule = description.pictures
    if rule is None:
        all_numbers = all(name.isdecimal() for clips in by_video.values() for frames in clips for name in frames)
        rule = "{video}/{frame:06}.png" if all_numbers else "{frame}"
    own = {(v, f): frame_number(f[-1]) for v, clips in by_video.items() for f in clips}
    is_own = None not in own.values() and len({(v, number) for (v, _), number in own.items()}) == len(own)
    numbers: dict[tuple[str, tuple[str, ...]], int] = {}
    paths: dict[tuple[str, int], str] = {}
    clips: dict[tuple[str, int], tuple[int, ...]] = {}
    for video, found in by_video.items():
        inner: dict[str, int] = {}
        for running, frames in enumerate(found):
            number = own[video, frames] if is_own else running
            assert number is not None
            numbers[video, frames] = number
            paths[video, number] = fill_path(rule, video, frames[-1])
            if len(frames) > 1:
                older = [inner.setdefault(fill_path(rule, video, name), INNER + len(inner)) for name in frames[:-1]]
                clips[video, number] = (*older, number)
        paths.update({(video, number): path for path, number in inner.items()})
    has_rule = is_own and not clips and rule_by_number(rule)
    return Clips(numbers, PictureFiles(paths, clips, rule if has_rule else None))
