"""What all sources of clips have in common: pictures by time, and the pictures of a clip."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from PIL import Image

from surgvivqa.utils.errors import InputError
from surgvivqa.video.times import check_moment


class ClipSource(Protocol):
    """Something with pictures over time.

    Attributes:
        name: its name, for messages.
        duration: seconds; None for one that has no time, such as an image.
    """

    name: str

    @property
    def duration(self) -> float | None:
        """Seconds; None for a source without time."""
        ...

    def clip(self, at: float, frames: int = 1, stride: float = 1.0) -> list[Image.Image]:
        """The ``frames`` pictures that end at ``at``, ``stride`` seconds apart, oldest first, in RGB.

        The picture of a moment is the last one that begins at or before it. The nearest later picture of the clip
        replaces a missing one, such as one before the beginning, so that the same picture may be in the list twice.

        Raises:
            InputError: there is no such moment, or a picture cannot be read.
        """
        ...

    def close(self) -> None:
        """Closes the file. The source cannot be used afterwards."""
        ...


class TimedSource:
    """The clips of a source that shows one picture at a time.

    It keeps the pictures of its last clip, so that the next one reads only what is new, and never holds more. Several
    threads may use one object; they take turns.
    """

    name: str

    def __init__(self) -> None:
        self._kept: dict[float, Image.Image] = {}
        self._lock = threading.Lock()

    @property
    def duration(self) -> float | None:
        """Seconds."""
        raise NotImplementedError

    def _picture(self, at: float, *, is_asked: bool) -> Image.Image | None:
        """The picture of a moment; None if a moment that is only the context of a clip has none."""
        raise NotImplementedError

    def clip(self, at: float, frames: int = 1, stride: float = 1.0) -> list[Image.Image]:
        """The pictures of a clip: see ``ClipSource.clip``."""
        assert self.duration is not None
        check_moment(at, self.duration, self.name)
        wanted = [round(at - back * stride, 6) for back in range(frames - 1, 0, -1)] + [round(at, 6)]
        with self._lock:
            self._kept = {moment: self._kept[moment] for moment in wanted if moment in self._kept}
            shown: list[Image.Image | None] = []
            for number, moment in enumerate(wanted):
                if moment >= 0 and moment not in self._kept:
                    picture = self._picture(moment, is_asked=number == frames - 1)
                    if picture is not None:
                        self._kept[moment] = picture
                shown.append(self._kept.get(moment))
        return fill_gaps(shown)

    def close(self) -> None:
        """Closes what is open."""
        with self._lock:
            self._kept = {}
            self._release()

    def _release(self) -> None:
        """Closes the file, if one is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def fill_gaps(pictures: Sequence[Image.Image | None]) -> list[Image.Image]:
    """Replaces missing pictures of a clip by the nearest later one; the last one is not missing."""
    filled: list[Image.Image] = []
    for picture in reversed(pictures):
        if picture is None and not filled:
            raise ValueError("the last picture of a clip is missing")
        filled.append(filled[-1] if picture is None else picture)
    return filled[::-1]


class PictureSource:
    """One picture, or the pictures of one clip, as a source without time.

    Args:
        pictures: the pictures, oldest first, in RGB.
        name: for messages.
    """

    duration = None

    def __init__(self, pictures: Sequence[Image.Image], name: str = "the picture") -> None:
        self.pictures, self.name = list(pictures), name

    def clip(self, at: float = 0.0, frames: int = 1, stride: float = 1.0) -> list[Image.Image]:
        """The pictures; the last ``frames`` of them, preceded by copies of the first if they are fewer.

        Raises:
            InputError: there are more pictures than the clip has frames.
        """
        if len(self.pictures) > frames:
            raise InputError(
                f"{self.name} has {len(self.pictures)} pictures, but this model takes clips of at most {frames}."
            )
        return [self.pictures[0]] * (frames - len(self.pictures)) + self.pictures

    def close(self) -> None:
        """Has nothing to close."""
