"""Finds videos that are the same although their names differ: links to one folder, and folders with equal files.

Files are compared by size first. Only files of equal size are read, a few per pair of videos, so that the cost is one
``stat`` per file. On a copy of 45 videos with 2,000 frames each ``surgvivqa check`` takes about two seconds longer.
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.data.splits import SPLIT_NAMES, Splits
from surgvivqa.utils.errors import InputError

_SAMPLE = 8  # files per pair of videos that are compared
_MIN_SHARE = 0.75  # of the sample that must be equal
_MIN_DISTINCT = 3  # contents that must be equal; a few frames of different videos may be alike, such as black ones


@dataclass(frozen=True)
class Overlap:
    """Two videos of a data set with the same content.

    Attributes:
        first: the first video.
        second: the second video.
        how: a phrase about what they share, for messages.
    """

    first: str
    second: str
    how: str


def find_links(root: Path, videos: Sequence[str]) -> list[Overlap]:
    """Finds the pairs of videos whose folders are the same folder, because of links."""
    folders: dict[tuple[int, int], str] = {}
    overlaps = []
    for video in videos:
        try:
            status = (root / video).stat()
        except OSError:
            continue
        first = folders.setdefault((status.st_dev, status.st_ino), video)
        if first != video:
            overlaps.append(Overlap(first, video, f"are links to one folder under {root}"))
    return overlaps


def check_no_links(roots: Sequence[Path], splits: Splits) -> None:
    """Checks that no link makes two splits share a video.

    Raises:
        InputError: two splits share a video.
    """
    split_of = {video: name for name in SPLIT_NAMES for video in splits.videos(name)}
    for root in roots:
        for overlap in find_links(root, list(split_of)):
            names = [f"{video} ({split_of[video]})" for video in (overlap.first, overlap.second)]
            if split_of[overlap.first] != split_of[overlap.second]:
                raise InputError(f"{' and '.join(names)} {overlap.how}, so splits share a video; take one of them out.")


def find_copies(root: Path, videos: Sequence[str], suffix: str) -> list[Overlap]:
    """Finds the pairs of videos with the same files, whatever the files' names.

    Args:
        root: the folder with one folder per video.
        videos: names of the videos.
        suffix: suffix of the files that are compared, such as ``.png``.
    """
    sizes = {video: _files_by_size(root / video, suffix) for video in videos}
    overlaps = []
    for pair in itertools.combinations(videos, 2):
        # The smaller video may be a part of the larger one, so its files are the sample.
        small, large = sorted(pair, key=lambda video: sum(map(len, sizes[video].values())))
        files = sorted((path, size) for size, paths in sizes[small].items() for path in paths)
        sample = files[:: max(1, len(files) // _SAMPLE)][:_SAMPLE]
        equal = {
            _hash_file(path)
            for path, size in sample
            if size in sizes[large] and _hash_file(path) in map(_hash_file, sizes[large][size])
        }
        needed = max(min(_MIN_DISTINCT, len(sample)), _MIN_SHARE * len(sample))
        if sample and len(equal) >= needed:
            overlaps.append(Overlap(*pair, f"have the same {suffix} files under {root}"))
    return overlaps


def _files_by_size(folder: Path, suffix: str) -> dict[int, list[str]]:
    files: dict[int, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(suffix) and not entry.name.startswith("."):
                    files.setdefault(entry.stat().st_size, []).append(entry.path)
    except OSError:  # a missing folder or a broken link, which other checks report
        return {}
    return files


@functools.lru_cache(maxsize=100_000)
def _hash_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return path.encode()
