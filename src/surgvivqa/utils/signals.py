"""Stop signals and time limits, and the exit code of a command that one of them stopped.

SLURM sends SIGUSR1 or SIGTERM before it ends a job, and a terminal sends SIGINT on Ctrl-C. A stopped command that can
be resumed exits with ``EXIT_STOPPED``, so that a job script can distinguish it from a failed one and queue it again.
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
_JOB_SIGNALS = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))  # Windows has no SIGUSR1
STOP_SIGNALS = (*_JOB_SIGNALS, signal.SIGINT)


class StopSignals:
    """Context manager that records stop signals instead of letting them end the process.

    Args:
        hours: time limit in hours from now; None for no limit.
    """

    def __init__(self, hours: float | None = None) -> None:
        self._caught: str | None = None
        self._deadline = math.inf if hours is None else time.monotonic() + 3600 * hours
        self._old_handlers: dict[int, Any] = {}

    def _record(self, number: int, _: FrameType | None) -> None:
        self._caught = signal.Signals(number).name

    @property
    def signal(self) -> str | None:
        """Name of the signal that was received; None if there was none."""
        return self._caught

    @property
    def caught(self) -> str | None:
        """The reason to stop: the name of the signal, ``--max-hours``, or None."""
        return self._caught or ("--max-hours" if time.monotonic() >= self._deadline else None)

    def __enter__(self) -> "StopSignals":
        for number in STOP_SIGNALS:
            self._old_handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def exit_on_signal() -> Iterator[None]:
    """Makes SIGTERM and SIGUSR1 end the process at once with ``EXIT_STOPPED``, until a ``StopSignals`` replaces it.

    It is for the loading phase of a command, in which no work is lost. It does nothing outside the main thread, where
    Python does not allow signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old_handlers = {number: signal.signal(number, _exit_stopped) for number in _JOB_SIGNALS}
    try:
        yield
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _exit_stopped(number: int, _: FrameType | None) -> None:
    """A signal handler that ends the process."""
    sys.stderr.write(f"surgvivqa: stopped by {signal.Signals(number).name}; the same command resumes.\n")
    sys.stderr.flush()
    os._exit(EXIT_STOPPED)
