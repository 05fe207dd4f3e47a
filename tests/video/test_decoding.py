"""A seek gives the frame that decoding the whole file gives, for many kinds of files."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgvivqa.video.video_file import VideoFile
from tests.helpers.videos import Recipe, decode_all, shown_at

UNEVEN = [0, 1, 2, 10, 11, 30, 31, 33, 60, 61, 90, 91, 92, 93, 120, 121, 150]


def _set_rotation(stream: Any) -> None:
    stream.set_display_rotation(90)


RECIPES = {
    "b-frames": Recipe(options={"g": "30", "bf": "3"}),
    "b-frames in a transport stream": Recipe(suffix=".ts", options={"g": "30", "bf": "3"}),
    "open groups": Recipe(suffix=".mkv", options={"x264-params": "keyint=25:min-keyint=25:open-gop=1:bframes=3"}),
    "open groups in mp4": Recipe(options={"x264-params": "keyint=25:min-keyint=25:open-gop=1:bframes=3"}),
    "open groups in a transport stream": Recipe(
        suffix=".ts", options={"x264-params": "keyint=25:min-keyint=25:open-gop=1:bframes=3"}
    ),
    "one keyframe": Recipe(options={"g": "1000"}),
    "no keyframe but the first": Recipe(options={"x264-params": "intra-refresh=1:keyint=25:bframes=0"}),
    "hevc": Recipe(codec="libx265", options={"x265-params": "keyint=25:min-keyint=25:log-level=none"}),
    "only keyframes": Recipe(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p"),
    "mpeg4 in avi": Recipe(suffix=".avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg4 in mp4": Recipe(codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg2": Recipe(suffix=".mpg", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "wmv": Recipe(suffix=".wmv", codec="wmv2", options={"g": "12"}),
    "flv": Recipe(suffix=".flv", codec="flv1", options={"g": "12"}),
    "h264 in flv": Recipe(suffix=".flv", options={"g": "30", "bf": "3"}),
    "mxf": Recipe(suffix=".mxf", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "webm": Recipe(suffix=".webm", codec="libvpx", options={"g": "30"}, ticks=range(50)),
    "variable rate": Recipe(options={"g": "5"}, ticks=UNEVEN),
    "variable rate in mkv": Recipe(suffix=".mkv", options={"g": "5"}, ticks=UNEVEN),
    "starts late": Recipe(suffix=".ts", options={"g": "20"}, ticks=range(1000, 1100)),
    "starts late in mkv": Recipe(suffix=".mkv", options={"g": "20"}, ticks=range(70, 170)),
    "rotated": Recipe(options={"g": "30"}, change=_set_rotation, ticks=range(30)),
    "odd size": Recipe(suffix=".mkv", options={"g": "30"}, pix_fmt="yuv444p", size=(67, 49), ticks=range(40)),
    "10 bits": Recipe(options={"g": "30"}, pix_fmt="yuv420p10le", ticks=range(40)),
    "grey": Recipe(suffix=".mkv", options={"g": "30"}, pix_fmt="gray", ticks=range(40)),
    "audio first": Recipe(options={"g": "30"}, audio_first=True),
    "raw": Recipe(suffix=".h264", options={"g": "30", "bf": "0"}, ticks=range(60)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_moment_shows_the_frame_of_the_whole_decoded_file(name: str, tmp_path: Path) -> None:
    path = RECIPES[name].write(tmp_path)
    frames = decode_all(path)
    assert len(frames) >= min(len(RECIPES[name].ticks), 17)
    with VideoFile(path) as video:
        tick = 5e-4 if path.suffix in (".mkv", ".webm", ".flv", ".wmv") else 0.0
        moments = [time for time, _ in frames] + [video.duration * n / 37 for n in range(38)]
        random.Random(0).shuffle(moments)
        for at in [*moments[:20], *sorted(moments), 0.0, video.duration]:
            at = min(at, video.duration)
            (picture,) = video.clip(at)
            assert np.array_equal(np.asarray(picture), shown_at(frames, at, tick)), at
