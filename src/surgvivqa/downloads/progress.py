"""Shows the progress of downloads and unpacking: a bar on a terminal, else a line of the log now and then."""

import contextlib
import datetime
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

log = logging.getLogger("surgvivqa")
_LOG_INTERVAL = 30.0  # seconds between lines of the log


def format_bytes(count: int | float) -> str:
    """A number of bytes as ``1.2 GB`` (decimal units)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextlib.contextmanager
def _started(bar: Progress) -> Iterator[None]:
    """Shows a bar while the body runs; lines of the log go above it.

    Rich puts what is written to ``sys.stderr`` above the bar, so the log must write there and not to the stream that
    ``sys.stderr`` was before.
    """
    before = sys.stderr
    bar.start()
    handlers = [h for h in log.handlers if isinstance(h, logging.StreamHandler) and h.stream is before]
    try:
        if sys.stderr is not before:
            for handler in handlers:
                handler.setStream(sys.stderr)
        yield
    finally:
        bar.stop()
        for handler in handlers:
            handler.setStream(sys.stderr)


class ByteProgress:
    """The progress of a number of bytes. A context manager.

    Args:
        name: what is being worked on.
        total: number of bytes; None if unknown.
        clock: returns the time in seconds.
        console: where the bar is drawn; None draws on standard error, if that is a terminal.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.name, self.total, self.done, self._clock = name, total, 0, clock
        self._stack = contextlib.ExitStack()
        self._is_bar = console is not None or os.isatty(2)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(
            *(*columns, TimeRemainingColumn()),
            console=console or Console(stderr=True),
            disable=not self._is_bar,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=total)
        self._begun = self._logged = clock()
        self._first = 0  # bytes that were there at the beginning

    def restart(self, done: int, total: int | None) -> None:
        """Goes on from ``done`` bytes, of which this process has transferred none."""
        self.done = self._first = done
        self.total = self.total if total is None else total
        self._begun = self._clock()
        self._bar.reset(self._task, total=self.total, completed=done)

    def add(self, count: int) -> None:
        """Adds bytes that are done."""
        self.done += count
        if self._is_bar:
            self._bar.update(self._task, completed=self.done)
        elif self._clock() - self._logged >= _LOG_INTERVAL:
            self._logged = self._clock()
            log.info(self.describe())

    def describe(self) -> str:
        """Name, bytes, speed and time left, as far as they are known."""
        of = "" if self.total is None else f" of {format_bytes(self.total)}"
        text = f"{self.name}: {format_bytes(self.done)}{of}"
        seconds = self._clock() - self._begun
        rate = (self.done - self._first) / seconds if seconds > 0 else 0.0
        if rate > 0:
            text += f", {format_bytes(rate)}/s"
            if self.total is not None:
                left = datetime.timedelta(seconds=round(max(0, self.total - self.done) / rate))
                text += f", {left} left"
        return text

    def __enter__(self) -> "ByteProgress":
        self._stack.enter_context(_started(self._bar))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class CountProgress:
    """The progress of a number of things, such as frames. A context manager.

    Args:
        name: what is counted.
        total: how many there are.
        clock: returns the time in seconds.
    """

    def __init__(self, name: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.total, self.done, self._clock = name, total, 0, clock
        self._stack = contextlib.ExitStack()
        self._is_bar = os.isatty(2)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        console = Console(stderr=True)
        self._bar = Progress(
            *(*columns, TimeRemainingColumn()), console=console, disable=not self._is_bar, transient=True
        )
        self._task = self._bar.add_task(name, total=total)
        self._logged = clock()

    def add(self, count: int = 1) -> None:
        """Adds things that are done."""
        self.done += count
        if self._is_bar:
            self._bar.update(self._task, completed=self.done)
        elif self._clock() - self._logged >= _LOG_INTERVAL:
            self._logged = self._clock()
            log.info("%s: %d of %d", self.name, self.done, self.total)

    def __enter__(self) -> "CountProgress":
        self._stack.enter_context(_started(self._bar))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
