"""The text of the scripts: valid bash, quoted, and what sbatch reads in them."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgvivqa.cli import parse
from surgvivqa.config import TrainConfig, plain_values

TINY = ("--preset=tiny", "--max-steps=3", "--workers=0")
AWKWARD = "it's a 50% run #1 $HOME"


def check_bash(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    # SC1091: the setup lines are the user's, and name files of the cluster. SC2016: a $ of a path is quoted on purpose.
    result = subprocess.run([shellcheck, "--exclude=SC1091,SC2016", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def options_of(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("#SBATCH ")]
    words = [shlex.split(line)[1] for line in lines]
    return {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in words)}


JOBS = {
    "train": ["--then-eval", "--eval-splits=val,test"],
    "train several GPUs": ["--gpus=4", "--gpu-type=a100", "--then-eval"],
    "train several machines": ["--gpus=8", "--nodes=2", "--constraint=a100&nvlink", "--mem=64G"],
    "train site": ["--module=cuda/12", "--setup=source env/bin/activate", "--offline", "--sbatch=mail-type=END"],
    "train container": ["--container=/images/my env.sif", "--bind=/data", "--nodes=2"],
    "train bare": ["--gpus=0", "--no-preflight"],
    "eval": ["--checkpoint=tiny", "--split=val", "--corrupt", "smoke", "blood:3"],
    "cache": ["--cache=features", "--tasks=2", "--max-parallel=1"],
    "sweep": ["--vary=seed=1,2", "--vary=lora-r=8,16", "--vary=lr=5e-4", "--max-parallel=2"],
    "sweep container": ["--vary=seed=1,2", "--container=a.sif", "--gpus=2"],
}


@pytest.mark.parametrize("job", JOBS)
def test_every_script_is_clean_bash(job: str, slurm: Callable[..., int], tmp_path: Path) -> None:
    flags = ["--preset=tiny", *JOBS[job], f"--scripts={tmp_path / AWKWARD}"]
    assert slurm(job.split()[0], *flags, "--partition=gpu", "--time=1-00:00:00") == 0
    scripts = sorted((tmp_path / AWKWARD).glob("*.sh"))
    assert scripts
    for script in scripts:
        check_bash(script)
        options = options_of(script)
        assert options["partition"] == "gpu" and options["chdir"] == str(tmp_path)
        assert options["output"].startswith(str(tmp_path / AWKWARD).replace("%", "%%"))


def test_the_script_of_the_trial_slurm_is_clean_bash() -> None:
    check_bash(Path(__file__).resolve().parents[2] / "tools" / "try_slurm.sh")


def test_a_dry_run_prints_and_writes_and_submits_nothing(
    slurm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], captured_log: Any
) -> None:
    assert slurm("train", *TINY, "--checkpoint-dir=runs/a") == 0
    out = capsys.readouterr().out
    script = tmp_path / "runs" / "a" / "slurm" / "train.sh"
    assert script.read_text() in out and f"# {script}\n" in out
    said = captured_log()
    assert "Nothing is submitted" in said and f"sbatch --parsable {script}" in said


def test_the_job_trains_with_the_flags_that_were_given(slurm: Callable[..., int], tmp_path: Path) -> None:
    assert slurm("train", *TINY, "--checkpoint-dir=runs/a", "--lr=2e-3", "--bf16", "--report-to", "tensorboard") == 0
    saved = tmp_path / "runs" / "a" / "slurm" / "train.yaml"
    config = parse("train", TrainConfig, ["--config", str(saved)])
    assert (config.lr, config.bf16, config.report_to, config.max_steps) == (2e-3, True, ["tensorboard"], 3)
    assert plain_values(config) == yaml.safe_load(saved.read_text())
    last = (saved.parent / "train.sh").read_text().splitlines()[-1]
    assert last == f"run_step {sys.executable} -m surgvivqa train --config {saved}"


def test_what_sbatch_is_asked_for(slurm: Callable[..., int], tmp_path: Path) -> None:
    flags = ["--gpus=2", "--gpu-type=h100", "--cpus=6", "--account=lab", "--qos=high", "--warn-seconds=300"]
    assert slurm("train", *TINY, "--checkpoint-dir=runs/a", *flags, "--sbatch=exclude=n[1-3]") == 0
    options = options_of(tmp_path / "runs" / "a" / "slurm" / "train.sh")
    expected = {"gres": "gpu:h100:2", "cpus-per-task": "6", "account": "lab", "qos": "high", "requeue": ""}
    expected |= {"signal": "B:USR1@300", "exclude": "n[1-3]", "job-name": "a", "open-mode": "append", "nodes": "1"}
    assert expected.items() <= options.items() and not {"time", "mem", "partition"} & options.keys()


def test_one_machine_uses_torchrun_and_several_use_srun(slurm: Callable[..., int], tmp_path: Path) -> None:
    script = tmp_path / "s" / "train.sh"
    assert slurm("train", *TINY, "--scripts=s", "--gpus=4") == 0
    last = script.read_text().splitlines()[-1]
    assert "torch.distributed.run --nproc-per-node 4" in last and "--standalone" in last and "srun" not in last
    assert slurm("train", *TINY, "--scripts=s", "--gpus=4", "--nodes=3") == 0
    text = script.read_text()
    assert 'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1' in text
    assert '--rdzv-endpoint "$head:$port"' in text and "port=$((20000 + SLURM_JOB_ID % 10000))" in text
    assert options_of(script)["nodes"] == "3"


def test_a_container_sees_the_folders_that_the_flags_name(
    slurm: Callable[..., int], tmp_path: Path, synthetic_set: Path
) -> None:
    assert slurm("train", *TINY, "--scripts=s", "--container=env.sif", "--bind=/opt:/o", "--checkpoint-dir=runs/a") == 0
    line = next(x for x in (tmp_path / "s" / "train.sh").read_text().splitlines() if " train " in x and "run_step" in x)
    words = shlex.split(line)
    assert words[1:4] == ["apptainer", "exec", "--nv"]
    bound = {words[i + 1] for i, word in enumerate(words) if word == "--bind"}
    assert {str(synthetic_set / "ssg-qa"), str(synthetic_set / "frames"), str(tmp_path), "/opt:/o"} <= bound
    assert words[words.index(str(tmp_path / "env.sif")) + 1 :][:3] == ["python", "-m", "surgvivqa"]
    assert slurm("train", *TINY, "--scripts=s", "--container=env.sif", "--container-tool=singularity", "--gpus=0") == 0
    text = (tmp_path / "s" / "train.sh").read_text()
    assert "singularity exec --bind" in text and "--nv" not in text


def test_a_folder_that_a_container_cannot_bind_is_an_error(
    slurm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a:b").mkdir()
    assert slurm("train", *TINY, "--scripts=s", "--container=env.sif", "--cache=a:b") == 2
    assert "because of its colon or comma" in capsys.readouterr().err


def test_a_folder_with_a_line_break_is_an_error(slurm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm("train", *TINY, "--scripts=a\n#SBATCH --exclusive") == 2
    assert "cannot be named in a batch script" in capsys.readouterr().err


def test_offline_jobs_do_not_ask_the_hub(slurm: Callable[..., int], tmp_path: Path) -> None:
    assert slurm("train", *TINY, "--scripts=s", "--offline") == 0
    assert "\nexport HF_HUB_OFFLINE=1\n" in (tmp_path / "s" / "train.sh").read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--num-frames=3"], "--num-frames must be an even number"),
        (["--lr=-1"], "--lr must be at least 0"),
        (["--cache-text"], "--cache-text stores text states in the cache folder"),
        (["--fp16", "--bf16"], "--fp16 and --bf16 cannot be combined"),
        (["--fp16", "--gpus=0"], "--fp16 needs a GPU"),
        (["--image-root=/nowhere"], "--image-root /nowhere is not a folder. --paths-on-nodes leaves this check"),
        (["--report-to=nothing"], "nothing"),
        (["--resume=never"], "--resume never would stop a requeued job"),
        (["--max-hours=1", "--gpus=2"], "--max-hours cannot requeue a job of several processes"),
        (["--then-eval", "--eval-splits=tset"], "'tset' must be some of the splits train, val, test"),
    ],
)
def test_flags_are_checked_when_the_script_is_written(
    flags: list[str], sentence: str, slurm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm("train", *TINY, "--scripts=s", *flags) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_an_unknown_flag_is_named(slurm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        slurm("train", *TINY, "--learning-rat=1")
    assert stopped.value.code == 2 and "--learning-rat" in capsys.readouterr().err


def test_folders_that_only_the_job_sees(slurm: Callable[..., int], tmp_path: Path) -> None:
    flags = ["--ssgvqa-root=/on/node/q", "--image-root=/on/node/i", "--paths-on-nodes", "--scripts=s"]
    assert slurm("train", *TINY, *flags) == 0
    assert yaml.safe_load((tmp_path / "s" / "train.yaml").read_text())["image_root"] == "/on/node/i"


def test_a_run_with_other_flags_is_found_before_the_queue(
    slurm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.yaml").write_text(
        "preset: tiny\nmax_steps: 3\nlr: 0.1\nbf16: false\nencode_ahead: 1\n"
    )
    assert slurm("train", *TINY, "--checkpoint-dir=runs") == 2
    assert "--lr was 0.1, is 0.0005" in capsys.readouterr().err
    assert slurm("train", *TINY, "--checkpoint-dir=runs", "--lr=0.1") == 0
    assert slurm("train", *TINY, "--checkpoint-dir=runs", "--overwrite") == 0
    # Only the first start replaces the run: training removes the mark.
    assert (tmp_path / "runs" / ".overwrite").exists()
    assert yaml.safe_load((tmp_path / "runs" / "slurm" / "train.yaml").read_text())["overwrite"] is False
    check_bash(tmp_path / "runs" / "slurm" / "train.sh")


def test_eval_writes_beside_the_run(slurm: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert slurm("eval", "--checkpoint=run", "--split=val", "--mask=causal", "--baseline", "a", "b") == 0
    saved = yaml.safe_load((tmp_path / "run" / "slurm" / "eval-val.yaml").read_text())
    assert (saved["split"], saved["mask"], saved["baseline"]) == ("val", "causal", ["a", "b"])
    assert "preset" not in saved
    assert "signal" not in options_of(tmp_path / "run" / "slurm" / "eval-val.sh")


def test_the_tasks_of_the_cache_name_their_share(slurm: Callable[..., int], tmp_path: Path) -> None:
    assert slurm("cache", "--preset=tiny", "--cache=f", "--tasks=2", "--max-parallel=1") == 0
    script = tmp_path / "f" / "slurm" / "cache.sh"
    assert options_of(script)["array"] == "0-1%1" and options_of(script)["output"].endswith("cache-%A_%a.log")
    assert '--shard "$SLURM_ARRAY_TASK_ID" --num-shards 2' in script.read_text()
    assert slurm("cache", "--preset=tiny", "--cache=f", "--tasks=50") == 0
    assert options_of(script)["array"] == "0-2"  # three videos


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--gpus=2"], "A task of the cache is one process"),
        (["--shard=0", "--num-shards=2"], "--shard and --num-shards follow from --tasks"),
        (["--splits=all"], "'all' must be some of the splits"),
        (["--checkpoint=a", "--pretrained-ckpt=b"], "exclude each other"),
    ],
)
def test_flags_of_the_cache_are_checked(
    flags: list[str], sentence: str, slurm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm("cache", "--preset=tiny", "--cache=f", *flags) == 2
    assert sentence in capsys.readouterr().err
