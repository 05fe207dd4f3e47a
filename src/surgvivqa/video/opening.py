"""Opens a video file, a folder of frames or an image as a source of clips."""

from pathlib import Path

from surgvivqa.data.frames import open_image
from surgvivqa.utils.errors import InputError
from surgvivqa.video.clip_source import ClipSource, PictureSource
from surgvivqa.video.frame_folder import PICTURE_SUFFIXES, FrameFolder
from surgvivqa.video.video_file import VideoFile

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".wmv",
    ".flv",
    ".mxf",
)


def open_clip_source(path: Path, fps: float | None = None) -> ClipSource:
    """Opens a video file, a folder of frames or an image.

    Args:
        path: the file or folder; a file with the suffix of a picture is an image, any other a video.
        fps: frames per second of a folder whose frames are not named after seconds.

    Raises:
        InputError: it does not exist or cannot be used, or ``fps`` is given for a file.
    """
    path = Path(path)
    if path.is_dir():
        return FrameFolder(path, fps)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a video file, a folder of frames or an image.")
    if fps is not None:
        raise InputError(f"{path} is a file, which has its own frames per second; they are given only for a folder.")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureSource([open_image(path)], str(path))
    return VideoFile(path)
