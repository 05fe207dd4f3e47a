"""What a user sees while a command works: a bar with loss, speed and time left; and the time left for the log."""

import datetime
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

log = logging.getLogger("surgvivqa")
_RECENT_STEPS = 50  # a mean over so many steps is steady, and follows a change of speed within a minute


class Pace:
    """How fast a command makes its steps, and how long it still takes.

    Args:
        total: number of steps.
        unit: what a step has some of, for the speed.
        clock: returns the time in seconds.
    """

    def __init__(self, total: int, unit: str = "questions", clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.unit, self._clock = total, unit, clock
        self._first: tuple[int, float] | None = None  # the first step of this process, and when it was done
        self._last: tuple[int, float] = (0, 0.0)
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=_RECENT_STEPS + 1)  # time, loss, units

    def add(self, step: int, units: int, loss: float = math.nan) -> None:
        """Adds a step that is done, from 1, with its number of questions (or frames) and its mean loss."""
        self._last = step, self._clock()
        self._first = self._first or self._last
        self._recent.append((self._last[1], loss, units))

    def restart(self) -> None:
        """Measures the speed from now on, after time in which no step was made."""
        if self._recent:
            self._recent = deque([(self._clock(), self._recent[-1][1], 0)], self._recent.maxlen)

    def loss(self) -> float:
        """Mean loss of the last steps; NaN before the first."""
        losses = [loss for _, loss, _ in self._recent]
        return sum(losses) / len(losses) if losses else math.nan

    def rate(self) -> float:
        """Questions (or frames) per second over the last steps; NaN before the second."""
        if len(self._recent) < 2 or self._recent[-1][0] <= self._recent[0][0]:
            return math.nan
        units = sum(units for _, _, units in list(self._recent)[1:])
        return units / (self._recent[-1][0] - self._recent[0][0])

    def seconds_left(self) -> float:
        """Seconds until the last step at the mean speed of this process so far, with its validations; NaN at first."""
        if self._first is None or self._last[0] == self._first[0]:
            return math.nan
        steps, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return (self.total - self._last[0]) * seconds / steps

    def time_left(self) -> str:
        """The time left as ``1:02:03`` (or ``2 days, 1:02:03``); empty before it is known."""
        seconds = self.seconds_left()
        return "" if math.isnan(seconds) else str(datetime.timedelta(seconds=round(seconds)))

    def describe(self) -> str:
        """Loss, speed and time left, as far as they are known, for the bar."""
        shown = []
        if not math.isnan(self.loss()):
            shown.append(f"loss {self.loss():.3f}")
        rate = self.rate()
        if not math.isnan(rate):
            shown.append(f"{rate:.{0 if rate >= 10 else 2}f} {self.unit}/s")
        if self.time_left():
            shown.append(f"{self.time_left()} left")
        return "  ".join(shown)


class ProgressBar:
    """A progress bar on standard error, if that is a terminal. A context manager; lines of the log go above it.

    Args:
        total: number of steps.
        enabled: False in all processes but the main one.
        name: a word for the command.
        console: where it is drawn; None draws on standard error.
    """

    def __init__(self, total: int, enabled: bool, name: str = "train", console: Console | None = None) -> None:
        is_shown = enabled and (console is not None or os.isatty(2))
        columns = (
            *(TextColumn(name), BarColumn(), MofNCompleteColumn()),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        console = console or Console(stderr=True)
        self._progress = Progress(*columns, console=console, disable=not is_shown, transient=True)
        self._task = self._progress.add_task(name, total=total, figures="")
        self._handlers: list[logging.StreamHandler[Any]] = []

    def show(self, step: int, figures: str) -> None:
        """Shows the number of steps made, and the figures beside it."""
        self._progress.update(self._task, completed=step, figures=figures)

    def __enter__(self) -> "ProgressBar":
        before = sys.stderr
        self._progress.start()
        # Rich puts what is written to sys.stderr above the bar, so the log must write there and not to the stream that
        # sys.stderr was before.
        if sys.stderr is not before:
            self._handlers = [h for h in log.handlers if isinstance(h, logging.StreamHandler) and h.stream is before]
            for handler in self._handlers:
                handler.setStream(sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for handler in self._handlers:
            handler.setStream(sys.stderr)  # the stream that it had
        self._handlers.clear()
