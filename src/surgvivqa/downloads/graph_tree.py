"""Finds and checks scene graphs, ``<root>/<VIDxx>_<frame>.json``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from surgvivqa.data.splits import base_video
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

_NAME = re.compile(r"(.+)_(\d+)\.json", re.IGNORECASE)
_SAMPLE = 100


@dataclass
class GraphTree:
    """The scene graphs that were found.

    Attributes:
        given: the root that was given.
        root: the folder that has the files.
        files: by video and frame number, the file.
        misnamed: how many files have another name than ``VIDxx_N.json``.
        empty: files without bytes.
        damaged: of a sample, the files that are not JSON objects with ``scenes``.
        sampled: the number of files that were read.
    """

    given: Path
    root: Path
    files: dict[tuple[str, int], Path] = field(default_factory=dict)
    misnamed: int = 0
    empty: list[Path] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    sampled: int = 0


def scan_graphs(given: Path, videos: Sequence[str], every: bool) -> GraphTree:
    """Finds the scene graphs of videos in a folder, or up to two folders deeper, and reads a sample.

    Args:
        given: ``--scene-graph-root``.
        videos: names of the videos.
        every: read all files and not a sample.

    Raises:
        InputError: the root is not a folder, or cannot be read.
    """
    if not given.is_dir():
        raise InputError(f"--scene-graph-root {given} is not a folder; give the folder of <VIDxx>_<frame>.json.")
    by_base = {base_video(video): video for video in videos}
    level, tree = [given], GraphTree(given, given)
    try:
        for _ in range(3):
            for folder in level:
                tree = _read_folder(given, folder, by_base)
                if tree.files:
                    _read_sample(tree, every)
                    return tree
            level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
    except OSError as error:
        raise InputError(f"--scene-graph-root {given} cannot be read ({error.strerror}).") from None
    return GraphTree(given, given)


def count_missing(tree: GraphTree, asked: Mapping[str, Sequence[int]]) -> list[str]:
    """The names of graphs that frames with questions lack."""
    return [
        f"{video}_{number}.json"
        for video, numbers in asked.items()
        for number in numbers
        if (video, number) not in tree.files
    ]


def _read_folder(given: Path, folder: Path, by_base: Mapping[str, str]) -> GraphTree:
    tree = GraphTree(given, folder)
    for path in sorted(folder.iterdir()):
        found = _NAME.fullmatch(path.name)
        video = by_base.get(base_video(found[1])) if found else None
        if found is None or video is None:
            continue
        number = int(found[2])
        tree.files.setdefault((video, number), path)
        tree.misnamed += path.name != f"{video}_{number}.json"
        if path.stat().st_size == 0:
            tree.empty.append(path)
    return tree


def _read_sample(tree: GraphTree, every: bool) -> None:
    paths = [path for path in tree.files.values() if path not in set(tree.empty)]
    for path in paths if every else paths[:: max(1, len(paths) // _SAMPLE)]:
        tree.sampled += 1
        try:
            content = read_json(path)
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict) or "scenes" not in content:
            tree.damaged.append(path)
