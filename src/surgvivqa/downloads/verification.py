"""Compares questions, frames and scene graphs on disk with each other and with what is published."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa.data.frame_checks import Inspection
from surgvivqa.data.splits import SPLIT_NAMES, Splits
from surgvivqa.data.ssgqa import ReadReport, is_synthetic, read_question_file
from surgvivqa.downloads.findings import Finding, VideoRow, describe_layout, describe_swap, describe_timing
from surgvivqa.downloads.frame_sample import choose_sample, open_frames
from surgvivqa.downloads.graph_tree import GraphTree, count_missing, scan_graphs
from surgvivqa.downloads.progress import CountProgress
from surgvivqa.downloads.sources import KnownCount, find_source
from surgvivqa.downloads.timing import Timing, find_timing
from surgvivqa.downloads.tree import Tree, scan_tree

_TOLERANCE = 0.1  # a rounded published figure and a real one may differ by so much
_MISSING_SHOWN = 20


@dataclass(frozen=True)
class VerifyOptions:
    """What is verified, and how.

    Attributes:
        question_root: the folder of the questions.
        image_root: the folder of the frames.
        graph_root: the folder of the scene graphs; None if there is none.
        splits: the videos that should be there.
        is_standard: whether they are those of SSG-QA's split, for which counts are published.
        frames_to_open: number of frames to decode; 0 for all.
        timing: how frames are numbered, by flags.
    """

    question_root: Path
    image_root: Path
    graph_root: Path | None
    splits: Splits
    is_standard: bool
    frames_to_open: int
    timing: Timing = Timing()


@dataclass
class Verification:
    """What was found.

    Attributes:
        questions: the tree of the questions.
        frames: the tree of the frames.
        graphs: the scene graphs; None if no root was given.
        timings: how each video's frames are numbered.
        rows: the figures of each video.
        findings: what is wrong or good to know, the worst first.
        known: published counts with what was counted.
        report: what was read from the question files.
    """

    questions: Tree
    frames: Tree
    graphs: GraphTree | None
    timings: dict[str, Timing]
    rows: list[VideoRow]
    findings: list[Finding]
    known: list[tuple[KnownCount, int]] = field(default_factory=list)
    report: ReadReport = field(default_factory=ReadReport)

    @property
    def is_good(self) -> bool:
        """Whether nothing is a FAIL."""
        return all(finding.level != "FAIL" for finding in self.findings)

    def totals(self) -> dict[str, int]:
        """The sums of the rows' figures."""
        names = [f.name for f in dataclasses.fields(VideoRow) if f.type in ("int", int)]
        return {name: sum(getattr(row, name) for row in self.rows) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "ok": self.is_good,
            "question_root": str(self.questions.root),
            "image_root": str(self.frames.root),
            "scene_graph_root": None if self.graphs is None else str(self.graphs.root),
            "totals": self.totals(),
            "known": [{**count.model_dump(), "found": number} for count, number in self.known],
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "videos": [dataclasses.asdict(row) for row in self.rows],
            "question_lines": self.report.to_dict(),
        }


def verify(options: VerifyOptions) -> Verification:
    """Verifies the trees.

    Raises:
        InputError: a root is not a folder, or a folder or file cannot be read.
    """
    split_of = {video: name for name in SPLIT_NAMES for video in options.splits.videos(name)}
    videos = sorted(split_of)
    questions = scan_tree(options.question_root, "questions", videos)
    frames = scan_tree(options.image_root, "frames", videos)
    findings: list[Finding] = []
    if (swap := describe_swap(questions, frames)) is not None:
        findings.append(swap)
        if frames.of_other_kind or not frames.videos:  # exchanged: what they hold is looked at in its place
            exchanged = scan_tree(options.image_root, "questions", videos)
            if any(video.files for video in exchanged.videos.values()):
                questions, frames = exchanged, scan_tree(options.question_root, "frames", videos)
    findings += describe_layout(questions)
    findings += describe_layout(frames)
    asked = {video: sorted(found.files) for video, found in questions.videos.items()}
    timings = {
        video: find_timing(found, asked.get(video, []), options.timing) for video, found in frames.videos.items()
    }
    findings += describe_timing(frames.videos, asked, timings)
    rows = {video: VideoRow(video, split_of[video], question_files=len(asked.get(video, []))) for video in videos}
    report = _read_questions(questions, rows)
    seconds = _compare(rows, asked, frames, timings)
    findings += _describe_comparison(rows, frames)
    findings += _describe_questions(report)
    paths = {(video, n): path for video, of_video in seconds.items() for n, path in of_video.items()}
    findings += _open(rows, asked, paths, frames, options.frames_to_open)
    graphs = None
    if options.graph_root is not None:
        graphs = scan_graphs(options.graph_root, videos, every=options.frames_to_open == 0)
        findings += _describe_graphs(graphs, asked)
    result = Verification(questions, frames, graphs, timings, list(rows.values()), findings, report=report)
    if options.is_standard and not is_synthetic(questions.root):
        _compare_counts(result)
    order = {"FAIL": 0, "WARN": 1, "INFO": 2}
    result.findings.sort(key=lambda finding: order[finding.level])
    return result


