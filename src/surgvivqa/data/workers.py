"""What the processes that decode frames do about signals: nothing. The process they work for answers."""

import atexit
import multiprocessing
import multiprocessing.util  # registers its own end, before which ours must come
import signal


def deaf(_: int) -> None:
    """For a ``DataLoader``'s ``worker_init_fn``. SLURM and terminals signal a whole group of processes; a worker that
    died of it would take the run with it before the checkpoint is written. Workers end when their process does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """Ends what is left of them, at this process's own end: an error may have kept their ``DataLoader``, and Python
    would ask them to go with the signal that they do not hear, and wait."""
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


atexit.register(end_workers)
