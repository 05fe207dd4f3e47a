"""Hints for missing data: what exists instead, and how to use it."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_MAX_ENTRIES = 2000  # entries of a folder that are inspected
_MAX_FOLDERS = 50  # folders of a root that are inspected
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def suggest_question_root(root: Path, videos: Sequence[str]) -> str:
    """Describes what the question root holds instead of ``<VIDxx>/<frame>.txt``.

    Returns:
        A sentence that starts with a space; empty if nothing similar is found.
    """
    entries = _entries(root)
    if picture := _first(p for p in entries if p.suffix.lower() in PICTURE_SUFFIXES):
        return f" It holds pictures (found {picture}); are --ssgvqa-root and --image-root swapped?"
    if file := _first(p for p in entries if re.fullmatch(r"\d+\.txt", p.name)):
        return f" It is the folder of one video (found {file}); give --ssgvqa-root {root.parent}."
    return _suggest_spelling(root, videos, "--splits-dir") or _suggest_root(root, videos, "--ssgvqa-root")


def suggest_question_files(root: Path, videos: Sequence[str]) -> str:
    """Describes what the videos' folders hold instead of ``<frame>.txt``.

    Returns:
        A sentence that starts with a space; empty if nothing similar is found.
    """
    for video in videos:
        entries = _entries(root / video)
        if text := _first(p for p in entries if p.suffix.lower() == ".txt"):
            return f" Found {text}; name the files after the frame's number, such as 0.txt."
        if picture := _first(p for p in entries if p.suffix.lower() in PICTURE_SUFFIXES):
            return f" It holds pictures (found {picture}); are --ssgvqa-root and --image-root swapped?"
        for folder in _folders(root / video):
            if text := _first(p for p in _entries(folder) if p.suffix.lower() == ".txt"):
                return f" Found {text}, deeper than expected; move the files up."
    return ""


def suggest_frames(root: Path, video: str, numbers: Iterable[int]) -> str:
    """Describes what exists instead of a video's frames.

    Args:
        root: ``--image-root``.
        video: a video of which frames are missing.
        numbers: the missing frames.

    Returns:
        A sentence that starts with a space; empty if nothing similar is found.
    """
    folder = root / video
    if not folder.is_dir():
        entries = _entries(root)
        if picture := _first(p for p in entries if p.suffix.lower() in PICTURE_SUFFIXES):
            return f" {root} is the folder of one video (found {picture}); give --image-root {root.parent}."
        return _suggest_spelling(root, [video], "--splits-dir") or _suggest_root(root, [video], "--image-root")
    entries = _entries(folder)
    pictures = [p for p in entries if p.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        for inner in _folders(folder):
            if picture := _first(p for p in _entries(inner) if p.suffix.lower() in PICTURE_SUFFIXES):
                return f" Found {picture}, deeper than expected; move the frames up."
        if text := _first(p for p in entries if p.suffix.lower() == ".txt"):
            return f" It holds text files (found {text}); are --ssgvqa-root and --image-root swapped?"
        return ""
    by_number = {int(p.stem): p for p in reversed(pictures) if p.stem.isascii() and p.stem.isdigit()}
    for number in numbers:
        if (picture := by_number.get(number)) is not None:
            return f" Found {picture}; frames must be named like {number:06d}.png and be PNG files."
    steps = {n for n in by_number if n}
    if len(steps) > 2 and (step := math.gcd(*steps)) > 1:
        return f" The frame numbers increase in steps of {step} (found {by_number[min(steps)]}); number them by second."
    return "" if by_number else f" Found {pictures[0]}; frames must be named like 000000.png."


def _suggest_spelling(root: Path, videos: Sequence[str], flag: str) -> str:
    """Describes a folder whose name differs from a video's only by case, zeros or separators."""
    folders = {_normalize(p.name): p for p in reversed(_entries(root)) if p.is_dir()}
    for video in videos:
        found = folders.get(_normalize(video))
        if found is not None and found.name != video:
            return (
                f" Found {found}, where the split says {video}; rename the folders, or write their names into {flag}."
            )
    return ""


def _suggest_root(root: Path, videos: Sequence[str], flag: str) -> str:
    """Describes a video's folder up to two levels below the root, or next to it."""
    for inner in _folders(root):
        if found := _first(inner / video for video in videos if (inner / video).is_dir()):
            return f" Found {found}; give {flag} {inner}."
    if found := _first(root.parent / video for video in videos if (root.parent / video).is_dir()):
        return f" Found {found}; give {flag} {root.parent}."
    return ""


def _folders(root: Path) -> Iterator[Path]:
    """The folders in a folder, then those in them."""
    inner = [p for p in _entries(root) if p.is_dir()]
    yield from inner
    for folder in inner[:_MAX_FOLDERS]:
        yield from (p for p in _entries(folder) if p.is_dir())


def _normalize(name: str) -> str:
    """A video's name without case, zeros before numbers, and separators."""
    return re.sub(r"0*(\d)", r"\1", re.sub(r"[\s_-]", "", name.lower()))


def _entries(folder: Path) -> list[Path]:
    """The first entries of a folder by name, hidden ones left out; empty if it cannot be read."""
    try:
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names[:_MAX_ENTRIES]]


def _first(paths: Iterable[Path]) -> Path | None:
    return next(iter(paths), None)
