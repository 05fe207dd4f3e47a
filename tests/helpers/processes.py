"""Runs commands as separate processes, and waits for what they do instead of for a fixed time."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT = 600  # seconds after which a command counts as hanging; generous, because tests may share a core


@contextlib.contextmanager
def running(command: list[str], **more: object) -> Iterator[subprocess.Popen[str]]:
    """Starts a command in a new session; all its processes are killed when the block ends."""
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **more)  # type: ignore[call-overload]
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits until a condition is true; fails if the process ends before."""
    until = time.monotonic() + LIMIT
    while not condition():
        code = process.poll()
        assert code is None, f"the process ended with {code}: {process.stderr.read() if process.stderr else ''}"
        assert time.monotonic() < until, "the process hangs"
        time.sleep(0.02)


def wait_for_exit(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Waits for a process to end.

    Returns:
        Its exit code, its standard error, and the CPU time in seconds that it used since this call.
    """
    children_before, process_before = _child_cpu_seconds(), _cpu_seconds(process.pid)
    errors = process.communicate(timeout=LIMIT)[1]
    return process.returncode, errors, _child_cpu_seconds() - children_before - process_before


def handles_signal(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has installed a handler for a signal, so that the signal does not kill it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def _child_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
