"""What ``surgvivqa data verify`` finds wrong with the layout of a tree, as sentences that say what to do."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from surgvivqa.data.frame_checks import is_wrong_rate
from surgvivqa.downloads.file_names import NAME_FAULTS
from surgvivqa.downloads.timing import Timing
from surgvivqa.downloads.tree import FoundVideo, Kind, Tree

Level = Literal["FAIL", "WARN", "INFO"]
_EXAMPLES = 5
_FLAGS: dict[Kind, str] = {"questions": "--ssgvqa-root", "frames": "--image-root"}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: a short name, the same for findings of the same kind.
        level: FAIL: the data cannot be used as they are; WARN: results may be wrong; INFO: good to know.
        message: what was found and what to do, in a sentence or two.
        count: how many files, folders or videos it is about.
        examples: the first of them.
        by_links: whether ``--link-to`` mends it.
    """

    kind: str
    level: Level
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()
    by_links: bool = False


def describe_layout(tree: Tree) -> Iterator[Finding]:
    """Yields what is wrong with the folders and names of a tree."""
    kind, flag = tree.kind, _FLAGS[tree.kind]
    found = tree.videos.values()
    if tree.missing:
        yield _describe_missing(tree)
    if tree.root.resolve() != tree.given.resolve() and tree.videos:
        yield Finding(
            "other-root",
            "FAIL",
            f"The videos' folders of {kind} are in {tree.root}, not in {flag} {tree.given}; give {flag} {tree.root}.",
            examples=(str(tree.root),),
            by_links=True,
        )
    deeper = [video for video in found if video.is_deeper]
    yield from _files(
        *("deeper", "FAIL", [v.folder for v in deeper]),
        lambda n, first: (
            f"The {kind} of {n} videos lie in a folder within the video's folder (first: {first}); move them up."
        ),
    )
    renamed = [v.folder for v in found if not v.is_deeper and v.folder.name != v.video]
    yield from _files(
        *("spelling", "FAIL", renamed),
        lambda n, first: (
            f"{n} folders of {kind} are spelled differently than the split's videos (first: {first}); rename them."
        ),
    )
    for fault, what in NAME_FAULTS.items():
        paths = [f.path for v in found for f in v.files.values() if fault in f.faults]
        yield from _files(f"names-{fault}", "FAIL", paths, functools.partial(_describe_names, kind, what))
    yield from _files(
        *("copies", "WARN", [path for v in found for path in v.copies]),
        lambda n, first: f"{n} files have the number of another one of {kind} (first: {first}) and are not used.",
        by_links=False,
    )
    yield from _files(
        *("doubles", "WARN", tree.doubles),
        lambda n, first: f"{n} more folders are spelled like videos that were found (first: {first}) and are not used.",
        by_links=False,
    )
    yield from _files(
        *("variants", "INFO", tree.variants),
        lambda n, first: f"{n} folders look like variants of videos (first: {first}) and are not used.",
        by_links=False,
    )
    yield from _files(
        *("other-files", "WARN" if kind == "questions" else "INFO", [path for v in found for path in v.others]),
        lambda n, first: f"{n} files are no {kind} by their names (first: {first}) and are not used.",
        by_links=False,
    )
    empty = [f.path for v in found for f in v.files.values() if f.is_empty]
    yield from _files(
        *("empty-files", "FAIL" if kind == "frames" else "WARN", empty),
        lambda n, first: f"{n} files of {kind} are empty or links that lead nowhere (first: {first}); copy them again.",
        by_links=False,
    )


def _describe_names(kind: Kind, what: str, count: int, first: Path) -> str:
    right = "<frame>.txt, such as 2.txt" if kind == "questions" else "000002.png"
    return f"{count} files of {kind} {what} (first: {first}) and are not read; they must be named like {right}."


def _describe_missing(tree: Tree) -> Finding:
    total = len(tree.missing) + len(tree.videos)
    first = ", ".join(tree.missing[:_EXAMPLES]) + (", ..." if len(tree.missing) > _EXAMPLES else "")
    hint = "add them, or name the videos that you have through --splits-dir"
    if not tree.videos:
        hint = f"{_FLAGS[tree.kind]} {tree.given} holds none of them up to three folders deep: give the right folder"
    return Finding(
        "missing-videos",
        "FAIL",
        f"{len(tree.missing)} of {total} videos have no folder of {tree.kind} ({first}); {hint}.",
        len(tree.missing),
        tuple(tree.missing),
    )


