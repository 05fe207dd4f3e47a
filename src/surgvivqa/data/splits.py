"""The video splits of SSG-VQA-Net, and the checks that keep the test videos out of training."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

TEST_VIDEOS: frozenset[str] = frozenset({"VID02", "VID22", "VID43", "VID60", "VID74"})
SPLIT_NAMES = ("train", "val", "test")
_VIDEO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Splits:
    """Video names of the three splits, in file order."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def videos(self, split: str) -> tuple[str, ...]:
        """The videos of a split.

        Raises:
            InputError: ``split`` is not ``train``, ``val`` or ``test``.
        """
        if split not in SPLIT_NAMES:
            raise InputError(f"Split {split!r} is not one of {', '.join(SPLIT_NAMES)}.")
        return tuple(getattr(self, split))


def load_splits(splits_dir: str | Path | None = None) -> Splits:
    """Reads ``train_videos.json``, ``val_videos.json``, ``test_videos.json`` and validates them.

    Args:
        splits_dir: folder of the three files, each a JSON list of video names; None takes SSG-VQA-Net's split
            (35/5/5 videos), which is included in the package.

    Raises:
        InputError: a file is missing or is not a list of video names, a name is repeated or could leave the data
            folder, two splits share a video, or train or val names one of the five test videos.
    """
    folder = Path(splits_dir) if splits_dir is not None else Path(str(resources.files("surgvivqa") / "splits"))
    splits = Splits(**{name: _read_names(folder / f"{name}_videos.json") for name in SPLIT_NAMES})
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = shared_videos(splits.videos(first), splits.videos(second))
        if shared:
            raise InputError(
                f"The {first} and {second} splits in {folder} share {', '.join(shared)}; "
                f"take each video out of one of the two files."
            )
    for name in ("train", "val"):
        # A copy under another name (VID02_clean) is the same video.
        leaked = sorted(v for v in splits.videos(name) if base_video(v) in TEST_VIDEOS)
        if leaked:
            raise InputError(
                f"{folder / f'{name}_videos.json'} names {', '.join(leaked)}, a test video of SSG-VQA-Net's split, "
                f"which must never be trained on or used to pick a checkpoint; remove it."
            )
    return splits


@functools.lru_cache(maxsize=4096)
def base_video(video: str) -> str:
    """The name of the original video: ``VID02`` for ``VID02_clean``, ``vid2``, ``VID002`` and ``video02``."""
    found = re.match(r"vid(?:eo)?[_-]?0*(\d+)", video, re.IGNORECASE)
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
    if not isinstance(names, list) or not all(isinstance(n, str) and _VIDEO_NAME.fullmatch(n) for n in names):
        raise InputError(f'Split file {path} must be a JSON list of video names such as ["VID01", "VID18"].')
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"Split file {path} names {', '.join(repeated)} more than once.")
    return tuple(names)