def frames_by_second(tree: Tree, timings: Mapping[str, Timing]) -> dict[str, dict[int, Path]]:
    """For each video the frame of each second, empty files included."""
    found: dict[str, dict[int, Path]] = {}
    for video, folder in tree.videos.items():
        of_video = {timings[video].second(number): file.path for number, file in folder.files.items()}
        found[video] = {second: path for second, path in of_video.items() if second is not None}
    return found


def _read_questions(tree: Tree, rows: Mapping[str, VideoRow]) -> ReadReport:
    """Parses all question files and counts the questions."""
    report = ReadReport()
    with CountProgress("reading questions", sum(len(v.files) for v in tree.videos.values())) as progress:
        for video, found in tree.videos.items():
            before = report.questions
            for number, file in sorted(found.files.items()):
                read_question_file(file.path, video, number, report)
                progress.add()
            rows[video].questions = report.questions - before
    return report


def _compare(
    rows: Mapping[str, VideoRow], asked: Mapping[str, Sequence[int]], frames: Tree, timings: Mapping[str, Timing]
) -> dict[str, dict[int, Path]]:
    """Counts frames, and questions and frames without the other; returns the frames that have bytes, by second."""
    whole: dict[str, dict[int, Path]] = {}
    for video, of_video in frames_by_second(frames, timings).items():
        row, numbers = rows[video], set(asked.get(video, []))
        empty = {file.path for file in frames.videos[video].files.values() if file.is_empty}
        row.frames, row.damaged = len(of_video), sum(path in empty for path in of_video.values())
        row.unasked_frames = len(of_video.keys() - numbers)
        whole[video] = {second: path for second, path in sorted(of_video.items()) if path not in empty}
    for video, row in rows.items():
        missing = sorted(
            set(asked.get(video, [])) - whole.get(video, {}).keys() - _empty_seconds(frames, timings, video)
        )
        row.missing_frames, row.missing = len(missing), missing[:_MISSING_SHOWN]
    return whole


def _empty_seconds(frames: Tree, timings: Mapping[str, Timing], video: str) -> set[int | None]:
    """The seconds whose frame is an empty file, which is damaged and not missing."""
    if video not in frames.videos:
        return set()
    return {timings[video].second(n) for n, file in frames.videos[video].files.items() if file.is_empty}


def _describe_comparison(rows: Mapping[str, VideoRow], frames: Tree) -> Iterator[Finding]:
    missing = [row for row in rows.values() if row.missing_frames and row.video in frames.videos]
    if missing:
        first = missing[0]
        count = sum(row.missing_frames for row in missing)
        yield Finding(
            "missing-frames",
            "FAIL",
            f"{count} question files of {len(missing)} videos have no frame (first: {first.video} second "
            f"{first.missing[0]} in {frames.videos[first.video].folder}); copy the frames, or leave them out with "
            f"--on-bad-frame skip.",
            count,
            tuple(f"{row.video}: {', '.join(map(str, row.missing[:5]))}" for row in missing[:5]),
        )
    unasked = sum(row.unasked_frames for row in rows.values())
    if unasked:
        total = sum(row.frames for row in rows.values())
        yield Finding(
            "unasked-frames",
            "INFO",
            f"{unasked:,} of {total:,} frames have no question file; CholecT45 has more frames than SSG-QA asks about.",
            unasked,
        )


def _describe_questions(report: ReadReport) -> Iterator[Finding]:
    counts = report.skipped + report.suspect
    faults = report.describe_faults()
    if faults:
        names = [name for name in counts if name not in ("summary", "comma_answer")]
        yield Finding(
            "question-content",
            "WARN",
            f"Question files hold {'; '.join(faults)}.",
            sum(counts[name] for name in names),
            tuple(where for name in names for where in report.examples.get(name, [])[:1]),
        )


