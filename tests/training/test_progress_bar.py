"""The speed and the time left are right, and a terminal shows them."""

import io
import logging
import math
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from surgvivqa.training.progress_bar import Pace, ProgressBar
from tests.helpers.processes import LIMIT
from tests.helpers.runs import TINY


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pace_after(steps: int, seconds: float, first: int = 1) -> tuple[Pace, Clock]:
    """The pace of a run of 100 steps of 8 questions, after so many steps of so many seconds, from a step on."""
    clock = Clock()
    pace = Pace(100, clock=clock)
    for step in range(first, first + steps):
        clock.now += seconds
        pace.add(step, 8, loss=2.0 if step % 2 else 1.0)
    return pace, clock


def test_speed_loss_and_time_left_of_a_steady_run() -> None:
    pace, _ = pace_after(10, 2.0)
    assert pace.rate() == pytest.approx(4.0)
    assert pace.loss() == pytest.approx(1.5)
    assert pace.seconds_left() == pytest.approx(90 * 2.0)
    assert pace.describe() == "loss 1.500  4.00 questions/s  0:03:00 left"


def test_a_resumed_run_counts_its_own_steps_only() -> None:
    pace, _ = pace_after(10, 3.0, first=61)
    assert pace.seconds_left() == pytest.approx(30 * 3.0)


def test_nothing_is_said_before_it_is_known() -> None:
    assert Pace(10).describe() == "" and Pace(10).time_left() == ""
    pace, _ = pace_after(1, 5.0)
    assert pace.describe() == "loss 2.000"


def test_a_validation_counts_for_the_time_left_and_not_for_the_speed() -> None:
    pace, clock = pace_after(10, 1.0)
    clock.now += 90  # a validation
    pace.restart()
    assert math.isnan(pace.rate())
    clock.now += 1
    pace.add(11, 8, loss=1.0)
    assert pace.rate() == pytest.approx(8.0)
    assert pace.seconds_left() == pytest.approx(89 * 100 / 10)


def test_days_are_written_out() -> None:
    pace, _ = pace_after(2, 3600.0)
    assert pace.time_left() == "4 days, 2:00:00"


def test_a_terminal_shows_the_figures_and_the_log_above_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, screen = logging.getLogger("surgvivqa"), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])
    with ProgressBar(100, True, console=console) as bar:
        bar.show(12, "loss 1.500  4.00 questions/s  0:03:00 left")
        logger.warning("A line of the log.")
        bar._progress.refresh()
    logger.warning("A line after it.")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "12/100 loss 1.500  4.00 questions/s  0:03:00 left" in shown
    assert "A line of the log." in shown and "A line after it." not in shown
    assert capsys.readouterr().err.count("A line after it.") == 1  # on the handler's own stream


def test_a_bar_that_is_not_shown_writes_nothing() -> None:
    screen = io.StringIO()
    with ProgressBar(100, False, console=Console(file=screen, force_terminal=True)) as bar:
        bar.show(12, "loss 1.5")
    assert screen.getvalue() == ""


@pytest.mark.slow
def test_the_command_shows_a_bar_on_a_terminal(data_flags: list[str], tmp_path: Path) -> None:
    terminal, its_side = pty.openpty()
    command = [sys.executable, "-m", "surgvivqa", "train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path / 'run'}"]
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    run = subprocess.Popen(command, stderr=its_side, stdout=subprocess.DEVNULL, env=environment)
    os.close(its_side)
    text, until = b"", time.monotonic() + LIMIT
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            text += os.read(terminal, 65536)
        except OSError:  # the process has closed its side
            break
    assert run.wait(timeout=LIMIT) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())
    assert re.search(r"\d+/14 loss \d\.\d{3}  [\d.]+ questions/s  \d:\d\d:\d\d left", shown), shown[-2000:]
    assert re.search(r"step=3 .* left=\d:\d\d:\d\d", (tmp_path / "run" / "train.log").read_text())
