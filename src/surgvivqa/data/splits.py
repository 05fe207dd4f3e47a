"""The video splits of SSG-VQA-Net, and the checks that keep the test videos out of training.

The five test videos of the standard split are reserved: no splits folder may name one in ``train`` or ``val``. The one
exception is a fold of a cross-validation, where each video is tested once and trained on otherwise. Its folder is
written by ``write_fold`` and holds ``fold.json`` with all folds, from which the three splits follow; ``load_splits``
refuses the folder if its files name anything else. So nobody can turn the check off with an empty or edited file, and a
fold's own test videos are kept out of its training by construction.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

TEST_VIDEOS: frozenset[str] = frozenset({"VID02", "VID22", "VID43", "VID60", "VID74"})
SPLIT_NAMES = ("train", "val", "test")
FOLD_FILE = "fold.json"
_VIDEO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_EXAMPLE = '{"1": ["VID01", "VID02"], "2": ["VID04", "VID05"]}'


@dataclass(frozen=True, slots=True)
class Folds:
    """The folds of a cross-validation. Each tuple has the test videos of one fold; fold numbers count from 1."""

    videos: tuple[tuple[str, ...], ...]

    def split(self, fold: int, val_videos: int) -> "Splits":
        """The splits of one fold: its own videos are tested, the last ``val_videos`` of the others are for validation.

        "The others" are in the order of the folds, as in the loader of CholecT45's authors, which takes five (Nwoye and
        Padoy, arXiv 2204.05235).

        Args:
            fold: the fold, from 1.
            val_videos: number of validation videos.

        Raises:
            InputError: there is no such fold, or no video is left to train on.
        """
        if not 1 <= fold <= len(self.videos):
            raise InputError(f"--fold {fold} does not exist; the folds are 1 to {len(self.videos)}.")
        others = [video for number, videos in enumerate(self.videos, 1) if number != fold for video in videos]
        if not 0 <= val_videos < len(others):
            raise InputError(
                f"--val-videos {val_videos} leaves fold {fold} nothing to train on: {len(others)} videos are not its "
                f"test videos."
            )
        last = len(others) - val_videos
        return Splits(tuple(others[:last]), tuple(others[last:]), self.videos[fold - 1], fold)

    def to_json(self) -> dict[str, list[str]]:
        """The content of a file of folds."""
        return {str(number): list(videos) for number, videos in enumerate(self.videos, 1)}

    @classmethod
    def from_json(cls, content: Any, path: Path) -> "Folds":
        """Validates the content of a file of folds, which ``path`` names in messages.

        Raises:
            InputError: it is not a mapping of the numbers 1, 2, ... to lists of video names, there is one fold only, a
                fold is empty, or a video is named twice.
        """
        numbers = [str(number) for number in range(1, len(content) + 1)] if isinstance(content, Mapping) else []
        if not isinstance(content, Mapping) or set(content) != set(numbers):
            raise InputError(f"File of folds {path} must map the numbers 1, 2, ... to video names, such as {_EXAMPLE}.")
        for number in numbers:
            names = content[number]
            if not _are_video_names(names) or not names:
                raise InputError(f"Fold {number} in {path} must be a list of video names, such as {_EXAMPLE}.")
        if len(numbers) < 2:
            raise InputError(f"File of folds {path} has {len(numbers)} folds; a cross-validation needs at least two.")
        first_named: dict[str, tuple[str, str]] = {}
        for number in numbers:
            for video in content[number]:
                other = first_named.setdefault(base_video(video), (video, number))
                if other != (video, number) or content[number].count(video) > 1:
                    same = "" if other[0] == video else f" ({other[0]} and {video} are the same video)"
                    raise InputError(
                        f"File of folds {path} names {video} in fold {other[1]} and again in fold {number}{same}; each "
                        f"video belongs to one fold."
                    )
        return cls(tuple(tuple(content[number]) for number in numbers))


@dataclass(frozen=True, slots=True)
class Splits:
    """Video names of the three splits, in file order.

    Attributes:
        train: the training videos.
        val: the validation videos.
        test: the test videos.
        fold: the number of the fold, from 1, if these are the splits of one fold of a cross-validation.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None = None

    def videos(self, split: str) -> tuple[str, ...]:
        """The videos of a split.

        Raises:
            InputError: ``split`` is not ``train``, ``val`` or ``test``.
        """
        if split not in SPLIT_NAMES:
            raise InputError(f"Split {split!r} is not one of {', '.join(SPLIT_NAMES)}.")
        return tuple(getattr(self, split))


