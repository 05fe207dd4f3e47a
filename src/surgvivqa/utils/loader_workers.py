"""Worker processes of a ``DataLoader``: they ignore stop signals and end with their parent process."""

import atexit
import contextlib
import errno
import logging
import multiprocessing
import multiprocessing.util  # registers its exit handler, which must run after end_workers
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from surgvivqa.utils.cores import default_workers, usable_cores
from surgvivqa.utils.errors import RunError, first_line
from surgvivqa.utils.signals import STOP_SIGNALS
from surgvivqa.utils.warn_once import info_once, warn_once

try:
    import resource
except ImportError:  # Windows, which has no such limits
    resource = None  # type: ignore[assignment]

log = logging.getLogger("surgvivqa")
_RESERVED_FILES = 64  # open files of this process itself
_FILES_PER_WORKER = 80  # pipes, and shared tensors of prefetched batches
_SHARED_MEMORY_PER_WORKER = 32 * 2**20  # bytes, for the batches it has ready; more if they are large
_BATCHES_PER_WORKER = 3  # two that are ready, and one in the making
_MAX_OPEN_FILES = 65_536  # the limit is not raised further
_WARNING_INTERVAL = 60.0  # seconds of waiting for a batch


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Starts a loader's workers and iterates over its batches; warns while a batch does not arrive.

    Stop signals are blocked while the workers start. Until ``ignore_signals`` runs in a worker, PyTorch's handler would
    end it on a signal to the process group, and the run with it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which signals no process groups
        return _warn_while_waiting(iter(loader))
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    return _warn_while_waiting(batches)


def _warn_while_waiting(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, with a warning for each ``_WARNING_INTERVAL`` that one does not arrive.

    A read from a network file system may never return. The run waits, since it can continue once the storage responds.
    """
    monitor = _WaitMonitor()
    threading.Thread(target=monitor.run, daemon=True).start()
    try:
        while True:
            monitor.waiting_since = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            monitor.waiting_since = None
            yield batch
    finally:
        monitor.is_done.set()


class _WaitMonitor:
    """Warns, from another thread, while the main thread waits for a batch.

    Attributes:
        waiting_since: ``time.monotonic()`` when the wait began; None if the main thread does not wait.
        is_done: set to end ``run``.
    """

    def __init__(self) -> None:
        self.waiting_since: float | None = None
        self.is_done = threading.Event()

    def run(self) -> None:
        """Logs a warning for each ``_WARNING_INTERVAL`` of a wait."""
        num_warnings = 0
        while not self.is_done.wait(_WARNING_INTERVAL / 10):
            since = self.waiting_since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited < _WARNING_INTERVAL:
                num_warnings = 0
            elif waited >= _WARNING_INTERVAL * (num_warnings + 1):
                num_warnings += 1
                log.warning("Waiting for frames for %.0f s; does the storage of the frames respond?", waited)


def ignore_signals(_: int) -> None:
    """Makes a worker ignore stop signals; a ``worker_init_fn`` for ``DataLoader``.

    SLURM and terminals signal the whole process group. If a worker ended on such a signal, the run would fail before
    its checkpoint is written. Workers end when their parent process ends.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def limit_workers(wanted: int | None, batch_bytes: int = 0) -> int:
    """The number of workers, at most ``wanted``, that the shared memory and the limit on open files allow.

    The limit on open files is raised first, as far as the system permits. A warning is logged once if fewer are used.

    Args:
        wanted: the number of workers that the user asks for; None for ``default_workers``.
        batch_bytes: size of the largest batch's tensors.
    """
    if wanted is None:
        wanted = default_workers()
        info_once(f"{wanted} processes decode frames ({usable_cores()} cores); --workers sets another number.")
    per_worker = max(_SHARED_MEMORY_PER_WORKER, _BATCHES_PER_WORKER * batch_bytes)
    return _limit_by_open_files(_limit_by_shared_memory(wanted, per_worker))


def _limit_by_shared_memory(wanted: int, per_worker: int) -> int:
    """Workers hand over their batches in shared memory; where it is too small they wait without an error."""
    try:
        size = shutil.disk_usage("/dev/shm").total
    except OSError:  # not Linux
        return wanted
    possible = size // per_worker
    if wanted <= possible:
        return wanted
    warn_once(
        f"The shared memory (/dev/shm) has {size / 1e6:.1f} MB, too little for {wanted} processes that decode frames; "
        f"{possible} are used. Enlarge it (docker run --shm-size 4g), or lower --workers."
    )
    return possible


def _limit_by_open_files(wanted: int) -> int:
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
    warn_once(
        f"Only {limit} files may be open at a time (ulimit -n), too few for {wanted} processes that decode frames; "
        f"{possible} are used. Raise the limit, or lower --workers."
    )
    return possible


def _raise_file_limit() -> int | None:
    """Raises the limit on open files as far as permitted, and returns it; None if there is no limit."""
    if resource is None:
        return None
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return None
        wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    except (OSError, ValueError):
        return None
    return soft


@contextlib.contextmanager
def explain_lost_workers(advice: str) -> Iterator[None]:
    """Turns the body's errors about workers into a ``RunError``.

    These are a killed worker, too many open files, and too little shared memory. PyTorch may raise them at any line.

    Args:
        advice: what to do after removing the cause, for the message.

    Raises:
        RunError: one of these errors occurred.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if cause := _describe_limit(error):
            raise RunError(f"{cause}; {advice}.") from error
        raise


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error says that a worker was killed.

    PyTorch raises it from its handler of SIGCHLD, at any line of the main thread.
    """
    return isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)


def _describe_limit(error: BaseException) -> str:
    """Describes what ran out and what to change; empty for another error."""
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"Too many files are open: the limit is {limit} (ulimit -n). Raise it, or lower --workers"
    if "Bus error" in text or "unable to open shared memory" in text or "unable to allocate shared memory" in text:
        return (
            f"The shared memory (/dev/shm) is too small for the processes that decode frames ({first_line(error)}). "
            f"Enlarge it, or lower --workers; 0 uses none"
        )
    if is_lost_worker(error):
        return f"A process that decodes frames was killed ({first_line(error)}); if memory ran out, lower --workers"
    return ""


def end_workers() -> None:
    """Kills the remaining workers when this process exits.

    An error's traceback may keep their ``DataLoader`` alive. Python would then send SIGTERM, which they ignore, and
    wait for them.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if not workers:
        return
    # PyTorch's SIGCHLD handler raises an error when a worker dies, which could interrupt this loop.
    with contextlib.suppress(ValueError, AttributeError):  # only the main thread may set handlers; not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


atexit.register(end_workers)
