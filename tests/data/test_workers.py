"""The processes that decode frames: they end with the process that they work for, however it ends."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from torch.utils.data import DataLoader
from surgvivqa.data.workers import deaf

kept = iter(DataLoader(range(100), num_workers=2, worker_init_fn=deaf))
next(kept)
workers = [worker.pid for worker in kept._workers]
os.kill(workers[0], signal.SIGTERM)  # as to a whole group
next(kept)
print(*workers, flush=True)
kept.cycle = kept  # as an error's traceback may hold it
raise ValueError("as an error would end it")
"""


@pytest.mark.slow
def test_a_process_with_workers_ends() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "as an error would end it" in done.stderr
    assert len(done.stdout.split()) == 2
