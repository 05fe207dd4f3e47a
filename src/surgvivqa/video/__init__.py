"""Pictures at given moments of a video file, a folder of frames or an image."""

from surgvivqa.video.clip_source import ClipSource
from surgvivqa.video.opening import open_clip_source
from surgvivqa.video.times import format_time, parse_time

__all__ = ["ClipSource", "format_time", "open_clip_source", "parse_time"]