def _open(
    rows: Mapping[str, VideoRow],
    asked: Mapping[str, Sequence[int]],
    paths: Mapping[tuple[str, int], Path],
    frames: Tree,
    frames_to_open: int,
) -> Iterator[Finding]:
    """Opens frames: those with questions first, and all for 0."""
    candidates: dict[str, list[int]] = {video: [] for video in frames.videos}
    for video, second in paths:
        candidates[video].append(second)
    if frames_to_open:
        of_questions = {v: [n for n in numbers if n in set(asked.get(v, []))] for v, numbers in candidates.items()}
        if any(of_questions.values()):
            candidates = of_questions
    inspections = open_frames(paths, choose_sample(candidates, frames_to_open))
    together = Inspection()
    for video, inspection in inspections.items():
        row = rows[video]
        row.opened, row.one_colour = inspection.opened, len(inspection.one_colour)
        row.damaged += len(inspection.unreadable)
        together.add(inspection)
    if together.unreadable:
        yield Finding(
            "damaged-frames",
            "FAIL",
            f"{len(together.unreadable)} of {together.opened} opened frames cannot be used (first: "
            f"{together.unreadable[0]}) Copy them again{'' if frames_to_open == 0 else '; --every-frame opens all'}.",
            len(together.unreadable),
            tuple(together.unreadable[:5]),
        )
    for kind, paths_of_kind, sentence in together.problems():
        yield Finding(kind, "WARN", sentence, len(paths_of_kind), tuple(map(str, paths_of_kind[:5])))


def _describe_graphs(graphs: GraphTree, asked: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    missing = count_missing(graphs, asked)
    if not graphs.files:
        yield Finding(
            "no-graphs",
            "FAIL",
            f"--scene-graph-root {graphs.given} holds no <VIDxx>_<frame>.json up to two folders deep; give its folder.",
        )
        return
    if graphs.root.resolve() != graphs.given.resolve():
        yield Finding(
            "graphs-deeper",
            "FAIL",
            f"The scene graphs are in {graphs.root}, not in --scene-graph-root {graphs.given}; give that folder.",
            len(graphs.files),
            (str(graphs.root),),
            by_links=True,
        )
    if graphs.misnamed:
        yield Finding(
            "graph-names",
            "FAIL",
            f"{graphs.misnamed} scene graphs are named otherwise than <VIDxx>_<frame>.json, and are not read.",
            graphs.misnamed,
            by_links=True,
        )
    if missing:
        yield Finding(
            "missing-graphs",
            "WARN",
            f"{len(missing)} frames with questions have no scene graph (first: {missing[0]}).",
            len(missing),
            tuple(missing[:5]),
        )
    bad = [*graphs.empty, *graphs.damaged]
    if bad:
        yield Finding(
            "damaged-graphs",
            "FAIL",
            f"{len(bad)} scene graphs are empty or damaged (first: {bad[0]}; {graphs.sampled} were read); unpack them "
            f"again.",
            len(bad),
            tuple(map(str, bad[:5])),
        )


def _compare_counts(result: Verification) -> None:
    """Compares the totals with published counts, if all videos are there."""
    totals = result.totals()
    found = {
        ("ssg-qa", "videos of the split"): len(result.questions.videos),
        ("ssg-qa", "frames"): totals["question_files"],
        ("ssg-qa", "questions"): totals["questions"],
        ("cholect45", "frames"): totals["frames"],
    }
    for (source, what), number in found.items():
        count = next(count for count in find_source(source).counts if count.what == what)
        title = {"ssg-qa": "SSG-QA", "cholect45": "CholecT45"}[source]
        result.known.append((count.model_copy(update={"what": f"{title}, {count.what}"}), number))
        tree = result.questions if source == "ssg-qa" else result.frames
        if tree.missing:  # that is said already
            continue
        allowed = _TOLERANCE * count.number if count.about else 0
        if abs(number - count.number) > allowed:
            about = "about " if count.about else ""
            result.findings.append(
                Finding(
                    "known-count",
                    "WARN",
                    f"There are {number:,} {what} instead of {about}{count.number:,} in {title} ({count.source}); "
                    f"compare the copy with the original.",
                    abs(number - count.number),
                )
            )
