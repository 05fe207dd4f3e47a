"""The SLURM scripts and the launchers under the recipes' names."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.processes import LIMIT, running, wait_for_exit, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ["fine-tune/run_finetune.sh", "fine-tune/run_eval.sh", "fine-tune/run_crossval.sh"]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("SSGVQA_ROOT", "IMAGE_ROOT", "SLURM_SUBMIT_DIR")}
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.parametrize("script", [*SCRIPTS, "fine-tune/supervise.sh", "tools/setup_environment.sh", ".ci/run"])
def test_shellcheck_is_clean(script: str) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = run(shellcheck, script)
    assert result.returncode == 0, result.stdout


def test_the_script_runs_the_recipe(tmp_path: Path) -> None:
    result = run("bash", SCRIPTS[0], "--debug", SSGVQA_ROOT="/q", IMAGE_ROOT="/i", PYTHON="echo")
    assert result.returncode == 0
    for part in (
        "--max-steps 30000",
        "--batch-size 8",
        "--lr 5e-4",
        "--fp16",
        "--ssgvqa-root /q",
        "--image-root /i",
        "--debug",
    ):
        assert part in result.stdout


def test_nproc_sets_the_number_of_processes() -> None:
    roots = {"SSGVQA_ROOT": "/q", "IMAGE_ROOT": "/i", "PYTHON": "echo"}
    several = run("bash", SCRIPTS[0], **roots, NPROC="4").stdout
    assert several.startswith(
        f"-m torch.distributed.run --standalone --nproc-per-node 4 {ROOT}/fine-tune/train_ssgvqa.py"
    )
    one = run("bash", SCRIPTS[0], **roots, NPROC="1").stdout
    assert one.startswith(f"{ROOT}/fine-tune/train_ssgvqa.py")
    assert several.endswith(one.removeprefix(f"{ROOT}/fine-tune/train_ssgvqa.py"))


@pytest.mark.parametrize("script", [SCRIPTS[0], SCRIPTS[2]])
def test_a_missing_root_is_one_sentence(script: str) -> None:
    result = run("bash", script)
    assert result.returncode == 2
    name = Path(script).name
    assert result.stderr.strip() == f"{name}: SSGVQA_ROOT is not set; set it to the folder of the data."


def test_a_task_of_the_array_runs_its_fold_and_the_last_step_runs_all() -> None:
    given = {"SSGVQA_ROOT": "/q", "IMAGE_ROOT": "/i", "PYTHON": "echo", "CACHE": "/c", "FOLDS": "/f.json"}
    task = run("bash", SCRIPTS[2], "--val-videos=3", **given, SLURM_ARRAY_TASK_ID="4").stdout
    assert task.startswith(f"{ROOT}/fine-tune/crossval_ssgvqa.py --ssgvqa-root /q --image-root /i --max-steps 30000")
    assert "--fp16 --folds /f.json --cache /c --fold 4 --val-videos=3" in task
    for last in ({"SLURM_ARRAY_TASK_ID": "0"}, {}):
        assert run("bash", SCRIPTS[2], "--val-videos=3", **given, **last).stdout == task.replace(" --fold 4", "")


def test_eval_takes_checkpoint_and_mode() -> None:
    result = run("bash", SCRIPTS[1], "ckpt/best_model.pth", "simple", PYTHON="echo")
    assert result.stdout.strip().endswith("--checkpoint ckpt/best_model.pth --prompt-mode simple")


@pytest.mark.slow
def test_the_launchers_run_a_recipe(synthetic_set: Path, tmp_path: Path) -> None:
    data = ["--ssgvqa-root", f"{synthetic_set}/ssg-qa/", "--image-root", f"{synthetic_set}/frames"]
    splits = ["--splits-dir", f"{synthetic_set}/splits"]
    tiny = ["--preset", "tiny", "--workers", "0"]
    result = run(sys.executable, "fine-tune/sanity_check.py", *data, *splits, *tiny)
    assert result.returncode == 0, result.stdout + result.stderr
    recipe = ["--max-steps", "3", "--batch-size", "8", "--lr", "5e-4", "--prompt-mode", "simple"]
    folder = ["--checkpoint-dir", str(tmp_path / "ckpt")]
    result = run(sys.executable, "fine-tune/train_ssgvqa.py", *data, *splits, *tiny, *recipe, *folder)
    assert result.returncode == 0, result.stderr
    checkpoint = str(tmp_path / "ckpt" / "best_model.pth")
    result = run(sys.executable, "fine-tune/eval_finetuned.py", "--checkpoint", checkpoint, "--prompt-mode", "simple")
    assert result.returncode == 0, result.stderr
    shutil.rmtree(tmp_path / "ckpt" / "eval-test")
    result = run("bash", SCRIPTS[1], checkpoint, "simple", PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "ckpt" / "eval-test" / "metrics.json").is_file()


@pytest.mark.slow
def test_full_fine_tuning_and_the_slurm_script_run(synthetic_set: Path, tmp_path: Path) -> None:
    roots = {"SSGVQA_ROOT": f"{synthetic_set}/ssg-qa/", "IMAGE_ROOT": f"{synthetic_set}/frames"}
    more = ["--splits-dir", f"{synthetic_set}/splits", "--preset", "tiny", "--workers", "0"]
    recipe = ["--full-finetune", "--train-gpt2-full", "--max-steps", "2", "--batch-size", "2", "--lr", "1e-6"]
    recipe += ["--prompt-mode", "simple", "--checkpoint-dir", str(tmp_path / "full")]
    result = run(sys.executable, "fine-tune/train_ssgvqa.py", *recipe, *more, **roots)
    assert result.returncode == 0, result.stderr
    # As SLURM does: a copy of the script, started elsewhere, and given the folder where it was submitted.
    copy = tmp_path / "slurm_script"
    shutil.copy(ROOT / SCRIPTS[0], copy)
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": sys.executable, "PRECISION": "fp32", "MAX_STEPS": "2"}
    slurm |= {"CKPT_DIR": str(tmp_path / "job"), "SPLITS_DIR": f"{synthetic_set}/splits"}
    result = run("bash", str(copy), *more[2:], **roots, **slurm)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "job" / "best_model.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("nproc", ["1", "2"])
def test_a_job_warned_by_slurm_is_requeued_and_resumes(nproc: str, synthetic_set: Path, tmp_path: Path) -> None:
    """With a fake ``scontrol`` on PATH: warned, the job saves and queues itself; started again, it comes to its end."""
    requeue_log = tmp_path / "scontrol.txt"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {requeue_log}\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    env = os.environ | {"SSGVQA_ROOT": f"{synthetic_set}/ssg-qa/", "IMAGE_ROOT": f"{synthetic_set}/frames"}
    env |= {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "42", "PYTHON": sys.executable, "PRECISION": "fp32"}
    env |= {"CKPT_DIR": str(tmp_path / "job"), "SPLITS_DIR": f"{synthetic_set}/splits", "NPROC": nproc}
    env |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "MAX_STEPS": "150"}
    command = ["bash", SCRIPTS[0], "--preset=tiny", "--workers=0", "--log-interval=1", "--val-max-samples=5"]
    with running(command, cwd=ROOT, env=env) as job:
        wait_until((tmp_path / "job" / "metrics.jsonl").exists, job)
        job.send_signal(signal.SIGUSR1)
        code, errors, _ = wait_for_exit(job)
    assert code == 75, errors
    assert requeue_log.read_text() == "requeue 42\n"
    assert list((tmp_path / "job" / "checkpoints").iterdir()) and not (tmp_path / "job" / "finished.json").exists()
    # SLURM starts it with the same arguments, the one that replaced an older run among them.
    env |= {"SLURM_RESTART_COUNT": "1"}
    again = subprocess.run([*command, "--overwrite"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 0, again.stderr
    assert "Resuming after step" in (tmp_path / "job" / "train.log").read_text()
    assert requeue_log.read_text() == "requeue 42\n" and (tmp_path / "job" / "finished.json").exists()


@pytest.mark.parametrize("script", [SCRIPTS[0], SCRIPTS[2]])
@pytest.mark.parametrize(("signal_number", "is_requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_cancelled_job_is_not_requeued(
    signal_number: signal.Signals, is_requeued: bool, script: str, tmp_path: Path
) -> None:
    requeue_log, started = tmp_path / "scontrol.txt", tmp_path / "there"
    programs = {
        "scontrol": f'echo "$@" >> {requeue_log}',
        # A run that saves when it is asked to.
        "python": f"trap 'exit 75' USR1\ntouch {started}\nwhile true; do sleep 0.05; done",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"SSGVQA_ROOT": "/q", "IMAGE_ROOT": "/i", "PYTHON": str(tmp_path / "python"), "REQUEUE": "1"}
    env |= {"SLURM_JOB_ID": "42", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    is_array = script == SCRIPTS[2]
    if is_array:  # SLURM gives the last task of an array the array's own number
        env |= {"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "5"}
    with running(["bash", script], cwd=ROOT, env=env) as job:
        wait_until(started.exists, job)
        job.send_signal(signal_number)
        code, errors, _ = wait_for_exit(job)
    assert code == 75, errors
    assert requeue_log.exists() == is_requeued
    if is_requeued:
        assert requeue_log.read_text() == ("requeue 42_5\n" if is_array else "requeue 42\n")
