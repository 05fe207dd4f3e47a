"""Small videos of many kinds, and the plain way to find a frame: decode everything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from surgvivqa.video.frame_picture import read_orientation, to_picture

RATE = 25


@dataclass(frozen=True)
class Recipe:
    """How a test's video is made.

    Attributes:
        suffix: of the file, which chooses the container.
        codec: the encoder.
        options: of the encoder.
        pix_fmt: of the encoded frames.
        size: width and height.
        ticks: the time of each frame in 1/25 s.
        audio_first: whether a silent audio stream precedes the video.
        container: options of the container.
        change: a last change of the stream before the first frame.
    """

    suffix: str = ".mp4"
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (64, 48)
    ticks: Sequence[int] = range(100)
    audio_first: bool = False
    container: dict[str, str] = field(default_factory=dict)
    change: Callable[[Any], None] | None = None

    def write(self, folder: Path) -> Path:
        """Writes the video and returns its path."""
        path = folder / f"video{self.suffix}"
        with av.open(str(path), "w", options=self.container) as file:
            audio = file.add_stream("aac", rate=48000) if self.audio_first else None
            video: Any = file.add_stream(self.codec, rate=RATE, options=self.options)
            video.width, video.height = self.size
            video.pix_fmt = self.pix_fmt
            video.codec_context.time_base = Fraction(1, RATE)
            if self.change:
                self.change(video)
            if audio is not None:
                for number in range(100):
                    sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                    sound.sample_rate, sound.pts = 48000, 1024 * number
                    file.mux(audio.encode(sound))
            for number, tick in enumerate(self.ticks):
                frame = av.VideoFrame.from_ndarray(numbered_picture(number, *self.size), "rgb24").reformat(
                    format=self.pix_fmt
                )
                frame.pts, frame.time_base = tick, Fraction(1, RATE)
                file.mux(video.encode(frame))
            file.mux(video.encode())
            if audio is not None:
                file.mux(audio.encode())
        return path


def numbered_picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture that differs from those of all other numbers: its bits as light and dark squares over a gradient."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([80 + 60 * x // width, 80 + 60 * y // height, np.full_like(x, 60 + number % 100)], 2)
    for bit in range(8):
        left, top = width // 8 * bit, 0 if number >> bit & 1 else height // 2
        picture[top : top + height // 2, left : left + width // 8] += 60
    return picture.astype(np.uint8)


def decode_all(path: Path, stream: int = 0) -> list[tuple[float, np.ndarray]]:
    """All frames of a video stream in the order of decoding, with their times from the stream's first."""
    with av.open(str(path)) as file:
        video: Any = file.streams.video[stream]
        video.thread_type = "NONE"
        start = None if video.start_time is None else video.start_time * video.time_base
        found: list[tuple[float, np.ndarray]] = []
        for packet in file.demux(video):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                at = Fraction(len(found), RATE) if frame.pts is None else frame.pts * video.time_base
                start = at if start is None else start
                found.append((float(at - start), np.asarray(to_picture(frame, turn=read_orientation(frame)))))
    return found


def shown_at(frames: Sequence[tuple[float, np.ndarray]], at: float, tick: float = 0.0) -> np.ndarray:
    """The last frame that begins at or before a moment, or the first frame; ``tick`` is half a tick of the file."""
    shown = frames[0][1]
    for time, picture in frames:
        if time > at + tick + 1e-6:
            break
        shown = picture
    return shown
