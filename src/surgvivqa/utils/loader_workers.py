"""Worker processes of a ``DataLoader``: they ignore stop signals, and end with the process that they work for."""

import atexit
import contextlib
import errno
import functools
import logging
import multiprocessing
import multiprocessing.util  # registers its exit handler, which must run after end_workers
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from surgvivqa.utils.errors import RunError, first_line
from surgvivqa.utils.signals import STOP_SIGNALS

log = logging.getLogger("surgvivqa")
_RESERVED_FILES = 64  # for this process's own files
_FILES_PER_WORKER = 80  # its pipes, and the shared tensors of the batches that are loaded ahead
_WANTED_FILES = 65_536
_PATIENCE = 60.0  # seconds


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Starts a loader's workers and iterates over its batches; warns while a batch does not arrive.

    Stop signals are blocked while the workers start: until ``ignore_signals`` runs in a worker, a signal to the process
    group would end it by PyTorch's handler, and with it the run.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _warn_while_waiting(batches)


def _warn_while_waiting(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, with a warning for each ``_PATIENCE`` seconds that one does not arrive.

    A read from a network file system may never return. The run waits, since it can continue when the storage does.
    """
    waiting_since: list[float | None] = [None]
    done = threading.Event()

    def watch() -> None:
        warned = 0
        while not done.wait(_PATIENCE / 10):
            since = waiting_since[0]
            waited = 0.0 if since is None else time.monotonic() - since
            if waited < _PATIENCE:
                warned = 0
            elif waited >= _PATIENCE * (warned + 1):
                warned += 1
                log.warning("Waiting for frames for %.0f s; does the storage of the frames respond?", waited)

    threading.Thread(target=watch, daemon=True).start()
    try:
        while True:
            waiting_since[0] = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            waiting_since[0] = None
            yield batch
    finally:
        done.set()


def ignore_signals(_: int) -> None:
    """A ``worker_init_fn`` that makes a ``DataLoader``'s worker ignore stop signals.

    SLURM and terminals signal a whole process group. A worker that ended on such a signal would end the run before its
    checkpoint is written. Workers end when their process does.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def limit_workers(wanted: int) -> int:
    """The number of workers that this process's limit of open files allows; a smaller one is reported once.

    The limit is raised first, as far as the system permits.
    """
    limit = _raise_file_limit()
    if limit is None:
        return wanted
    try:
        in_use = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:  # not Linux
        in_use = _RESERVED_FILES
    possible = max(0, (limit - in_use - _RESERVED_FILES) // _FILES_PER_WORKER)
    if wanted <= possible:
        return wanted
    _warn_once(
        f"Only {limit} files may be open at a time (ulimit -n), too few for {wanted} processes that decode frames; "
        f"{possible} are used. Raise the limit, or lower --workers."
    )
    return possible


def _raise_file_limit() -> int | None:
    """The limit of open files, raised as far as permitted; None if there is none."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return None
        wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    except (OSError, ValueError):
        return None
    return soft


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


@contextlib.contextmanager
def explain_lost_workers(advice: str) -> Iterator[None]:
    """Turns errors of workers and of this process's limits, which any line may raise, into a ``RunError``.

    They are a killed worker, too many open files, and too little shared memory.

    Args:
        advice: what to do once the cause is removed.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if cause := _describe_limit(error):
            raise RunError(f"{cause}; {advice}.") from error
        raise


def _describe_limit(error: BaseException) -> str:
    """What ran out and what to change; empty for another error."""
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"Too many files are open: the limit is {limit} (ulimit -n). Raise it, or lower --workers"
    if "Bus error" in text or "unable to open shared memory" in text or "unable to allocate shared memory" in text:
        return (
            f"The shared memory (/dev/shm) is too small for the processes that decode frames ({first_line(error)}). "
            f"Enlarge it, or lower --workers; 0 uses none"
        )
    if "DataLoader worker (pid" in text:
        return f"A process that decodes frames was killed ({first_line(error)}); if memory ran out, lower --workers"
    return ""


def end_workers() -> None:
    """Kills the remaining workers when this process exits.

    An error's traceback may keep their ``DataLoader`` alive, and Python would end them by SIGTERM, which they ignore,
    and wait.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if not workers:
        return
    # PyTorch's SIGCHLD handler raises an error when a worker dies, which could fall between two kills of this loop.
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


atexit.register(end_workers)
