"""``surgvivqa data verify``: compares data on disk with what should be there, and mends its layout with links."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.config import DataConfig, check_ranges, data_roots, flag, folder_from_environment
from surgvivqa.data.splits import load_splits
from surgvivqa.downloads.findings import VideoRow
from surgvivqa.downloads.links import LinkKind, check_target, write_links
from surgvivqa.downloads.timing import Timing
from surgvivqa.downloads.verification import Verification, VerifyOptions, verify
from surgvivqa.utils.errors import one_line


@dataclass(kw_only=True)
class DataVerifyConfig:
    """Compares questions, frames and scene graphs with the split and with published counts.

    It finds missing and damaged files, and layouts and names that are not read, and makes links in the right layout.
    """

    ssgvqa_root: Path | None = flag(
        "Folder of the questions, <root>/<VIDxx>/<frame>.txt. Default: the environment variable SSGVQA_ROOT.",
        default_factory=folder_from_environment("SSGVQA_ROOT"),
    )
    image_root: Path | None = flag(
        "Folder of the frames, <root>/<VIDxx>/<frame padded to 6 digits>.png. Default: the environment variable "
        "IMAGE_ROOT.",
        default_factory=folder_from_environment("IMAGE_ROOT"),
    )
    scene_graph_root: Path | None = flag("Folder of the scene graphs, <root>/<VIDxx>_<frame>.json.", None)
    splits_dir: Path | None = flag(
        "Folder with train_videos.json, val_videos.json and test_videos.json. Default: SSG-VQA-Net's split.", None
    )
    json: bool = flag("Print the result as JSON.", False)
    frames_to_open: int = flag("Number of frames to decode, spread over the videos.", 200, least=1)
    every_frame: bool = flag("Decode every frame and read every scene graph. It takes minutes.", False)
    link_to: Path | None = flag(
        "Folder to make, with links to the data in the right layout. A folder of links made earlier is replaced.", None
    )
    link_kind: LinkKind = flag(
        "symlink: symbolic links. hardlink: hard links, where symbolic ones are not possible. copy: copies.", "symlink"
    )
    frame_rate: int = flag("Frames per second in the folders, of which the first of each second is used.", 1, least=1)
    first_number: int = flag("Number of the frame at second 0; FFmpeg numbers from 1.", 0, least=0)


def data_verify(config: DataVerifyConfig) -> int:
    """Prints what was found, makes links if asked, and prints the flags to use.

    Returns:
        0 if the data can be used as they are or by the links that were made, else 1.

    Raises:
        InputError: a flag cannot be used, or a folder cannot be read.
        RunError: the links cannot be made.
    """
    check_ranges(config)
    questions, frames = data_roots(DataConfig(ssgvqa_root=config.ssgvqa_root, image_root=config.image_root))
    options = VerifyOptions(
        question_root=questions,
        image_root=frames,
        graph_root=config.scene_graph_root,
        splits=load_splits(config.splits_dir),
        is_standard=config.splits_dir is None,
        frames_to_open=0 if config.every_frame else config.frames_to_open,
        timing=Timing(config.frame_rate, config.first_number),
    )
    found = verify(options)
    flags = find_flags(found)
    if config.link_to is not None:
        check_target(config.link_to, found)
        flags = {name: str(path) for name, path in write_links(config.link_to, found, config.link_kind).items()}
    left = [f for f in found.findings if f.level == "FAIL" and not (f.by_links and config.link_to is not None)]
    if config.json:
        print(json.dumps({**found.to_dict(), "ok": not left, "flags": flags}, indent=2))
    else:
        print_result(found, config.link_to)
        if flags:
            where = "The links are" if config.link_to is not None else "The data are"
            print(f"{where} used with: {' '.join(f'{name} {shlex.quote(value)}' for name, value in flags.items())}")
        elif any(finding.by_links for finding in found.findings):
            print("--link-to DIR makes a folder of links in the layout that is read.")
    return 1 if left else 0


def find_flags(found: Verification) -> dict[str, str]:
    """The flags that use the data without links; empty if links are needed, or if there are none."""
    trees = {"--ssgvqa-root": found.questions, "--image-root": found.frames}
    if any(not tree.videos or not tree.reads_at(tree.root) for tree in trees.values()):
        return {}
    if any(timing != Timing() for timing in found.timings.values()):
        return {}
    flags = {name: str(tree.root) for name, tree in trees.items()}
    if found.graphs is not None and found.graphs.files and not found.graphs.misnamed:
        flags["--scene-graph-root"] = str(found.graphs.root)
    return flags


def print_result(found: Verification, link_to: Path | None) -> None:
    """Prints the table of videos, the published counts and the findings."""
    print(format_table(found.rows, found.totals()))
    for count, number in found.known:
        print(
            f"{count.what}: {number:,}; published: {'about ' if count.about else ''}{count.number:,} ({count.source})"
        )
    for finding in found.findings:
        level = "LINK" if finding.by_links and link_to is not None else finding.level
        print(f"{level:<5} {finding.kind:<16} {one_line(finding.message)}")
    if not found.findings:
        print("Nothing is missing, damaged or misnamed.")


def format_table(rows: Sequence[VideoRow], totals: dict[str, int]) -> str:
    """The figures of the videos that have files, and the sums, as lines of a table."""
    titles = {
        "question_files": "asked",
        "questions": "questions",
        "frames": "frames",
        "missing_frames": "missing",
        "unasked_frames": "not asked",
        "opened": "opened",
        "damaged": "damaged",
        "one_colour": "one colour",
    }
    width = max([5, *(len(row.video) for row in rows)])
    lines = [f"{'video':<{width}} split" + "".join(f" {title:>10}" for title in titles.values())]
    for row in rows:
        if row.question_files or row.frames:
            figures = "".join(f" {getattr(row, name):>10,}" for name in titles)
            lines.append(f"{row.video:<{width}} {row.split:<5}{figures}")
    lines.append(f"{'all':<{width}}      " + "".join(f" {totals[name]:>10,}" for name in titles))
    return "\n".join(lines)
