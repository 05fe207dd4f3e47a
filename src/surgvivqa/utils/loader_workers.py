"""Worker processes of a ``DataLoader``: they ignore stop signals, and end with the process that they work for."""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util  # registers its exit handler, which must run after end_workers
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from surgvivqa.utils.errors import RunError, first_line
from surgvivqa.utils.signals import STOP_SIGNALS


def start_workers(loader: DataLoader[Any]) -> Any:
    """``iter(loader)``, with stop signals blocked while its workers start.

    Until ``ignore_signals`` runs in a worker, a signal to the process group would end it by PyTorch's handler, and with
    it the run.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(_: int) -> None:
    """A ``worker_init_fn`` that makes a ``DataLoader``'s worker ignore stop signals.

    SLURM and terminals signal a whole process group. A worker that ended on such a signal would end the run before its
    checkpoint is written. Workers end when their process does.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def explain_lost_workers(advice: str) -> Iterator[None]:
    """Turns PyTorch's error for a killed worker, which any line may raise, into a ``RunError`` with ``advice``."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise RunError(
            f"A process that decodes frames was killed ({first_line(error)}); if memory ran out, lower --workers; "
            f"{advice}."
        ) from error


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
