"""The moments of a source that are asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from surgvivqa.utils.errors import InputError
from surgvivqa.video.clip_source import ClipSource
from surgvivqa.video.times import check_moment, format_time, read_time

Time: TypeAlias = float | str
SHORTEST_STEP = 0.001  # seconds
_TOLERANCE = 1e-6  # seconds, for rounding


@dataclass(frozen=True)
class Moments:
    """Moments at equal distances, which are not kept in memory: ``start``, ``start + step``, ...

    Attributes:
        start: the first, in seconds.
        step: the distance, in seconds.
        count: their number.
    """

    start: float
    step: float
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> float:
        if not 0 <= number < self.count:
            raise IndexError(number)
        return self.start + number * self.step


def plan_moments(
    source: ClipSource,
    at: Time | Sequence[Time] | None = None,
    every: Time | None = None,
    start: Time | None = None,
    end: Time | None = None,
) -> Sequence[float] | Moments | None:
    """The moments to ask about, in seconds; None for a source without time.

    Args:
        source: the source.
        at: one or several moments.
        every: the distance between moments, in place of ``at``: from ``start`` to ``end``.
        start: the first moment; None for the beginning.
        end: the last moment; None for all before the end of the source.

    Raises:
        InputError: a moment is wrong or beyond the end, or the arguments do not fit each other or the source.
    """
    given = [
        name for name, value in (("at", at), ("every", every), ("start", start), ("end", end)) if value is not None
    ]
    duration = source.duration
    if duration is None:
        if given:
            raise InputError(f"{source.name} is a picture, which has no time; leave out {' and '.join(given)}.")
        return None
    lasts = f"{source.name} lasts {format_time(duration)}"
    if at is not None:
        if len(given) > 1:
            raise InputError(f"at cannot be combined with {' and '.join(given[1:])}; give moments, or a step.")
        moments = [read_time(value) for value in (at if isinstance(at, Sequence) and not isinstance(at, str) else [at])]
        for moment in moments:
            check_moment(moment, duration, source.name)
        if not moments:
            raise InputError(f"There is no moment to ask about; {lasts}: name one (at), or a step (every).")
        return moments
    if every is None:
        raise InputError(f"{lasts}; say which moments to ask about: some (at), or one after each step (every).")
    step, first = read_time(every), 0.0 if start is None else read_time(start)
    if step < SHORTEST_STEP:
        raise InputError(f"A step of {step:g} s (every) is too short; give one of at least {SHORTEST_STEP:g} s.")
    check_moment(first, duration, source.name)
    last = duration - 2 * _TOLERANCE if end is None else read_time(end)
    check_moment(last, duration, source.name)
    if last < first:
        raise InputError(f"The end {format_time(last)} is before the start {format_time(first)}; exchange them.")
    return Moments(first, step, int((last - first + _TOLERANCE) / step) + 1)
