"""What a run tells while it goes and how it is told to stop: the log lines, the bar, the signals."""

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from surgvivqa.utils.errors import RunError, first_line

log = logging.getLogger("surgvivqa")


class LossWindow:
    """Mean loss a question, and questions a second, since it was made."""

    def __init__(self, losses: Sequence[float] = (), questions: int = 0) -> None:
        self.losses, self.questions = list(losses), questions
        self._timed_from, self.started = questions, time.monotonic()

    def add(self, loss: float, questions: int) -> None:
        """Takes one step's mean loss and its number of questions."""
        self.losses.append(loss)
        self.questions += questions

    def mean(self) -> float:
        """Mean over the steps; NaN of none."""
        return float(np.mean(self.losses)) if self.losses else math.nan

    def rate(self) -> float:
        """Questions a second."""
        return (self.questions - self._timed_from) / max(1e-9, time.monotonic() - self.started)


class RunLog:
    """``metrics.jsonl``: one JSON object a line, flushed as it is written; the same to the log."""

    def __init__(self, path: Path, main: bool) -> None:
        self.path = path if main else None

    def write(self, **values: Any) -> None:
        """Appends one line."""
        if self.path is None:
            return
        # JSON knows no infinity: a gradient norm that the loss scaler skipped is null.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())  # before the checkpoint that follows it
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({first_line(error)}); the last checkpoint is good."
            ) from error
        log.info(" ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()))


class LogFile(logging.FileHandler):
    """``train.log``. Where it cannot be written any more that is said once, and the run goes on without."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Called in the place of an error of ``emit``."""
        self.setLevel(logging.CRITICAL + 1)
        log.warning("%s cannot be written (%s); the run goes on without it.", self.baseFilename, sys.exception())

    def close(self) -> None:
        """What is still to be written is lost where the disk is full, and that has been said."""
        with contextlib.suppress(OSError):
            super().close()


class progress_bar:  # noqa: N801  (used as a function)
    """A bar on a terminal, nothing elsewhere; gives a function to call with the steps done since."""

    def __init__(self, total: int, main: bool) -> None:
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=not main or not os.isatty(2), transient=True)
        self.total = total

    def __enter__(self) -> Any:
        self.bar.start()
        task = self.bar.add_task("train", total=self.total)
        return lambda steps: self.bar.advance(task, steps)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
