"""``surgvivqa slurm`` with SLURM itself, on two small machines that ``tools/try_slurm.sh`` makes of this one."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.helpers.processes import LIMIT

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--preset=tiny", "--batch-size=6", "--workers=0", "--val-max-samples=10", "--gpus=0", "--cpus=1", "--submit")

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None or os.geteuid() != 0,
        reason="needs slurm-wlm, and root to start it",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)  # munged insists on it
    tool = [str(ROOT / "tools" / "try_slurm.sh")]
    started = subprocess.run([*tool, "start", str(folder)], capture_output=True, text=True, check=False)
    if started.returncode:
        subprocess.run([*tool, "stop", str(folder)], check=False)
        pytest.skip(f"SLURM does not start here: {started.stderr.strip()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("SURGVIVQA_SITE", "/dev/null")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        yield
    subprocess.run([*tool, "stop", str(folder)], check=True)


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, f"SLURM hangs: {what}"
        time.sleep(0.2)


def state_of(job: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return " ".join(word.partition("=")[2] for word in shown.split() if word.startswith("JobState="))


def wait_for_jobs(jobs: list[str]) -> None:
    unfinished = {"PENDING", "RUNNING", "COMPLETING"}
    wait_for(lambda: not any(unfinished & set(state_of(job).split()) for job in jobs), f"jobs {', '.join(jobs)}")


def submit(capsys: pytest.CaptureFixture[str], command: str, *flags: str) -> list[str]:
    """Submits jobs, and returns their ids."""
    assert main(["slurm", command, *TINY, *flags]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.isdigit()]


def test_a_warned_job_is_requeued_resumes_and_is_evaluated(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "it's a 50% run #1"
    flags = [
        *data_flags,
        f"--checkpoint-dir={run}",
        "--max-steps=60",
        "--log-interval=1",
        "--then-eval",
        "--time=1:00:00",
    ]
    training, evaluation = submit(capsys, "train", *flags)
    wait_for((run / "metrics.jsonl").exists, "training")
    subprocess.run(["scancel", "--signal=USR1", "--batch", training], check=True)
    wait_for_jobs([training, evaluation])
    log = (run / "slurm" / f"train-{training}.log").read_text()
    assert f"Stopped after saving; requeued job {training}, time 1 of at most 20." in log
    assert "16 checks, 0 failed." in log and "Resuming after step" in log
    assert json.loads((run / "finished.json").read_text())["steps"] == 60
    assert (state_of(training), state_of(evaluation)) == ("COMPLETED", "COMPLETED")
    assert (run / "eval-test" / "metrics.json").is_file()


def test_a_cancelled_job_saves_and_its_evaluation_is_given_up(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = [*data_flags, f"--checkpoint-dir={run}", "--max-steps=5000", "--log-interval=1", "--no-preflight"]
    training, evaluation = submit(capsys, "train", *flags, "--then-eval")
    wait_for((run / "metrics.jsonl").exists, "training")
    subprocess.run(["scancel", training], check=True)
    wait_for_jobs([training, evaluation])
    assert state_of(training) == "CANCELLED" and state_of(evaluation) == "CANCELLED"
    assert len(list((run / "checkpoints").glob("step-*"))) == 1


def test_the_tasks_of_an_array_fill_the_cache(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--preset=tiny", "--workers=0", "--gpus=0", "--cpus=1", *data_flags, f"--cache={tmp_path / 'cache'}"]
    assert main(["slurm", "cache", *cache, "--tasks=2", "--submit"]) == 0
    job = capsys.readouterr().out.splitlines()[-1]
    wait_for_jobs([job])
    assert state_of(job) == "COMPLETED COMPLETED"
    folder = next(path for path in (tmp_path / "cache").iterdir() if path.name != "slurm")
    assert {path.stem for path in folder.glob("*.safetensors")} == {"VID01", "VID02", "VID04"}
    assert len(list((tmp_path / "cache" / "slurm").glob("cache-*_[01].log"))) == 2


def test_a_sweep_makes_a_table_that_names_a_cancelled_task(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    flags = [*data_flags, f"--checkpoint-dir={sweep}", "--max-steps=5", "--vary=lora-r=8,4", "--vary=seed=1,2"]
    array, table = submit(capsys, "sweep", *flags, "--no-preflight", "--max-parallel=2", "--eval-splits=val")
    subprocess.run(["scancel", f"{array}_3"], check=True)
    wait_for_jobs([array, table])
    assert state_of(table) == "FAILED"  # exit code 1: a run is missing
    text = (sweep / "sweep.md").read_text()
    assert "| **lora-r=8** | 2 of 2 |" in text and "| lora-r=4 | 1 of 2 |" in text
    assert "- task 3 (lora-r=4, seed=2): not started" in text
    repeat = ["sbatch", "--parsable", "--array=3", str(sweep / "slurm" / "sweep.sh")]
    again = subprocess.run(repeat, capture_output=True, text=True, check=True).stdout.strip()
    wait_for_jobs([again])
    assert main(["slurm", "sweep", f"--table={sweep}"]) == 0
    assert "| 2 of 2 |" in capsys.readouterr().out.splitlines()[7]
