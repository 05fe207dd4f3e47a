"""Decodes a video to the frame that is shown at a moment: a seek to a keyframe, and decoding from there.

The frame is the one that decoding the whole file would give. Three things make a seek inexact, and each is handled: it
may land after the moment (then an earlier place is tried, at last the beginning of the file), the frames that follow a
keyframe in the file but precede it in time need frames that were not decoded (they are left out, and the seek counts as
late if the moment is among them), and timestamps are rounded to the container's ticks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from surgvivqa.utils.errors import FrameError, InputError, first_line
from surgvivqa.video.frame_picture import MAX_PIXELS, read_orientation
from surgvivqa.video.pyav import load_av
from surgvivqa.video.times import format_time

# Formats that hold their frames themselves. Others, such as playlists, name further files and addresses to open.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,h264,hevc,asf,flv,mxf,ogg,dv,"
    "yuv4mpegpipe,ivf,gif,apng,nut,wtv,rm,av1,obu"
)
# Formats in which frames have the same times after a seek as without it. In others, such as MPEG program streams, where
# few frames have a time, everything before a moment is decoded.
_SEEKABLE = ("mov", "matroska", "mpegts", "avi", "asf", "flv")
_MAX_THREADS = 4  # each holds a frame
_STEPS_BACK = (0, 1, 4, 16, 64)  # seconds
_JUMP = 10.0  # seconds ahead from which a seek is tried
_MAX_GAP = 1.0  # seconds without a frame at a damaged place


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    Attributes:
        time: when it begins, in seconds from the first frame.
        frame: a PyAV ``VideoFrame``.
    """

    time: float
    frame: Any


