"""Shows how far a download is: a bar on a terminal, otherwise a line in the log now and then."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

log = logging.getLogger("surgvivqa")
SECONDS = 30.0  # between two lines


class TransferProgress:
    """Progress of a download of ``total`` bytes; a context manager.

    Args:
        name: what is fetched.
        total: bytes to fetch.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self._told = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(name, total=total)

    def __enter__(self) -> "TransferProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Counts bytes that have arrived; a negative number takes some back."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._told > SECONDS:
            self._told = time.monotonic()
            log.info("%s: %s of %s", self.name, format_bytes(self.done), format_bytes(self.total))


def format_bytes(count: int) -> str:
    """A number of bytes in decimal units, such as ``1.54 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
