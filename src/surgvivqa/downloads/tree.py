"""Finds the videos' folders and files below a root, also where layout and names differ from what is read.

What is read is ``<root>/<VIDxx>/<frame>.txt`` and ``<root>/<VIDxx>/<frame padded to 6>.png``. Copies in the wild have
the videos' folders one or two levels deeper, files in a folder of a video's folder, other spellings (``vid02``,
``video2``), and folders of variants (``VID02_clean``) beside the plain ones.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from surgvivqa.data.splits import base_video
from surgvivqa.data.ssgqa import is_system_file
from surgvivqa.downloads.file_names import NumberedName, parse_frame_name, parse_question_name
from surgvivqa.utils.errors import InputError

Kind = Literal["questions", "frames"]
_PARSE: dict[Kind, Callable[[str], NumberedName | None]] = {
    "questions": parse_question_name,
    "frames": parse_frame_name,
}
_DEPTH = 3  # levels below the root on which videos' folders are looked for
_MOST_FOLDERS = 5000
_SPELLING = re.compile(r"vid(?:eo)?[_-]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class FoundFile:
    """A file with a frame number.

    Attributes:
        path: the file.
        number: the number in its name.
        faults: what is wrong with its name (``file_names.NAME_FAULTS``).
        is_empty: whether it has no bytes.
    """

    path: Path
    number: int
    faults: tuple[str, ...]
    is_empty: bool


@dataclass
class FoundVideo:
    """The folder of a video, and what is in it.

    Attributes:
        video: the name that the video should have.
        folder: the folder that has the files.
        is_deeper: whether that is a folder within the video's folder.
        files: by number, the files; one of each number.
        copies: further files of the same numbers.
        others: names of other files.
    """

    video: str
    folder: Path
    is_deeper: bool = False
    files: dict[int, FoundFile] = field(default_factory=dict)
    copies: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """The greatest common divisor of the numbers, 1 for fewer than three; 25 if they count 25 frames per second."""
        numbers = [number for number in self.files if number]
        return math.gcd(*numbers) if len(numbers) > 2 else 1

    def name_faults(self) -> Counter[str]:
        """The number of files with each fault of names, copies left out."""
        return Counter(fault for file in self.files.values() for fault in file.faults)


@dataclass
class Tree:
    """What was found below a root.

    Attributes:
        kind: whether questions or frames were looked for.
        given: the root that was given.
        root: the folder that has the videos' folders; ``given`` if they are where they should be.
        videos: the videos that were found, by the names that they should have.
        missing: the videos that were not found.
        variants: folders of variants, which are not used.
        doubles: further folders of videos that were found.
        of_other_kind: a file of the other kind in the videos' folders, if they hold no file of this kind.
    """

    kind: Kind
    given: Path
    root: Path
    videos: dict[str, FoundVideo]
    missing: list[str]
    variants: list[Path]
    doubles: list[Path]
    of_other_kind: Path | None = None

    def reads_at(self, root: Path) -> bool:
        """Whether the videos that were found are read with ``root`` as it is, without links."""
        return all(video.folder == root / name and not video.name_faults() for name, video in self.videos.items())


def scan_tree(given: Path, kind: Kind, videos: Sequence[str]) -> Tree:
    """Finds the files of videos below a root.

    Args:
        given: the root.
        kind: whether it should hold questions or frames.
        videos: names of the videos.

    Raises:
        InputError: the root is not a folder, or a folder cannot be read.
    """
    flag = "--ssgvqa-root" if kind == "questions" else "--image-root"
    if not given.is_dir():
        raise InputError(f"{flag} {given} is not a folder; give the folder that holds the videos' folders.")
    candidates = list(_find_folders(given, set(videos)))
    if not candidates:  # the root may be the folder of one video, or beside them
        candidates = [c for c in _find_folders(given.resolve().parent, set(videos), depth=1) if not c[2]]
    found: dict[str, FoundVideo] = {}
    variants, doubles = [], []
    by_video: dict[str, list[tuple[Path, bool]]] = {}
    for video, folder, is_variant in candidates:
        by_video.setdefault(video, []).append((folder, is_variant))
    for video in videos:
        plain = [folder for folder, is_variant in by_video.get(video, []) if not is_variant]
        variants += [folder for folder, is_variant in by_video.get(video, []) if is_variant]
        # Nearest to the root first; then the right spelling.
        plain.sort(key=lambda folder: (len(folder.parts), folder.name != video, str(folder)))
        if plain:
            found[video] = _read_folder(video, plain[0], kind)
            doubles += plain[1:]
    roots = Counter(_video_folder(video).parent for video in found.values())
    root = roots.most_common(1)[0][0] if roots else given
    tree = Tree(kind, given, root, found, [v for v in videos if v not in found], variants, doubles)
    if found and not any(video.files for video in found.values()):
        tree.of_other_kind = _find_other_kind(found, kind)
    return tree


def _video_folder(video: FoundVideo) -> Path:
    """The folder that is named like the video, which may be above the one with the files."""
    folder = video.folder
    while base_video(folder.name) != base_video(video.video) and folder != folder.parent:
        folder = folder.parent
    return folder


def _find_folders(root: Path, videos: set[str], depth: int = _DEPTH) -> Iterator[tuple[str, Path, bool]]:
    """Yields the folders whose names are those of videos: the video, the folder, whether it is a variant."""
    by_base = {base_video(video): video for video in videos}
    level, seen = [root], 0
    for _ in range(depth):
        deeper = []
        for parent in level:
            for folder in _folders(parent, must_read=parent == root):
                seen += 1
                video = folder.name if folder.name in videos else by_base.get(base_video(folder.name))
                if video is not None:
                    is_plain = folder.name == video or _SPELLING.fullmatch(folder.name) is not None
                    yield video, folder, not is_plain and folder.name.casefold() != video.casefold()
                else:
                    deeper.append(folder)
                if seen > _MOST_FOLDERS:
                    return
        level = deeper


def _read_folder(video: str, folder: Path, kind: Kind) -> FoundVideo:
    """The files of a video's folder, or of the folder within it that has most of them."""
    found = _sort_files(FoundVideo(video, folder), kind)
    if found.files:
        return found
    inner = _folders(folder)
    inner += [grandchild for child in inner for grandchild in _folders(child)]
    deeper = [_sort_files(FoundVideo(video, path, is_deeper=True), kind) for path in inner]
    best = max(deeper, key=lambda v: len(v.files), default=found)
    return best if best.files else found