def load_splits(splits_dir: str | Path | None = None, *, reserved: frozenset[str] = TEST_VIDEOS) -> Splits:
    """Reads ``train_videos.json``, ``val_videos.json``, ``test_videos.json`` and validates them.

    Args:
        splits_dir: folder of the three files, each a JSON list of video names; None takes SSG-VQA-Net's split
            (35/5/5 videos), which is included in the package. A folder with ``fold.json`` is one fold of a
            cross-validation.
        reserved: the videos that only ``test`` may name; empty for other data sets than SSG-QA.

    Raises:
        InputError: a file is missing or is not a list of video names, a name is repeated or could leave the data
            folder, two splits share a video, or train or val names one of the reserved test videos, which only a fold
            of a cross-validation may do; or the files differ from those of the fold.
    """
    folder = _package_folder() if splits_dir is None else Path(splits_dir)
    train, val, test = (_read_names(folder / f"{name}_videos.json") for name in SPLIT_NAMES)
    splits = Splits(train, val, test)
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = shared_videos(splits.videos(first), splits.videos(second))
        if shared:
            raise InputError(
                f"The {first} and {second} splits in {folder} share {', '.join(shared)}; "
                f"take each video out of one of the two files."
            )
    if (folder / FOLD_FILE).exists() or (folder / FOLD_FILE).is_symlink():
        return _check_fold(folder, splits)
    for name in ("train", "val"):
        # A copy under another name (VID02_clean) is the same video.
        leaked = sorted(v for v in splits.videos(name) if base_video(v) in reserved)
        if leaked:
            raise InputError(
                f"{folder / f'{name}_videos.json'} names {', '.join(leaked)}, a test video of SSG-VQA-Net's split, "
                f"which must never be trained on or used to pick a checkpoint; remove it."
            )
    return splits


def read_folds(path: Path | None = None) -> Folds:
    """Reads a file of folds; None takes CholecT45's five official folds, which are included in the package.

    Those are the folds of Nwoye and Padoy, "Data Splits and Metrics for Method Benchmarking on Surgical Action Triplet
    Datasets" (arXiv 2204.05235).

    Raises:
        InputError: the file cannot be read, or is not a file of folds (``Folds.from_json``).
    """
    path = _package_folder() / "cholect45_folds.json" if path is None else path
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"File of folds {path} cannot be read ({error}).") from None
    return Folds.from_json(content, path)


def write_fold(folder: Path, folds: Folds, fold: int, val_videos: int) -> Splits:
    """Writes the splits folder of one fold; its files are those that ``load_splits`` reads.

    Raises:
        InputError: there is no such fold, or no video is left to train on.
        OSError: the folder cannot be written.
    """
    splits = folds.split(fold, val_videos)
    folder.mkdir(parents=True, exist_ok=True)
    # The marker comes first: without it a killed command would leave a folder that names reserved videos.
    marker = {"fold": fold, "val_videos": val_videos, "folds": folds.to_json()}
    write_text(folder / FOLD_FILE, json.dumps(marker, indent=2) + "\n")
    for name in SPLIT_NAMES:
        write_text(folder / f"{name}_videos.json", json.dumps(list(splits.videos(name))) + "\n")
    return splits


def _check_fold(folder: Path, splits: Splits) -> Splits:
    """The splits of a fold's folder, whose files must be those that follow from its ``fold.json``.

    Raises:
        InputError: they are not, or ``fold.json`` cannot be used.
    """
    path = folder / FOLD_FILE
    try:
        content = read_json(path)
        fold, val_videos = content["fold"], content["val_videos"]
        if type(fold) is not int or type(val_videos) is not int:
            raise ValueError("fold and val_videos must be whole numbers")
        expected = Folds.from_json(content["folds"], path).split(fold, val_videos)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the file that crossval writes for a fold ({error!s}); run `surgvivqa crossval`."
        ) from None
    for name in SPLIT_NAMES:
        if splits.videos(name) != expected.videos(name):
            raise InputError(
                f"{folder / f'{name}_videos.json'} names other videos than fold {fold} in {FOLD_FILE}. The splits of a "
                f"fold may not be edited, because they may train on videos that are test videos elsewhere; change "
                f"crossval's --folds."
            )
    return expected


def _package_folder() -> Path:
    return Path(str(resources.files("surgvivqa") / "splits"))


@functools.lru_cache(maxsize=4096)
def base_video(video: str) -> str:
    """The name of the original video: ``VID02`` for ``VID02_clean``, ``vid2``, ``VID002`` and ``video02``.

    A longer number is another set's, such as the date in ``vid2024-1``; its videos are told apart by the whole name.
    """
    found = re.match(r"vid(?:eo)?[_-]?0*(\d{1,3})(?!\d)", video, re.IGNORECASE)
    return f"VID{int(found[1]):02d}" if found else video.casefold()


def shared_videos(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """The videos of ``first`` that are also in ``second``, copies under other names included."""
    others = {base_video(v) for v in second}
    return sorted(v for v in first if base_video(v) in others)


def _read_names(path: Path) -> tuple[str, ...]:
    """Reads and validates the video names of a split file."""
    try:
        names = read_json(path)
    except FileNotFoundError:
        raise InputError(f"Split file {path} does not exist; a splits folder holds one file for each split.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"Split file {path} cannot be read as JSON ({error}).") from None
    if not _are_video_names(names):
        raise InputError(f'Split file {path} must be a JSON list of video names such as ["VID01", "VID18"].')
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"Split file {path} names {', '.join(repeated)} more than once.")
    return tuple(names)


def _are_video_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(n, str) and _VIDEO_NAME.fullmatch(n) for n in names)
