"""Opens a data set by its description: its questions, splits, labels and pictures, in one form for all of them."""

import functools
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from surgvivqa.data.index import open_questions
from surgvivqa.data.labels import LabelSet
from surgvivqa.data.picture_files import PictureFiles
from surgvivqa.data.splits import SPLIT_NAMES, Splits, load_splits, shared_videos
from surgvivqa.data.ssgqa import FrameQuestions, Question, ReadReport, find_videos, is_synthetic
from surgvivqa.datasets.description import DEFAULT, DatasetDescription, SplitRule, load_description
from surgvivqa.datasets.readers import read_records
from surgvivqa.datasets.records import Faults
from surgvivqa.datasets.table import QuestionRow, build_rows, number_clips
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


@dataclass(frozen=True)
class Table:
    """The rows of a data set that is not SSG-QA.

    Attributes:
        rows: the rows of each video, in the order of the files.
        numbers: video and frames of each clip to its number.
        files: where the clips' pictures are.
        faults: what was left out while reading: reason, place, and the split if it is known.
        dropped: number of the rows that the description leaves out, by video.
        num_files: number of files.
    """

    rows: Mapping[str, Sequence[QuestionRow]]
    numbers: Mapping[tuple[str, tuple[str, ...]], int]
    files: PictureFiles
    faults: Sequence[tuple[str, str, str | None]] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    num_files: int = 0


@dataclass(frozen=True)
class Dataset:
    """A data set on disk.

    Attributes:
        description: its description.
        root: the folder of its questions, or their only file.
        splits: the videos of its splits.
        label_set: the answers that count as labels.
        table: its rows; None for SSG-QA, whose questions come from the index (``data.index``).
        own_splits: whether the splits are its own, and not those of another folder (``--splits-dir``).
    """

    description: DatasetDescription
    root: Path
    splits: Splits
    label_set: LabelSet
    table: Table | None = None
    own_splits: bool = True

    @property
    def is_ssgqa(self) -> bool:
        """Whether it is SSG-QA, for which there are checks and published results of its own."""
        return self.description.reader == "ssg-qa"

    @property
    def picture_files(self) -> PictureFiles | None:
        """Where its pictures are; None for CholecT45's layout."""
        return None if self.table is None else self.table.files

    @property
    def is_synthetic(self) -> bool:
        """Whether its questions are those of ``surgvivqa synth``."""
        return is_synthetic(self.root.parent if self.root.is_file() else self.root)

    def with_labels(self, label_set: LabelSet) -> "Dataset":
        """The data set with the labels of a checkpoint."""
        return replace(self, label_set=label_set)

    def existing_videos(self, videos: Sequence[str]) -> list[str]:
        """Those of the videos that have questions.

        Raises:
            InputError: SSG-QA's root does not exist, or has none of them.
        """
        if self.table is None:
            return find_videos(self.root, videos, "skip")
        return [video for video in videos if video in self.table.rows]

    def questions(self, videos: Sequence[str], *, strict: bool = False) -> tuple[Sequence[FrameQuestions], ReadReport]:
        """The frames of videos with their questions, in the order of ``videos`` and by number.

        Args:
            videos: names of the videos.
            strict: answers that are no labels are an error.

        Returns:
            The frames, and a report about what was left out.

        Raises:
            InputError: a video has no questions; under ``strict`` also where an answer is not a label.
        """
        if self.table is None:
            return open_questions(self.root, videos, strict=strict)
        if absent := [video for video in videos if video not in self.table.rows]:
            known = ", ".join(list(self.table.rows)[:5])
            raise InputError(
                f"{self.root} has no question about {len(absent)} of the split's {len(videos)} videos "
                f"({', '.join(absent[:5])}); its videos are {known} and so on."
            )
        report = ReadReport(files=self.table.num_files)
        self._report_faults(videos, report)
        index = functools.cache(self.label_set.index)
        frames = []
        for video in videos:
            found = list(self._frames_of(video, self.table, index, report, strict))
            if not found:
                report.suspect_at("no_questions", video)
            frames += found
        return frames, report

    def _report_faults(self, videos: Collection[str], report: ReadReport) -> None:
        """Counts the lines that are no rows, of the files that belong to the videos' splits or to none."""
        assert self.table is not None
        splits = {name for name in SPLIT_NAMES if set(videos) & set(self.splits.videos(name))}
        for reason, where, split in self.table.faults:
            if split is None or split in splits:
                report.skip(reason, where)
                report.lines += 1
        if dropped := sum(self.table.dropped.get(video, 0) for video in videos):
            report.skipped["dropped"] += dropped
            report.lines += dropped

    def _frames_of(
        self,
        video: str,
        table: Table,
        index: "functools._lru_cache_wrapper[int | None]",
        report: ReadReport,
        strict: bool,
    ) -> list[FrameQuestions]:
        """The frames of a video, by number."""
        by_clip: dict[int, list[Question]] = {}
        answers: dict[tuple[int, str, str | None], int] = {}
        seen: set[tuple[int, str, str, str | None, str | None]] = set()
        for row in table.rows[video]:
            report.lines += 1
            number, label = table.numbers[video, row.frames], index(row.answer)
            if label is None:
                which = f"which is not one of the {len(self.label_set)} labels"
                what = f"{row.where} has the answer {row.answer[:80]!r}, {which}"
                if strict:
                    raise InputError(f"{what}; fix or remove the line, or leave out --strict.")
                report.skip("unknown_answer", what)
                continue
            if (key := (number, row.question, row.answer, row.wording, row.pair_id)) in seen:
                report.suspect_at("repeated", f"{row.where}: {row.question}")
            seen.add(key)
            if answers.setdefault((number, row.question, row.wording), label) != label:
                report.suspect_at("contradiction", f"{row.where}: {row.question}")
            report.questions += 1
            by_clip.setdefault(number, []).append(
                Question(
                    video,
                    number,
                    sys.intern(row.question),
                    sys.intern(row.answer),
                    label,
                    row.group,
                    row.type,
                    row.line,
                    long_answer=row.long_answer,
                    pair_id=row.pair_id,
                    wording=row.wording,
                    image=table.files.path(video, number),
                )
            )
        return [FrameQuestions(video, number, tuple(by_clip[number])) for number in sorted(by_clip)]


