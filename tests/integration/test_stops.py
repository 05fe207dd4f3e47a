"""Signals and locks with real processes: a run saves within seconds, exits with 75, and resumes bit for bit."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.model.scoring import score_labels
from tests.helpers.processes import handles_signal, running, wait_for_exit, wait_until
from tests.helpers.runs import TINY, assert_equal_runs, train

ENDLESS = [*TINY, "--max-steps=100000"]


def command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "surgvivqa", "train", *flags, f"--checkpoint-dir={folder}"]


@pytest.mark.slow
def test_workers_ignore_a_signal_to_the_process_group(data_flags: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running(command(run, *ENDLESS, *data_flags, "--workers=2")) as process:
        wait_until((run / "metrics.jsonl").exists, process)
        os.killpg(process.pid, signal.SIGTERM)
        code, errors, _ = wait_for_exit(process)
    assert code == 75, errors
    assert list((run / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_at_any_time_exit_with_75(
    number: signal.Signals, uninterrupted: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = tmp_path / "run"
    for while_loading in (True, False):  # while it loads, and in its steps
        if number == signal.SIGINT and while_loading:
            continue  # Ctrl-C before the run begins: 130
        with running(command(run, *TINY, *data_flags)) as process:
            if while_loading:
                wait_until(lambda: handles_signal(process, number), process)
            else:
                wait_until((run / "metrics.jsonl").exists, process)
            process.send_signal(number)
            process.send_signal(number)  # from SLURM and from torchrun, or Ctrl-C twice
            code, errors, seconds = wait_for_exit(process)
        assert code == 75, errors
        assert seconds < 10
    with running(command(run, *TINY, *data_flags)) as process:
        code, errors, _ = wait_for_exit(process)
    assert code == 0, errors
    assert_equal_runs(run, uninterrupted)


@pytest.mark.slow
def test_a_signal_interrupts_a_validation(
    uninterrupted: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, passes = tmp_path / "run", [0]

    def score_and_signal(*arguments: object) -> object:
        passes[0] += 1
        os.kill(os.getpid(), signal.SIGTERM)
        return score_labels(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("surgvivqa.evaluation.inference.score_labels", score_and_signal)
        assert train(run, data_flags) == 75
        (saved,) = (run / "checkpoints").glob("*/training.json")
        progress = json.loads(saved.read_text())
        assert (progress["step"], progress["validated"], passes) == (4, False, [1])
        assert not (run / "best").exists()
        assert train(run, data_flags) == 75  # in the validation that was interrupted: nothing changes
        assert json.loads(saved.read_text()) == progress
    assert train(run, data_flags) == 0
    assert_equal_runs(run, uninterrupted)


@pytest.mark.slow
def test_a_run_folder_is_locked_while_a_run_trains(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = [*ENDLESS, *data_flags, "--workers=2", f"--checkpoint-dir={run}"]
    with running(command(run, *flags)) as process:
        wait_until((run / "metrics.jsonl").exists, process)
        assert main(["train", *flags]) == 2
        assert "Another process is training in" in capsys.readouterr().err
        process.kill()  # its workers live for some seconds more and must not keep the lock
        process.wait()
        assert main(["train", *flags, "--max-hours=0"]) == 75


@pytest.mark.slow
def test_a_killed_worker_is_reported_in_one_sentence(data_flags: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running(command(run, *ENDLESS, *data_flags, "--workers=2", "--batch-size=2")) as process:
        wait_until((run / "metrics.jsonl").exists, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(children.read_text, process)
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)  # as the kernel does when memory runs out
        code, errors, _ = wait_for_exit(process)
    assert code == 1 and "Traceback" not in errors, errors
    assert "surgvivqa: A process that decodes frames was killed (DataLoader worker (pid" in errors
