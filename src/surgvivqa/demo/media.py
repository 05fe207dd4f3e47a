"""What a visitor asks about: a picture, a video file or a folder of frames, within the server's limits."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from surgvivqa.data.frames import open_image
from surgvivqa.demo.timeline import format_time
from surgvivqa.utils.errors import InputError
from surgvivqa.video import ClipSource, open_clip_source

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass
class Media:
    """A picture or a video that questions are asked about.

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

    def clip(self, at: float, frames: int, stride: float) -> list[Image.Image]:
        """The frames of the clip that ends at ``at`` seconds, oldest first; a picture is its own clip.

        Raises:
            InputError: the video cannot be decoded there.
        """
        if self.source is None:
            assert self.picture is not None
            return [self.picture]
        with self._lock:  # a decoder has one position
            return self.source.clip(min(max(at, 0.0), self.duration), frames, stride)

    def frame(self, at: float) -> Image.Image:
        """The frame at ``at`` seconds."""
        return self.clip(at, 1, 1.0)[-1]


def open_media(path: Path, name: str, most_seconds: float) -> Media:
    """Opens a picture, a video file or a folder of frames, and decodes its first frame.

    Args:
        path: the file or folder. A picture is read whole, so that its file may go; a video is read when it is asked.
        name: its name in messages.
        most_seconds: the longest video that is taken.

    Raises:
        InputError: it cannot be read, or is too long; the message has ``name`` and no path.
    """
    if path.is_file() and _looks_like_picture(path):
        try:
            return Media(name, path, picture=open_image(path))
        except InputError as error:
            raise InputError(f"{name} cannot be read as a picture{_reason(error)}; drop another file.") from None
    try:
        source = open_clip_source(path)
        duration = source.duration or 0.0
        media = Media(name, path, source=source, duration=duration)
        media.frame(0.0)
    except InputError as error:
        raise InputError(f"{name} cannot be read as a video or a picture{_reason(error)}; drop another file.") from None
    if duration > most_seconds:
        raise InputError(
            f"{name} is {format_time(duration)} long, but at most {format_time(most_seconds)} are taken here; drop a "
            f"shorter part of it."
        )
    return media


def _looks_like_picture(path: Path) -> bool:
    """Whether the content or the name says that a file is a picture."""
    with path.open("rb") as file:
        head = file.read(12)
    is_avi = head.startswith(b"RIFF") and not head.endswith(b"WEBP")
    return (head.startswith(_PICTURES) and not is_avi) or path.suffix.lower() in _PICTURE_SUFFIXES


def _reason(error: InputError) -> str:
    """The part of a message in its parentheses, which has no path in it; empty if there is none."""
    text = str(error)
    start, end = text.find("("), text.rfind(")")
    reason = text[start + 1 : end] if 0 <= start < end else ""
    return f" ({reason})" if reason and "/" not in reason else ""
