"""What the scripts do when they run: signals, requeueing, exit codes, arrays, jobs that wait for others."""

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_slurm import FakeSlurm

TINY = ("--preset=tiny", "--max-steps=3", "--gpus=0", "--no-preflight", "--submit")


@pytest.fixture
def train(slurm: Callable[..., int], fake: FakeSlurm) -> Callable[..., int]:
    return lambda *flags: slurm("train", *TINY, f"--python={fake.python}", "--checkpoint-dir=run", *flags)


def test_a_warned_job_saves_is_requeued_and_resumes(train: Callable[..., int], fake: FakeSlurm, tmp_path: Path) -> None:
    fake.plan("wait", "0")
    fake.warn_when(fake.waiting)
    assert train() == 0
    assert fake.codes() == [(75, True), (0, False)]
    assert (fake.folder / "signals.txt").read_text() == "SIGUSR1\n"
    log = next((tmp_path / "run" / "slurm").glob("train-*.log")).read_text()
    assert "Stopped after saving; requeued job 101, time 1 of at most 20." in log


def test_a_cancelled_job_saves_and_is_not_requeued(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.plan("wait")
    fake.warn_when(fake.waiting, "SIGTERM")
    assert train() == 0
    assert fake.codes() == [(75, False)] and (fake.folder / "signals.txt").read_text() == "SIGUSR1\n"


def test_a_run_that_stops_itself_is_requeued_until_the_cap(
    train: Callable[..., int], fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.plan(*["75"] * 9)
    assert train("--max-requeues=3") == 0
    assert fake.codes() == [(75, True)] * 3 + [(75, False)]
    log = next((tmp_path / "run" / "slurm").glob("train-*.log")).read_text()
    assert "was requeued 3 times, the most allowed" in log


def test_zero_requeues_turns_it_off(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.plan("75")
    assert train("--max-requeues=0") == 0 and fake.codes() == [(75, False)]


def test_a_cluster_that_does_not_requeue_is_told(
    train: Callable[..., int], fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NO_REQUEUE", "1")
    fake.plan("75")
    assert train() == 0 and fake.codes() == [(75, False)]
    assert "could not be requeued" in next((tmp_path / "run" / "slurm").glob("train-*.log")).read_text()


@pytest.mark.parametrize("code", ["1", "2", "137"])
def test_a_failed_run_fails_its_job_and_is_not_evaluated(code: str, train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.plan(code)
    assert train("--then-eval") == 0
    assert fake.codes() == [(int(code), False)]
    (first, second) = fake.read("sbatch")
    assert first[0] == "--parsable"
    assert second[:3] == ["--parsable", "--dependency=afterok:101", "--kill-on-invalid-dep=yes"]


def test_an_evaluation_follows_a_run_that_succeeded(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.plan("75", "0")
    assert train("--then-eval", "--eval-splits=val,test") == 0
    assert fake.codes() == [(75, True), (0, False), (0, False)]
    assert [words[2] for words in fake.read("python")] == ["train", "train", "eval", "eval"]
    assert [words[-1] for words in fake.read("python")[2:]] == ["val", "test"]


def test_a_signal_during_startup_is_not_a_failure(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.monkeypatch.setenv("FAKE_STOPPED", "138")
    fake.plan("wait", "0")
    fake.warn_when(fake.waiting)
    assert train() == 0 and fake.codes() == [(75, True), (0, False)]


def test_an_error_after_the_warning_is_not_requeued(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.monkeypatch.setenv("FAKE_STOPPED", "1")
    fake.plan("wait")
    fake.warn_when(fake.waiting)
    assert train() == 0 and fake.codes() == [(1, False)]


def test_a_run_that_ends_in_spite_of_the_warning_is_done(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.monkeypatch.setenv("FAKE_STOPPED", "0")
    fake.plan("wait")
    fake.warn_when(fake.waiting)
    assert train() == 0 and fake.codes() == [(0, False)]


def test_several_machines_get_the_warning_and_their_code_is_known(train: Callable[..., int], fake: FakeSlurm) -> None:
    fake.monkeypatch.setenv("FAKE_STOPPED", "1")  # as torchrun ends when its processes have saved
    fake.plan("wait", "0")
    fake.warn_when(fake.waiting)
    assert train("--nodes=2") == 0
    assert fake.codes() == [(75, True), (0, False)]
    words = fake.read("srun")[0]
    assert words[:5] == ["--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--kill-on-bad-exit=0", "--wait=0"]
    meeting = dict(itertools.pairwise(words))
    assert meeting["--nnodes"] == "2" and meeting["--rdzv-endpoint"] == f"localhost:{20000 + 101}"
    assert [w[w.index("--rdzv-id") + 1] for w in fake.read("srun")] == ["101-0", "101-1"]


def test_the_check_runs_at_the_first_start_only(
    slurm: Callable[..., int], fake: FakeSlurm, data_flags: list[str]
) -> None:
    fake.plan("75", "0")
    assert slurm("train", "--preset=tiny", "--gpus=0", "--submit", f"--python={fake.python}") == 0
    assert [words[2] for words in fake.read("python")] == ["check", "train", "train"]


def test_only_the_warned_task_of_an_array_is_requeued(
    slurm: Callable[..., int], fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.plan("0", "75", "0", "3")
    flags = ["--preset=tiny", "--cache=f", "--tasks=3", "--gpus=0", f"--python={fake.python}", "--submit"]
    assert slurm("cache", *flags) == 0
    runs = [(run["task"], run["code"], run["requeued"]) for run in fake.read("runs")]
    assert runs == [(0, 0, False), (1, 75, True), (1, 0, False), (2, 3, False)]
    assert [words[-3:] for words in fake.read("python")] == [[str(n), "--num-shards", "3"] for n in (0, 1, 1, 2)]
    assert len(list((tmp_path / "f" / "slurm").glob("cache-101_*.log"))) == 3


def test_the_scripts_run_without_slurm(slurm: Callable[..., int], fake: FakeSlurm, tmp_path: Path) -> None:
    assert slurm("train", *TINY[:-1], f"--python={fake.python}", "--checkpoint-dir=run") == 0
    fake.plan("75")
    script = tmp_path / "run" / "slurm" / "train.sh"
    assert subprocess.run(["bash", script], check=False).returncode == 75
    assert not (fake.folder / "requeue.txt").exists()


def test_submission_prints_ids_and_what_to_do(
    train: Callable[..., int],
    fake: FakeSlurm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    captured_log: Any,
) -> None:
    fake.monkeypatch.setenv("FAKE_CLUSTER_NAME", "1")
    assert train("--then-eval") == 0
    out, said = capsys.readouterr().out, captured_log()
    assert out.splitlines()[-2:] == ["101", "102"]
    folder = tmp_path / "run" / "slurm"
    for part in (
        "squeue --jobs=101,102",
        f"tail -F {folder}/train-101.log",
        "scancel 101 102",
        f"sbatch {folder}/train.sh",
    ):
        assert part in said


def test_a_refusal_of_sbatch_names_what_was_submitted(
    train: Callable[..., int], fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.monkeypatch.setenv("FAKE_REFUSES", "eval")
    assert train("--then-eval") == 1
    err = capsys.readouterr().err
    assert "Batch job submission failed: Invalid account" in err and "scancel 101 takes it back" in err


def test_submitting_without_slurm_is_an_error(
    slurm: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert slurm("train", *TINY, "--checkpoint-dir=run") == 2
    assert "sbatch is not on PATH" in capsys.readouterr().err
