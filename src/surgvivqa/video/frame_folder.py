"""A folder of frames as a source of clips."""

import bisect
import itertools
import re
from pathlib import Path

from PIL import Image

from surgvivqa.data.frames import open_image
from surgvivqa.utils.errors import FrameError, InputError
from surgvivqa.video.clip_source import TimedSource
from surgvivqa.video.times import format_time

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_SECONDS = re.compile(r"\d{6}")


class FrameFolder(TimedSource):
    """The frames in a folder.

    A frame with a name of six digits, as in SSG-QA and CholecT45, is that second of the video: ``000754.png`` is 12:34.
    With ``fps``, frames with any names are in the order of the numbers in their names.

    Args:
        folder: the folder.
        fps: frames per second; None if the names are seconds.

    Raises:
        InputError: the folder holds no pictures, or ``fps`` is needed or is not above 0.
    """

    def __init__(self, folder: Path, fps: float | None = None) -> None:
        super().__init__()
        self.name = str(folder)
        if fps is not None and not 0 < fps <= 1000:
            raise InputError(f"{fps:g} frames per second cannot be used for {folder}; give a number above 0.")
        try:
            paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.name[0] != "."]
        except OSError as error:
            raise InputError(f"Folder {folder} cannot be read ({error.strerror}).") from None
        if not paths:
            raise InputError(f"Folder {folder} holds no pictures; give a video, or a folder of frames.")
        paths.sort(key=lambda path: _natural_order(path.name))
        self._step = 1.0 if fps is None else 1 / fps
        if fps is not None:
            self._times = [number / fps for number in range(len(paths))]
        else:
            odd = next((path.name for path in paths if not _SECONDS.fullmatch(path.stem)), None)
            if odd is not None:
                raise InputError(
                    f"{folder} has the frame {odd}, whose name is not a second of six digits such as 000754.png; give "
                    f"the frames per second (--fps), so that the frames are taken in the order of their names."
                )
            self._times = [float(path.stem) for path in paths]
            twice = next((a.name for a, b in itertools.pairwise(paths) if a.stem == b.stem), None)
            if twice is not None:
                raise InputError(f"{folder} has two pictures of second {Path(twice).stem}; keep one of them.")
        self._paths = paths

    @property
    def duration(self) -> float:
        """Seconds from 0 to the end of the last frame."""
        return self._times[-1] + self._step

    def _picture(self, at: float, *, is_asked: bool) -> Image.Image | None:
        number = bisect.bisect_right(self._times, at + 1e-6) - 1
        # A frame is shown until the next one is due, and at the end of the last one.
        if number >= 0 and at <= self._times[number] + self._step + (1e-3 if number + 1 == len(self._times) else -1e-6):
            return open_image(self._paths[number])
        if not is_asked:
            return None
        near = " and ".join(self._paths[i].name for i in (number, number + 1) if 0 <= i < len(self._paths))
        raise FrameError(f"{self.name} has no frame for {format_time(at)} (nearest: {near}); give another moment.")


def _natural_order(name: str) -> list[tuple[int, str]]:
    """A key by which ``frame2`` is before ``frame10``."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
