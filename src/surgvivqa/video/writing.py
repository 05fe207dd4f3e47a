"""Writes frames to a video file, for examples and tests."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from PIL import Image

from surgvivqa.utils.atomic_files import write_file
from surgvivqa.utils.errors import InputError
from surgvivqa.video.pyav import load_av


def write_video(path: Path, frames: Iterable[Image.Image], fps: float = 1.0) -> None:
    """Writes RGB pictures of one size to an H.264 file (``.mp4``) that browsers play.

    Args:
        path: the file; it appears when it is complete.
        frames: the pictures, in order. An odd width or height loses its last column or row, which H.264 needs.
        fps: pictures per second.

    Raises:
        InputError: PyAV is not installed, there is no picture, or their sizes differ.
        RunError: the file cannot be written.
    """
    av = load_av()

    def write(temporary: Path) -> None:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = None
            for picture in frames:
                size = (picture.width // 2 * 2, picture.height // 2 * 2)
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                    stream.width, stream.height = size
                    stream.pix_fmt = "yuv420p"
                    stream.codec_context.gop_size = max(1, round(2 * fps))  # so that a browser jumps quickly
                    stream.options = {"crf": "18"}
                elif size != (stream.width, stream.height):
                    raise InputError(f"The frames of {path} have different sizes; give pictures of one size.")
                frame = av.VideoFrame.from_image(picture.convert("RGB").crop((0, 0, *size)))
                container.mux(stream.encode(frame))
            if stream is None:
                raise InputError(f"There is no frame for {path}; give at least one picture.")
            container.mux(stream.encode())

    write_file(path, write)
