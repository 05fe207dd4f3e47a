"""What the processes that decode frames do about signals: nothing. The process they work for answers."""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util  # registers its own end, before which ours must come
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from surgvivqa.utils.errors import RunError, first_line
from surgvivqa.utils.signals import STOP_SIGNALS


def start_workers(loader: DataLoader[Any]) -> Any:
    """``iter(loader)``, its workers started with the signals blocked that ``ignore_signals`` ignores: until that runs,
    a signal to the whole group would end one by PyTorch's own handler, and with it the run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(_: int) -> None:
    """For a ``DataLoader``'s ``worker_init_fn``. SLURM and terminals signal a whole group of processes; a worker that
    died of it would take the run with it before the checkpoint is written. Workers end when their process does."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def explain_lost_workers(advice: str) -> Iterator[None]:
    """Where a worker was killed, PyTorch's error, which may come out of any line, becomes a ``RunError``."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise RunError(
            f"A process that decodes frames was ended ({first_line(error)}); where memory ran out, lower --workers; "
            f"{advice}."
        ) from error


def end_workers() -> None:
    """Ends what is left of them, at this process's own end: an error may have kept their ``DataLoader``, and Python
    would ask them to go with the signal that they do not hear, and wait."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if not workers:
        return
    # PyTorch answers the death of a worker by an error, out of a signal handler: between two kills of this loop, too.
    with contextlib.suppress(ValueError):  # only the main thread has handlers
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


atexit.register(end_workers)