def describe_swap(questions: Tree, frames: Tree) -> Finding | None:
    """What to do if the two roots are exchanged, or one of them holds the other kind of files."""
    for tree in (questions, frames):
        if tree.of_other_kind is not None:
            other = frames if tree is questions else questions
            both = other.of_other_kind is not None or not other.videos
            advice = "exchange the two flags" if both else f"give {_FLAGS[tree.kind]} the folder of the {tree.kind}"
            return Finding(
                "swapped",
                "FAIL",
                f"{_FLAGS[tree.kind]} {tree.given} holds files of the other kind ({tree.of_other_kind}); are the two "
                f"flags swapped? Then {advice}.",
                examples=(str(tree.of_other_kind),),
                by_links=both,
            )
    return None


def describe_timing(
    frames: Mapping[str, FoundVideo], asked: Mapping[str, Collection[int]], timings: Mapping[str, Timing]
) -> Iterator[Finding]:
    """Yields what is wrong with the numbers of frames: another rate, or another first number."""
    steps = [video for video in frames if timings[video].rate > 1]
    if steps:
        video, rate = steps[0], timings[steps[0]].rate
        yield Finding(
            "numbered-by-rate",
            "FAIL",
            f"The frame numbers of {len(steps)} videos increase in steps of {rate} (first: {video}), so they count "
            f"{rate} frames per second; number them by second.",
            len(steps),
            tuple(steps[:_EXAMPLES]),
            by_links=True,
        )
    wrong = [
        (video, len(frames[video].files), max(numbers))
        for video, numbers in asked.items()
        if video in frames and numbers and timings[video].rate == 1
        if is_wrong_rate(len(frames[video].files), max(numbers))
    ]
    if wrong:
        video, count, highest = wrong[0]
        rate = round(count / (highest + 1))
        yield Finding(
            "rate",
            "WARN",
            f"{len(wrong)} videos have far more frames than seconds (first: {video} has {count} frames, but its "
            f"highest question number is {highest}), about {rate} per second, so each question sees another moment; "
            f"extract one frame per second, or link every {rate}th with --link-to DIR --frame-rate {rate}.",
            len(wrong),
            tuple(video for video, _, _ in wrong[:_EXAMPLES]),
        )
    begins = [
        video for video, found in frames.items() if timings[video] == Timing() and found.files and min(found.files) == 1
    ]
    if len(begins) > 1 and len(begins) > len(frames) / 2:
        yield Finding(
            "first-number",
            "WARN",
            f"The frames of {len(begins)} of {len(frames)} videos begin at number 1 (first: {begins[0]}), while those "
            f"of CholecT45 begin at 0, so each question may see the second before; if FFmpeg numbered them, link them "
            f"with --link-to DIR --first-number 1.",
            len(begins),
            tuple(begins[:_EXAMPLES]),
        )


def _files(
    kind: str,
    level: Level,
    paths: Sequence[Path],
    describe: Callable[[int, Path], str],
    by_links: bool = True,
) -> Iterator[Finding]:
    """Yields a finding about files or folders if there are any."""
    if paths:
        examples = tuple(str(path) for path in paths[:_EXAMPLES])
        yield Finding(kind, level, describe(len(paths), paths[0]), len(paths), examples, by_links)


@dataclass
class VideoRow:
    """The figures of a video.

    Attributes:
        video: its name.
        split: train, val or test.
        question_files: number of question files.
        questions: number of usable questions in them.
        frames: number of frames, by second.
        missing_frames: question files without a frame.
        unasked_frames: frames without a question file.
        opened: number of frames that were opened.
        damaged: frames that are empty or could not be read.
        one_colour: opened frames that have one colour.
        missing: the first numbers of ``missing_frames``.
    """

    video: str
    split: str
    question_files: int = 0
    questions: int = 0
    frames: int = 0
    missing_frames: int = 0
    unasked_frames: int = 0
    opened: int = 0
    damaged: int = 0
    one_colour: int = 0
    missing: list[int] = field(default_factory=list)
