"""What a run records while it trains: ``metrics.jsonl`` and ``train.log``."""

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from surgvivqa.utils.errors import RunError, first_line

log = logging.getLogger("surgvivqa")
TIMINGS = ("questions_per_second", "waited_for_data", "waited_for_device")  # figures that no two runs share


class LossWindow:
    """The losses and the number of questions since the last line of the log.

    Args:
        losses: mean loss of each step so far, where a run resumes inside a window.
        questions: number of questions so far; they do not count for the rate.

    Attributes:
        data_wait: seconds that the run waited for frames and questions.
        device_wait: seconds that the run waited for a GPU.
    """

    def __init__(self, losses: Sequence[float] = (), questions: int = 0) -> None:
        self.losses, self.questions = list(losses), questions
        self._timed_from, self._started = questions, time.monotonic()
        self.data_wait = self.device_wait = 0.0

    def add(self, loss: float, questions: int) -> None:
        """Adds one step's mean loss and its number of questions."""
        self.losses.append(loss)
        self.questions += questions

    def mean(self) -> float:
        """Mean loss over the steps; NaN if there is none."""
        return float(np.mean(self.losses)) if self.losses else math.nan

    def rate(self) -> float:
        """Questions per second."""
        return (self.questions - self._timed_from) / self._seconds()

    def waits(self) -> dict[str, float]:
        """What the run waited for, as fractions of the time; the rest is the host's own work, on a CPU the model's."""
        seconds = self._seconds()
        return {"waited_for_data": self.data_wait / seconds, "waited_for_device": self.device_wait / seconds}

    def _seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._started)


class MetricsLog:
    """Appends to ``metrics.jsonl``, one JSON object per line, and gives the same values to the log and the trackers.

    Args:
        path: the file.
        enabled: False in all processes but the main one, where ``write`` does nothing.
        report: sends the values of a line to the trackers.
        time_left: returns the time left as text, for the log; empty if it is not known.
    """

    def __init__(
        self,
        path: Path,
        enabled: bool,
        report: Callable[[Mapping[str, float | None]], None],
        time_left: Callable[[], str],
    ) -> None:
        self.path, self.enabled, self.report, self.time_left = path, enabled, report, time_left

    def write(self, **values: float | None) -> None:
        """Appends one line and flushes it to the disk, so that it is there before the checkpoint that follows it.

        Raises:
            RunError: the file cannot be written.
        """
        if not self.enabled:
            return
        # JSON has no infinity: a gradient norm that the loss scaler skipped becomes null.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({first_line(error)}); the last checkpoint is good."
            ) from error
        shown = [f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()]
        left = self.time_left()
        log.info(" ".join([*shown, *([f"left={left}"] if left else [])]))
        self.report(plain)


class LogFile(logging.FileHandler):
    """``train.log``. If it cannot be written any more, one warning says so and the run continues without it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Called by logging in place of an error of ``emit``."""
        self.setLevel(logging.CRITICAL + 1)
        log.warning("%s cannot be written (%s); the run continues without it.", self.baseFilename, sys.exception())

    def close(self) -> None:
        """Closes the file; unwritten lines are lost if the disk is full, which has been reported."""
        with contextlib.suppress(OSError):
            super().close()
