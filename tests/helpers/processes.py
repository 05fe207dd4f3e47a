"""Commands run as processes of their own: waited for by what they do and not by the clock, and ended with the test."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT = 600  # seconds after which a command counts as hanging, also where four others share its core


@contextlib.contextmanager
def running(command: list[str], **more: object) -> Iterator[subprocess.Popen[str]]:
    """Starts a command in a session of its own, of which nothing outlives the block."""
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **more)  # type: ignore[call-overload]
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def wait_until(there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits until something is so, as long as the process lives that is to bring it about."""
    until = time.monotonic() + LIMIT
    while not there():
        code = process.poll()
        assert code is None, f"it ended with {code}: {process.stderr.read() if process.stderr else ''}"
        assert time.monotonic() < until, "it hangs"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Exit code, what it wrote to standard error since, and the seconds of a core that it took to end."""
    before, spent = _children(), _seconds(process.pid)
    errors = process.communicate(timeout=LIMIT)[1]
    return process.returncode, errors, _children() - before - spent


def hears(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: from then on it does not die of it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
