"""Which second of its video a frame shows, where frames are not numbered by second from 0 as CholecT45's are."""

from collections.abc import Collection
from dataclasses import dataclass

from surgvivqa.downloads.tree import FoundVideo


@dataclass(frozen=True)
class Timing:
    """How the frames of a video are numbered.

    Attributes:
        rate: frames per second; of several frames of a second the first is used.
        first: the number of the frame at second 0.
    """

    rate: int = 1
    first: int = 0

    def second(self, number: int) -> int | None:
        """The second that a frame shows; None if it is between two, or before the first."""
        offset = number - self.first
        return offset // self.rate if offset >= 0 and offset % self.rate == 0 else None


def find_timing(video: FoundVideo, asked: Collection[int], given: Timing) -> Timing:
    """The timing of a video's frames: the given one, else by the step of their numbers.

    Args:
        video: the frames.
        asked: the seconds that questions are about.
        given: the timing by flags; the default one means that none was given.
    """
    if given != Timing() or video.steps == 1 or all(second in video.files for second in asked):
        return given
    return Timing(rate=video.steps)
