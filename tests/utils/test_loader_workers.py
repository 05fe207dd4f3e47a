"""Worker processes: they ignore stop signals and end with the process that they work for, however it ends."""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from surgvivqa.utils import loader_workers
from surgvivqa.utils.errors import RunError
from surgvivqa.utils.loader_workers import explain_lost_workers, limit_workers
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


@pytest.mark.parametrize("files, wanted, given", [(40, 8, 0), (300, 8, None), (100_000, 8, 8), (40, 0, 0)])
def test_few_open_files_allow_fewer_workers(
    files: int, wanted: int, given: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    monkeypatch.setattr(loader_workers, "_limit_by_shared_memory", lambda wanted, _: wanted)
    warnings: list[str] = []
    monkeypatch.setattr(loader_workers, "warn_once", warnings.append)
    count = limit_workers(wanted)
    assert count == given if given is not None else 0 < count < wanted
    assert len(warnings) == (count < wanted)
    assert all(f"Only {files} files may be open" in w and "--workers" in w for w in warnings)


@pytest.mark.parametrize("size, wanted, given", [(2**16, 2, 0), (2**26, 8, 2), (2**32, 8, 8), (2**16, 0, 0)])
def test_little_shared_memory_allows_fewer_workers(
    size: int, wanted: int, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=size))
    warnings: list[str] = []
    monkeypatch.setattr(loader_workers, "warn_once", warnings.append)
    assert limit_workers(wanted) == given
    assert len(warnings) == (given < wanted)
    assert all("The shared memory (/dev/shm) has" in w and "--workers" in w for w in warnings)


def test_large_batches_need_more_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**30))
    monkeypatch.setattr(loader_workers, "warn_once", lambda _: None)
    assert limit_workers(8) == 8
    assert limit_workers(8, batch_bytes=100 * 2**20) == 3


@pytest.mark.parametrize(
    "error, message",
    [
        (
            OSError(24, "Too many open files"),
            r"files are open: .*\(ulimit -n\)\. Raise it, or lower --workers; go",
        ),
        (RuntimeError("received 0 items of ancdata, Too many open files"), "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "/dev/shm"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "lower --workers; 0 uses"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "ran out, lower --workers; go",
        ),
    ],
)
def test_a_limit_of_the_machine_is_one_sentence(error: Exception, message: str) -> None:
    with pytest.raises(RunError, match=message), explain_lost_workers("go on"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), FileNotFoundError(2, "No such file")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error.args[-1])), explain_lost_workers("go on"):
        raise error


def test_a_read_that_does_not_return_is_reported_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_workers, "_WARNING_INTERVAL", 0.2)
    warnings: list[str] = []
    monkeypatch.setattr(loader_workers.log, "warning", lambda text, waited: warnings.append(text))

    def batches() -> Iterator[int]:
        yield 1
        time.sleep(0.7)
        yield 2

    assert list(loader_workers._warn_while_waiting(batches())) == [1, 2]
    assert 1 <= len(warnings) <= 3 and "does the storage" in warnings[0]
