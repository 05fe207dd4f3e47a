"""What is shown while bytes come: a bar on a terminal, else a line of the log now and then."""

import io
import logging
from typing import Any

import pytest
from rich.console import Console

from surgvivqa.downloads.progress import ByteProgress, format_bytes


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (123_456, "123 kB"),
        (6_290_000_000, "6.3 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_speed_and_time_left_count_only_what_this_process_transferred() -> None:
    clock = Clock()
    progress = ByteProgress("a.zip", None, clock)
    progress.restart(1_000_000, 3_000_000)
    assert progress.describe() == "a.zip: 1.0 MB of 3.0 MB"
    clock.now = 10.0
    progress.add(500_000)
    assert progress.describe() == "a.zip: 1.5 MB of 3.0 MB, 50.0 kB/s, 0:00:30 left"


def test_without_a_known_size_there_is_no_time_left() -> None:
    clock = Clock()
    progress = ByteProgress("a.zip", None, clock)
    clock.now = 2.0
    progress.add(2000)
    assert progress.describe() == "a.zip: 2.0 kB, 1.0 kB/s"


def test_without_a_terminal_a_line_is_logged_now_and_then(captured_log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda number: False)
    clock = Clock()
    with ByteProgress("a.zip", 10_000, clock) as progress:
        for second in range(1, 71):
            clock.now = float(second)
            progress.add(100)
    assert captured_log().splitlines() == [
        "a.zip: 3.0 kB of 10.0 kB, 100 bytes/s, 0:01:10 left",
        "a.zip: 6.0 kB of 10.0 kB, 100 bytes/s, 0:00:40 left",
    ]


def test_on_a_terminal_a_bar_shows_bytes_and_speed() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with ByteProgress("[a].zip", 2_000_000, console=console) as progress:
        progress.add(1_000_000)
    assert "[a].zip" in screen.getvalue() and "1.0/2.0 MB" in screen.getvalue()


def test_lines_of_the_log_go_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    handler, log = logging.StreamHandler(screen), logging.getLogger("surgvivqa")
    log.addHandler(handler)
    try:
        with ByteProgress("a.zip", 100, console=Console(file=screen, force_terminal=True, width=100)):
            assert handler.stream is not screen  # rich's own, which writes above the bar
        assert handler.stream is screen
    finally:
        log.removeHandler(handler)
