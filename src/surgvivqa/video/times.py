"""Times: how people write them."""

import math
import re

from surgvivqa.utils.errors import InputError

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)")
_UNITS = re.compile(r"(?=[\d.])(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s?)?")
_MILLISECONDS = re.compile(r"(\d+(?:\.\d*)?)ms")


def parse_time(text: str) -> float:
    """A time in seconds, as written by people: ``12:34``, ``1:02:03.5``, ``754``, ``5s``, ``500ms`` or ``1h2m3s``.

    Raises:
        InputError: it is negative, or is not a time.
    """
    plain = "".join(text.lower().split())
    if plain.startswith("-"):
        raise InputError(f"The time {text!r} is negative; times count from the beginning, such as 12:34.")
    try:
        if found := _MILLISECONDS.fullmatch(plain):
            return float(found[1]) / 1000
        if found := _CLOCK.fullmatch(plain):
            hours, minutes, seconds = float(found[1] or 0), float(found[2]), float(found[3])
            if seconds < 60 and (minutes < 60 or found[1] is None):
                return 3600 * hours + 60 * minutes + seconds
        elif found := _UNITS.fullmatch(plain):
            return sum(float(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True) if part)
    except ValueError:  # several decimal points
        pass
    raise InputError(f"{text!r} is not a time; write it like 12:34, 1:02:03.5, 754, 5s or 500ms.")


def read_time(value: float | str) -> float:
    """A time in seconds from a number of seconds or from text (``parse_time``).

    Raises:
        InputError: it is negative, not finite, or not a time.
    """
    if isinstance(value, str):
        return parse_time(value)
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"The time {value} is not a number of seconds from the beginning; give one of at least 0.")
    return seconds


def format_time(seconds: float) -> str:
    """A time as ``M:SS`` or ``H:MM:SS``, with milliseconds if it has any."""
    thousandths = round(1000 * seconds)
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    tail = f".{rest % 1000:03d}".rstrip("0") if rest % 1000 else ""
    return f"{text}:{rest // 1000:02d}{tail}"


def check_moment(at: float, duration: float, name: str) -> None:
    """Raises InputError if a moment is before the beginning or beyond the end."""
    if at < 0:
        raise InputError(f"The time {at:g} is negative; times count from the beginning of {name}.")
    if at > duration + 1e-3:
        raise InputError(f"{format_time(at)} is beyond the end of {name}, which lasts {format_time(duration)}.")
