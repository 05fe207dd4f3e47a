"""What the processes that decode frames do about signals: nothing. The process they work for answers."""

import signal


def deaf(_: int) -> None:
    """For a ``DataLoader``'s ``worker_init_fn``. SLURM and terminals signal a whole group of processes; a worker that
    died of it would take the run with it before the checkpoint is written. Workers end when their process does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
