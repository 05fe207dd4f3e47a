"""What a visitor asks about: a picture, a video file or a folder of frames, within the server's limits."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from surgvivqa.data.frames import open_image
from surgvivqa.utils.errors import InputError
from surgvivqa.video.clip_source import ClipSource
from surgvivqa.video.opening import open_clip_source
from surgvivqa.video.times import format_time

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass
class Media:
    """A picture or a video that questions are asked about; a video is a ``ClipSource`` for several threads.

    Attributes:
        name: its file's name, as the visitor knows it.
        path: where it is.
        picture: the picture; None for a video.
        source: reads the video; None for a picture.
        duration: seconds; 0 for a picture.
    """

    name: str
    path: Path
    picture: Image.Image | None = None
    source: ClipSource | None = None
    duration: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_video(self) -> bool:
        """Whether it has moments."""
        return self.source is not None

    def clip(self, at: float, frames: int = 1, stride: float = 1.0) -> list[Image.Image]:
        """The frames of the clip that ends at ``at`` seconds, oldest first; a picture is its own clip.

        Raises:
            InputError: the video cannot be decoded there.
        """
        if self.source is None:
            assert self.picture is not None
            return [self.picture]
        try:
            with self._lock:  # a decoder has one position
                return self.source.clip(min(max(at, 0.0), self.duration), frames, stride)
        except InputError as error:
            raise InputError(str(error).replace(str(self.path), self.name)) from None

    def frame(self, at: float) -> Image.Image:
        """The frame at ``at`` seconds."""
        return self.clip(at)[-1]

    def close(self) -> None:
        """Closes the video's file."""
        if self.source is not None:
            with self._lock:
                self.source.close()


def open_media(path: Path, name: str, most_seconds: float) -> Media:
    """Opens a picture, a video file or a folder of frames, and decodes its first frame.

    Args:
        path: the file or folder. A picture is read whole, so that its file may go; a video is read when it is asked.
        name: its name in messages.
        most_seconds: the longest video that is taken.

    Raises:
        InputError: it cannot be read, or is too long; the message has ``name`` and no path.
    """
    try:
        if path.is_file() and _looks_like_picture(path):
            return Media(name, path, picture=_open_picture(path))
        source = open_clip_source(path)
        duration = source.duration
        assert duration is not None  # only pictures have none
        media = Media(name, path, source=source, duration=duration)
        try:
            if duration > most_seconds:
                raise InputError(
                    f"{name} is {format_time(round(duration))} long, but at most {format_time(most_seconds)} are taken "
                    f"here; drop a shorter part of it."
                )
            media.frame(0.0)
        except BaseException:
            media.close()
            raise
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None
    return media


def _open_picture(path: Path) -> Image.Image:
    try:
        return open_image(path)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('.')}; drop another file.") from None


def _looks_like_picture(path: Path) -> bool:
    """Whether the content or the name says that a file is a picture."""
    with path.open("rb") as file:
        head = file.read(12)
    is_avi = head.startswith(b"RIFF") and not head.endswith(b"WEBP")
    return (head.startswith(_PICTURES) and not is_avi) or path.suffix.lower() in _PICTURE_SUFFIXES
