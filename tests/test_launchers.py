"""The SLURM scripts and the launchers under the recipes' names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ["fine-tune/run_finetune.sh", "fine-tune/run_eval.sh"]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("SSGVQA_ROOT", "IMAGE_ROOT", "SLURM_SUBMIT_DIR")}
    return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_is_clean(script: str) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = run(shellcheck, script)
    assert done.returncode == 0, done.stdout


def test_the_recipe_is_what_the_script_runs(tmp_path: Path) -> None:
    done = run("bash", SCRIPTS[0], "--debug", SSGVQA_ROOT="/q", IMAGE_ROOT="/i", PYTHON="echo")
    assert done.returncode == 0
    for part in (
        "--max-steps 30000",
        "--batch-size 8",
        "--lr 5e-4",
        "--fp16",
        "--ssgvqa-root /q",
        "--image-root /i",
        "--debug",
    ):
        assert part in done.stdout


def test_a_missing_root_is_one_sentence() -> None:
    done = run("bash", SCRIPTS[0])
    assert done.returncode == 2
    assert done.stderr.strip() == "run_finetune.sh: SSGVQA_ROOT is not set; set it to the folder of the data."


def test_eval_takes_checkpoint_and_mode() -> None:
    done = run("bash", SCRIPTS[1], "ckpt/best_model.pth", "simple", PYTHON="echo")
    assert done.stdout.strip().endswith("--checkpoint ckpt/best_model.pth --prompt-mode simple")


@pytest.mark.slow
def test_the_launchers_run_a_recipe(synthetic_set: Path, tmp_path: Path) -> None:
    data = ["--ssgvqa-root", f"{synthetic_set}/ssg-qa/", "--image-root", f"{synthetic_set}/frames"]
    splits = ["--splits-dir", f"{synthetic_set}/splits"]
    tiny = ["--preset", "tiny", "--workers", "0"]
    done = run(sys.executable, "fine-tune/sanity_check.py", *data, *splits, *tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    recipe = ["--max-steps", "3", "--batch-size", "8", "--lr", "5e-4", "--prompt-mode", "simple"]
    folder = ["--checkpoint-dir", str(tmp_path / "ckpt")]
    done = run(sys.executable, "fine-tune/train_ssgvqa.py", *data, *splits, *tiny, *recipe, *folder)
    assert done.returncode == 0, done.stderr
    done = run("bash", SCRIPTS[1], str(tmp_path / "ckpt" / "best_model.pth"), "simple", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "eval-test" / "metrics.json").is_file()
