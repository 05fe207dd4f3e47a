"""Worker processes: they ignore stop signals and end with the process that they work for, however it ends."""

import os
import subprocess
import sys

import pytest

from tests.helpers.processes import LIMIT

SCRIPT = """
import multiprocessing, os, signal, sys, time
from torch.utils.data import DataLoader
from surgvivqa.utils.loader_workers import ignore_signals

kept = iter(DataLoader(range(100), num_workers=2, worker_init_fn=ignore_signals))
next(kept)
workers = [worker.pid for worker in kept._workers]
os.kill(workers[0], signal.SIGTERM)  # as to a whole group
next(kept)
print(*workers, flush=True)
kept.cycle = kept  # as an error's traceback may hold it
kill = multiprocessing.process.BaseProcess.kill
multiprocessing.process.BaseProcess.kill = lambda self: (kill(self), time.sleep({pause}))
raise ValueError("as an error would end it")
"""


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 0.5])  # between the two kills, in which PyTorch hears that a worker has died
def test_a_process_with_workers_ends(pause: float) -> None:
    script = SCRIPT.format(pause=pause)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1 and "as an error would end it" in done.stderr
    assert "end_workers" not in done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


BORN = """
import os, signal
from torch.utils.data import DataLoader, _utils
from surgvivqa.utils.loader_workers import ignore_signals, start_workers

real = _utils.signal_handling._set_worker_signal_handlers

def set_then_signal():
    real()
    os.kill(os.getpid(), signal.SIGTERM)

_utils.signal_handling._set_worker_signal_handlers = set_then_signal
print(sum(start_workers(DataLoader(range(100), num_workers=2, worker_init_fn=ignore_signals))).item())
os.kill(os.getpid(), signal.SIGTERM)  # which this process itself does not ignore
"""


@pytest.mark.slow
def test_a_worker_ignores_signals_from_its_start() -> None:
    done = subprocess.run([sys.executable, "-c", BORN], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.stdout == "4950\n", done.stderr
    assert done.returncode == -15