def open_dataset(
    name: str, root: Path, splits_dir: Path | None = None, *, strict: bool = False, label_set: LabelSet | None = None
) -> Dataset:
    """Opens a data set.

    Args:
        name: name of a packaged description, or the path of a YAML file.
        root: the folder of its questions, or their only file.
        splits_dir: a folder of split files, in place of the description's splits.
        strict: lines that cannot be read are an error.
        label_set: the labels of a checkpoint; None takes the description's, or the training answers.

    Raises:
        InputError: the description, a file or a split cannot be used; or the training questions have no answer to
            take as a label.
    """
    description = load_description(name)
    if description.reader == "ssg-qa":
        return Dataset(
            description, root, load_splits(splits_dir), description.label_set(), own_splits=splits_dir is None
        )
    table = _read_table(description, root, strict)
    splits = _find_splits(description, table, root, splits_dir)
    if label_set is None:
        try:
            label_set = _find_labels(description, table, splits)
        except ValueError as error:
            raise InputError(
                f"The labels of {description.name} cannot be used: {error}; list labels in its description."
            ) from None
    return Dataset(description, root, splits, label_set, table, own_splits=splits_dir is None)


def _read_table(description: DatasetDescription, root: Path, strict: bool) -> Table:
    faults, dropped = Faults(strict), list[QuestionRow]()
    rows: dict[str, list[QuestionRow]] = {}
    for row in build_rows(description, read_records(description, root, faults), faults, dropped):
        rows.setdefault(row.video, []).append(row)
    if not rows:
        first = f" (first: {faults.found[0][1]})" if faults.found else ""
        raise InputError(f"{root} has no usable question of {description.name}{first}.")
    try:
        clips = number_clips(description, (row for found in rows.values() for row in found))
    except ValueError as error:
        raise InputError(f"{description.name}: pictures {description.pictures!r} cannot be used: {error}.") from None
    counts: dict[str, int] = {}
    for row in dropped:
        counts[row.video] = counts.get(row.video, 0) + 1
    return Table(rows, clips.numbers, clips.files, faults.found, counts, faults.files)


def _find_splits(description: DatasetDescription, table: Table, root: Path, splits_dir: Path | None) -> Splits:
    """The splits of a table: of ``--splits-dir``, of the description, or of the rows.

    Raises:
        InputError: there are none, or two of them share a video.
    """
    if splits_dir is not None:
        return load_splits(splits_dir, reserved=frozenset())
    named: dict[str, list[str]] = {name: [] for name in SPLIT_NAMES}
    for video, rows in table.rows.items():
        for split in dict.fromkeys(row.split for row in rows):
            if split is not None:
                named[split].append(video)
    rule = description.splits
    if rule is None and not any(named.values()):
        raise InputError(
            f"{description.name} has no splits; add splits with the names of its videos to its description, a column "
            f"split to its questions, or give --splits-dir."
        )
    splits = _apply_rule(rule or SplitRule(), named, list(table.rows))
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := shared_videos(splits.videos(first), splits.videos(second)):
            raise InputError(
                f"The {first} and {second} splits of {description.name} share {', '.join(shared[:5])}, so figures "
                f"would be about videos that were trained on; split by video, in its description or with --splits-dir."
            )
    return splits


def _apply_rule(rule: SplitRule, named: Mapping[str, Sequence[str]], videos: Sequence[str]) -> Splits:
    """The splits that a rule gives; what it does not name comes from the rows, and then from the remaining videos."""
    test = tuple(rule.test) or tuple(named["test"])
    val = tuple(named["val"]) if isinstance(rule.val, float) or not rule.val else tuple(rule.val)
    if rule.train is not None:
        train = tuple(rule.train)
    elif named["train"]:
        # What a rule names is taken out of the rows' training videos. What the rows name twice stays, and is an error.
        ruled = {*rule.test, *(() if isinstance(rule.val, float) else rule.val)}
        train = tuple(video for video in named["train"] if video not in ruled)
    else:
        # What the rows name for validation or testing is not trained on, even if the rule names other videos for that.
        train = tuple(video for video in videos if video not in {*val, *test, *named["val"], *named["test"]})
    if isinstance(rule.val, float) and not val:
        count = round(rule.val * len(train)) if len(train) > 1 else 0
        count = min(max(1, count), len(train) - 1) if rule.val and len(train) > 1 else 0
        ordered = sorted(train)
        chosen = {ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)}
        val, train = tuple(v for v in train if v in chosen), tuple(v for v in train if v not in chosen)
    return Splits(train, val, test)


def _find_labels(description: DatasetDescription, table: Table, splits: Splits) -> LabelSet:
    """The listed labels, or the different answers of the training questions, sorted."""
    if description.has_fixed_labels:
        return description.label_set()
    aliases = {folded.lower(): label for folded, label in description.aliases.items()}
    found = {aliases.get(row.answer.lower(), row.answer) for video in splits.train for row in table.rows.get(video, ())}
    if not found:
        raise InputError(
            f"{description.name} takes its labels from the training questions, and there are none; list labels in its "
            f"description, or name training videos that have questions."
        )
    return description.label_set(tuple(sorted(found)))


__all__ = ["DEFAULT", "Dataset", "open_dataset"]