def _sort_files(found: FoundVideo, kind: Kind) -> FoundVideo:
    parse = _PARSE[kind]
    with _scan(found.folder) as entries:
        files = sorted((entry for entry in entries if not entry.is_dir()), key=lambda entry: entry.name)
    candidates: list[FoundFile] = []
    for entry in files:
        if is_system_file(entry.name):
            continue
        path = found.folder / entry.name
        numbered = parse(entry.name)
        if numbered is None:
            found.others.append(path)
            continue
        try:
            is_empty = entry.stat().st_size == 0
        except OSError:  # a link that leads nowhere
            is_empty = True
        candidates.append(FoundFile(path, numbered.number, numbered.faults, is_empty))
    # A rightly named file first, then whole ones, then those that are no copies.
    candidates.sort(key=lambda f: (f.number, bool(f.faults), f.is_empty, "copy" in f.faults, f.path.name))
    for file in candidates:
        if file.number in found.files:
            found.copies.append(file.path)
        else:
            found.files[file.number] = file
    return found


def _find_other_kind(videos: dict[str, FoundVideo], kind: Kind) -> Path | None:
    parse = _PARSE["frames" if kind == "questions" else "questions"]
    return next((path for video in videos.values() for path in video.others if parse(path.name) is not None), None)


def _folders(parent: Path, must_read: bool = True) -> list[Path]:
    """The folders in a folder; none if it cannot be read and need not be, such as ``lost+found``."""
    try:
        with _scan(parent) as entries:
            return sorted(parent / entry.name for entry in entries if entry.is_dir() and not is_system_file(entry.name))
    except InputError:
        if must_read:
            raise
        return []


def _scan(folder: Path) -> "os.ScandirIterator[str]":  # type: ignore[name-defined]
    try:
        return os.scandir(folder)
    except OSError as error:
        raise InputError(f"Folder {folder} cannot be read ({error.strerror}); make it readable.") from None
