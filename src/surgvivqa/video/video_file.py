"""A video file as a source of clips."""

from pathlib import Path

from PIL import Image

from surgvivqa.utils.errors import FrameError, first_line
from surgvivqa.video.clip_source import TimedSource
from surgvivqa.video.decoding import FrameDecoder
from surgvivqa.video.frame_picture import to_picture
from surgvivqa.video.times import format_time


class VideoFile(TimedSource):
    """A video file, read with PyAV.

    Time 0 is the first frame of the video stream. Ascending moments are decoded in one pass.

    Args:
        path: the file.

    Raises:
        InputError: PyAV is not installed, or the file is not a video that can be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        self._decoder = FrameDecoder(path)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return self._decoder.duration

    def _picture(self, at: float, *, is_asked: bool) -> Image.Image:
        frame = self._decoder.frame_at(at)
        try:
            return to_picture(frame, self._decoder.pixel_aspect, self._decoder.turn)
        except ValueError as error:
            raise FrameError(
                f"The frame of {self.name} at {format_time(at)} cannot be used: {first_line(error)}."
            ) from None

    def _release(self) -> None:
        self._decoder.close()
