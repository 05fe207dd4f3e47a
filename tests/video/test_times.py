"""Times as people write them, and the moments that are asked about."""

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from surgvivqa.utils.errors import InputError
from surgvivqa.video import format_time, parse_time
from surgvivqa.video.clip_source import ClipSource, PictureSource
from surgvivqa.video.moments import plan_moments


class Minute:
    """A source of one minute."""

    name, duration = "film.mp4", 60.0

    def clip(self, at: float, frames: int = 1, stride: float = 1.0) -> list[Image.Image]:
        return [Image.new("RGB", (2, 2))] * frames

    def close(self) -> None: ...


def planned(**given: Any) -> Sequence[float]:
    source: ClipSource = Minute()
    moments = plan_moments(source, **given)
    assert moments is not None
    return [moments[number] for number in range(len(moments))]


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("12:34", 754),
        ("1:02:03.5", 3723.5),
        ("754", 754),
        ("754s", 754),
        ("5s", 5),
        ("500ms", 0.5),
        ("0.25", 0.25),
        (".5", 0.5),
        ("2m", 120),
        ("1h2m3s", 3723),
        ("90:00", 5400),
        (" 0:07 ", 7),
        ("0", 0),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "soon", "1:75", "1:60:00", "1.2.3", "5 apples", "nan", "inf", "1:2:3:4", ":5", "1e3"]
)
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a time; write it like 12:34"):
        parse_time(text)


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(InputError, match="'-5s' is negative"):
        parse_time("-5s")


@pytest.mark.parametrize("seconds", [0, 0.5, 59.999, 60, 754, 3599.25, 3723.5, 86_400])
def test_a_written_time_is_read_back(seconds: float) -> None:
    assert parse_time(format_time(seconds)) == seconds


@pytest.mark.parametrize(
    "given, moments",
    [
        ({"at": "0:05"}, [5]),
        ({"at": [60, "1s", 2.5]}, [60, 1, 2.5]),
        ({"every": 20}, [0, 20, 40]),
        ({"every": "20s", "start": 1, "end": 41}, [1, 21, 41]),
        ({"every": 50, "start": "0:20"}, [20]),
        ({"every": 0.1, "start": 59.7}, pytest.approx([59.7, 59.8, 59.9])),
        ({"every": 1, "start": 3, "end": 3}, [3]),
    ],
)
def test_the_moments_are_those_that_are_named(given: dict[str, Any], moments: Any) -> None:
    assert planned(**given) == moments


def test_a_step_over_a_long_video_needs_no_list() -> None:
    source = Minute()
    source.duration = 36_000.0
    moments = plan_moments(source, every="1ms")
    assert moments is not None and len(moments) == 36_000_000 and moments[12_345_678] == pytest.approx(12_345.678)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "film.mp4 lasts 1:00; say which moments to ask about"),
        ({"at": []}, "There is no moment to ask about"),
        ({"at": 61}, "1:01 is beyond the end of film.mp4, which lasts 1:00"),
        ({"at": -1}, "is not a number of seconds from the beginning"),
        ({"at": float("nan")}, "is not a number of seconds from the beginning"),
        ({"at": 5, "every": 5}, "at cannot be combined with every"),
        ({"at": 5, "end": 6}, "at cannot be combined with end"),
        ({"every": 0}, "is too short"),
        ({"every": 5, "start": "2:00"}, "2:00 is beyond the end"),
        ({"every": 5, "end": "2:00"}, "2:00 is beyond the end"),
        ({"every": 5, "start": 9, "end": 8}, "The end 0:08 is before the start 0:09"),
    ],
)
def test_moments_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(**given)


def test_a_picture_has_no_time() -> None:
    picture = PictureSource([Image.new("RGB", (2, 2))], "frame.png")
    assert plan_moments(picture) is None
    with pytest.raises(InputError, match=r"frame.png is a picture, which has no time; leave out at"):
        plan_moments(picture, at=5)
