"""Signals and time limits that ask a command to stop, and the exit code of a command that they stopped.

SLURM sends SIGUSR1 or SIGTERM before it ends a job, and a terminal sends SIGINT on Ctrl-C. A command that can be
resumed exits with ``EXIT_STOPPED``, so that a job script can tell it from a failed one and queue it again.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

EXIT_STOPPED = 75
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Context manager that notes stop signals instead of letting them end the process.

    Args:
        hours: time limit, counted from construction; None for no limit.
    """

    def __init__(self, hours: float | None = None) -> None:
        self._caught: str | None = None
        self._until = math.inf if hours is None else time.monotonic() + 3600 * hours
        self._old: dict[int, Any] = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        self._caught = signal.Signals(number).name

    @property
    def signal(self) -> str | None:
        """Name of the signal that came, or None."""
        return self._caught

    @property
    def caught(self) -> str | None:
        """What asks for a stop: the name of the signal, ``--max-hours``, or None."""
        return self._caught or ("--max-hours" if time.monotonic() >= self._until else None)

    def __enter__(self) -> "StopSignals":
        for number in STOP_SIGNALS:
            self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """Makes SIGTERM and SIGUSR1 end the process at once with ``EXIT_STOPPED``, until a ``StopSignals`` takes over.

    For the time in which a command loads: nothing is lost by ending it, and a requeued job starts it again. Does
    nothing outside the main thread, where Python sets no signal handlers.
    """

    def stop(number: int, _: FrameType | None) -> None:
        sys.stderr.write(f"surgvivqa: stopped by {signal.Signals(number).name}; the same command resumes.\n")
        sys.stderr.flush()
        os._exit(EXIT_STOPPED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