class FrameDecoder:
    """The frames of the main video stream of a file, by time from its first frame.

    Args:
        path: the file.

    Attributes:
        duration: seconds from the first frame to the end of the last one.
        pixel_aspect: width by height of a pixel.
        turn: what makes the pictures upright.

    Raises:
        InputError: PyAV is not installed, or the file is not a video that can be read.
    """

    def __init__(self, path: Path) -> None:
        self._av, self._path = load_av(), path
        try:
            if not path.is_file():
                raise InputError(f"{path} is not a file; give a video file.")
            if path.stat().st_size == 0:
                raise InputError(f"{path} is empty; give a video file.")
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}).") from None
        self._container: Any = None
        self._current: TimedFrame | None = None
        self._next: TimedFrame | None = None
        self._jump = _JUMP
        try:
            self._origin: Fraction | None = None
            self._open()
            self._origin = self._stream_start()
            self._next = next(self._frames, None)
            if self._next is None:
                raise InputError(f"{path} holds no frame that can be decoded; it is damaged, or is not a video.")
            self.pixel_aspect, self.turn = self._find_pixel_aspect(), read_orientation(self._next.frame)
            self.duration = self._find_duration()
        except BaseException:
            self.close()
            raise

    def frame_at(self, at: float) -> Any:
        """The frame that is shown at ``at`` seconds: the last one that begins at or before it, or else the first one.

        Returns:
            A PyAV ``VideoFrame``.

        Raises:
            FrameError: the file is damaged at this place, or ends before it.
        """
        if self._container is None:
            raise ValueError("the video is closed")
        place = self._current or self._next  # without a current frame, the next one is the first of the file
        if place is None or (place is self._current and at < place.time) or at > place.time + self._jump:
            self._seek(at)
        self._advance(at)
        shown = self._current or self._next
        if shown is None:
            raise FrameError(f"{self._path} shows no picture at {format_time(at)}; the file is damaged or cut off.")
        self._check_gap(shown, at)
        return shown.frame

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()
        self._container = self._current = self._next = None

    def _open(self) -> None:
        """Opens the file at its beginning."""
        if self._container is not None:
            self._container.close()
        av, path = self._av, self._path
        try:
            # "file:" keeps a name with a colon from being an address, and the lists keep a file from naming others.
            self._container = av.open(
                f"file:{path.absolute()}",
                container_options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            )
            stream = self._choose_stream()
        except av.error.FFmpegError as error:
            why = first_line(ValueError(error.strerror or error), 100)
            raise InputError(f"{path} cannot be read as a video ({why}).") from None
        context = stream.codec_context
        if context is None:
            raise InputError(f"{path} holds a video of a format that PyAV cannot decode; convert it to H.264.")
        if context.width * context.height > MAX_PIXELS:
            raise InputError(
                f"{path} has frames of {context.width} x {context.height} pixels, more than {MAX_PIXELS:,}; scale it "
                f"down."
            )
        context.thread_type, context.thread_count = "AUTO", _MAX_THREADS
        context.options = {"max_pixels": str(MAX_PIXELS)}
        self._stream = stream
        self._frames = self._decode()
        self._current = self._next = None
        self._is_broken = False
        self._can_seek = self._container.format.name.split(",")[0] in _SEEKABLE

    def _choose_stream(self) -> Any:
        """The main video stream; pictures of a cover are none.

        Raises:
            InputError: there is none.
        """
        cover = self._av.stream.Disposition.attached_pic
        videos = [s for s in self._container.streams.video if not s.disposition & cover]
        if not videos:
            raise InputError(f"{self._path} has no video stream; give a file with one.")
        best = self._container.streams.best("video")
        return best if best in videos else videos[0]

    def _decode(self) -> Iterator[TimedFrame]:
        """The frames from the current place on, in the order in which they are shown; damaged packets are left out.

        Frames of a raw stream have no times, and follow each other at the stream's rate.
        """
        error = self._av.error.FFmpegError
        packets = iter(self._container.demux(self._stream))
        count = 0
        while True:
            try:
                packet = next(packets, None)
            except error:
                self._is_broken = True
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except error:
                self._is_broken = True
                continue
            for frame in frames:
                if frame.pts is None:
                    self._can_seek = False
                    yield TimedFrame(float(count / self._rate()), frame)
                else:
                    start = frame.pts * frame.time_base
                    self._origin = start if self._origin is None else self._origin
                    yield TimedFrame(float(start - self._origin), frame)
                count += 1

    def _advance(self, at: float) -> None:
        """Decodes until ``_current`` is the last frame that begins at or before a moment."""
        while self._next is not None and _begins_by(self._next, at):
            self._current, self._is_broken = self._next, False
            self._next = next(self._frames, None)

    def _seek(self, at: float) -> None:
        """Goes to a frame that begins at or before a moment, or to the beginning of the file."""
        place = self._current or self._next
        was = None if place is None else place.time
        if not self._can_seek:
            if was is not None and was <= at:
                return  # decoding on is as good
        else:
            for back in _STEPS_BACK:
                if at - back <= 0:
                    break
                found = self._seek_keyframe(at - back, at)
                if found is not None:
                    if was is not None and was < at and found <= was:
                        self._jump *= 4  # no keyframe between: decoding on would have been faster
                    return
        self._open()
        self._next = next(self._frames, None)

    def _seek_keyframe(self, target: float, at: float) -> float | None:
        """Seeks to a keyframe near ``target`` and returns its time; None if it does not begin at or before ``at``."""
        ticks = int((Fraction(target) + (self._origin or 0)) / self._stream.time_base)
        self._current = self._next = None
        try:
            self._container.seek(ticks, stream=self._stream, backward=True)
        except self._av.error.FFmpegError:
            return None
        self._frames = self._decode()
        self._is_broken = False
        for shown in self._frames:
            if not _begins_by(shown, at):
                return None
            if shown.frame.key_frame:
                self._current, self._next = shown, next(self._frames, None)
                return shown.time
        return None

    def _check_gap(self, shown: TimedFrame, at: float) -> None:
        """Raises FrameError if the file is damaged or ends between a frame and the moment that should show it."""
        seconds = float((shown.frame.duration or 0) * shown.frame.time_base)
        is_late = at > shown.time + max(seconds, _MAX_GAP)
        if is_late and (self._is_broken or self._next is None):
            where = "ends after" if self._next is None else "is damaged after"
            raise FrameError(
                f"{self._path} shows no picture at {format_time(at)}: it {where} {format_time(shown.time)}, so the "
                f"file is damaged or cut off."
            )

    def _rate(self) -> Fraction:
        """Frames per second, as far as the file says."""
        return Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)

    def _stream_start(self) -> Fraction | None:
        start = self._stream.start_time
        return None if start is None else start * self._stream.time_base

    def _find_pixel_aspect(self) -> Fraction:
        """Width by height of a pixel; 1 if the file does not say, or says something absurd."""
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        return Fraction(aspect) if Fraction(1, 4) <= aspect <= 4 else Fraction(1)

    def _find_duration(self) -> float:
        """Seconds of the video stream: as the header of an MP4 says, or else by its last packets.

        Other headers have the duration of all streams, or an estimate.
        """
        stream, total = self._stream, self._container.duration
        if self._container.format.name.startswith("mov") and stream.duration and stream.duration > 0:
            return float(stream.duration * stream.time_base)
        end = 0.0
        if self._can_seek and total:
            start = Fraction(self._container.start_time or 0, 1_000_000)
            end = self._last_packet_ends(start + Fraction(total, 1_000_000))
        if end <= 0:
            self._open()
            end = self._last_packet_ends(None)
        self._open()
        self._next = next(self._frames, None)
        return end

    def _last_packet_ends(self, after: Fraction | None) -> float:
        """The end of the last packet after a seek to a place in the file's time, or of all packets; 0 without any."""
        stream, count, end = self._stream, 0, Fraction(0)
        step = 1 / self._rate()
        try:
            if after is not None:
                self._container.seek(int(after / stream.time_base), stream=stream, backward=True)
            for packet in self._container.demux(stream):
                if packet.size:
                    count += 1
                    if packet.pts is not None:
                        length = packet.duration * packet.time_base if packet.duration else step
                        end = max(end, packet.pts * packet.time_base - (self._origin or 0) + length)
        except self._av.error.FFmpegError:  # damaged: what is before can be asked about
            pass
        return float(end if end or after is not None else count * step)


def _begins_by(shown: TimedFrame, at: float) -> bool:
    """Whether a frame begins at or before a moment, which timestamps in ticks of a millisecond round."""
    return shown.time <= at + min(float(shown.frame.time_base) / 2, 5e-4) + 1e-6
