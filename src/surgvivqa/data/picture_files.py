"""Where the pictures of a data set's clips are, for data sets whose files are not ``<video>/<frame padded to 6>.png``.

A clip has a number in its video, which predictions, caches and messages show as its frame. It is shown as one picture,
or as several from the oldest to the newest. The newest one goes by the clip's number; the others have numbers from
``INNER`` on, so that each picture of a video has a number of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

INNER = 10**9
"""The first number of the pictures of clips other than the newest ones; the numbers of clips are smaller."""

FRAME_PATH = "{video}/{frame:06}.png"
"""The rule of CholecT45's frames, and of data sets without another rule."""

_PLACEHOLDER = re.compile(r"\{(video|frame)(?::0(\d{1,2}))?\}")
_NUMBER = re.compile(r"(\d+)(?=\D*$)")


@dataclass(frozen=True)
class PictureFiles:
    """The picture files of clips.

    Attributes:
        paths: video and number of a picture to its path below the root of the frames.
        clips: video and number of a clip of several pictures to the numbers of its pictures, oldest first.
        rule: the path of a picture that is not in ``paths``, from its video and number; None if there is no rule.
    """

    paths: Mapping[tuple[str, int], str] = field(default_factory=dict)
    clips: Mapping[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    rule: str | None = None

    def path(self, video: str, number: int) -> str | None:
        """The path of a picture below the root; None if it is not known."""
        listed = self.paths.get((video, number))
        if listed is not None or self.rule is None:
            return listed
        return fill_path(self.rule, video, str(number))


def fill_path(rule: str, video: str, frame: str) -> str:
    """The path that a rule such as ``{video}/{frame:06}.png`` gives.

    ``{video}`` and ``{frame}`` are put in as they are; ``{frame:06}`` is the frame's number with zeros before it.

    Args:
        rule: the rule.
        video: name of the video.
        frame: name or number of the frame.

    Raises:
        ValueError: the rule pads the frame's number, and its name has none; or the path would leave the folder.
    """

    def fill(found: re.Match[str]) -> str:
        value = video if found[1] == "video" else frame
        if found[2] is None:
            return value
        number = frame_number(value)
        if number is None:
            raise ValueError(f"{value!r} has no number")
        return f"{number:0{int(found[2])}d}"

    path = _PLACEHOLDER.sub(fill, rule)
    if not is_inside(path):
        raise ValueError(f"{path!r} is not a path below --image-root")
    return path


def is_inside(path: str) -> bool:
    """Whether a relative path stays inside the folder that it is put below."""
    return (
        bool(path) and "\0" not in path and not path.startswith(("/", "\\")) and ".." not in PurePosixPath(path).parts
    )


def rule_by_number(rule: str) -> bool:
    """Whether a rule gives the path of any frame by its number."""
    return all(found[1] == "video" or found[2] is not None for found in _PLACEHOLDER.finditer(rule))


def frame_number(name: str) -> int | None:
    """The last number in the name of a frame, without its suffix; None if there is none, or it is too large.

    It is 900 for ``frame900``, 39453 for ``002-003_39453``, and 102 for ``VID02/000102.png``.
    """
    found = _NUMBER.search(re.sub(r"\.[A-Za-z]\w*$", "", name))
    return int(found[1]) if found and len(found[1]) <= 9 and int(found[1]) < INNER else None
