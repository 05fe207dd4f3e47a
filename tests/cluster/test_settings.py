"""Where the values of a job come from, and what cannot get into a script."""

from pathlib import Path
from typing import Any

import pytest

from surgvivqa.cli import parse
from surgvivqa.cluster.settings import JobSettings, resolve_settings
from surgvivqa.commands.slurm_config import SlurmTrainConfig
from surgvivqa.utils.errors import InputError


@pytest.fixture(autouse=True)
def _no_site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SURGVIVQA_SITE", raising=False)


def settle(*flags: str) -> JobSettings:
    return resolve_settings(parse("slurm train", SlurmTrainConfig, list(flags)))


def refuse(*flags: str) -> str:
    with pytest.raises(InputError) as raised:
        settle(*flags)
    return str(raised.value)


def test_defaults_are_one_gpu_and_no_limits() -> None:
    settings = settle()
    assert (settings.nodes, settings.gpus, settings.processes, settings.cpus) == (1, 1, 1, 8)
    assert (settings.time, settings.mem, settings.partition) == (None, None, None)
    assert not settings.is_distributed


def test_processes_and_cores_follow_from_the_gpus() -> None:
    settings = settle("--gpus=4", "--nodes=2")
    assert (settings.processes, settings.cpus, settings.is_distributed) == (4, 32, True)
    assert settle("--gpus=0", "--processes=2").is_distributed
    assert "--processes 3 is more than --gpus 2" in refuse("--gpus=2", "--processes=3")


def test_flags_win_over_the_site_file_and_lists_are_joined(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "partition: gpu\ntime: 12:00:00\naccount: 4711\nmodule: [cuda/12]\nsetup: source a\noffline: true\n"
    )
    settings = settle(f"--site={site}", "--partition=long", "--module=gcc", "--no-offline", "--setup=source b")
    assert (settings.partition, settings.time, settings.account) == ("long", "12:00:00", "4711")
    assert settings.module == ("cuda/12", "gcc") and settings.setup == ("source a", "source b")
    assert settings.offline is False and settings.python == "python"
    assert settle(f"--site={site}").offline is True


def test_the_site_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / ".config" / "surgvivqa"
    home.mkdir(parents=True)
    (home / "site.yaml").write_text("qos: home\n")
    assert settle().qos == "home"
    (tmp_path / "other.yaml").write_text("qos: other\ncontainer: ~/a.sif\n")
    monkeypatch.setenv("SURGVIVQA_SITE", str(tmp_path / "other.yaml"))
    assert settle().qos == "other" and settle().container == tmp_path / "home" / "a.sif"
    assert settle("--site=/dev/null").qos is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: gpu\n", "the unknown key 'partitoin'; the nearest one is 'partition'"),
        ("gpus: four\n", "gpus cannot be 'four'"),
        ("gpus: 9\n", "--gpus must be at most 8, not 9"),
        ("- gpu\n", "must map flag names to values"),
        ("setup: [export HF_TOKEN=hf_" + "a" * 34 + "]\n", "setup holds what looks like a token"),
    ],
)
def test_a_wrong_site_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    found = refuse(f"--site={tmp_path / 'site.yaml'}")
    assert sentence in found and str(tmp_path / "site.yaml") in found and "\n" not in found


def test_a_site_file_that_is_named_must_exist(tmp_path: Path) -> None:
    assert "cannot be read" in refuse(f"--site={tmp_path / 'none.yaml'}")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--partition=gpu\n#SBATCH --exclusive"], "--partition 'gpu\\n#SBATCH --exclusive' must be one line"),
        (["--partition=gpu --exclusive"], "--partition 'gpu --exclusive' must be a name"),
        (["--account=a;b"], "--account 'a;b' must be a name"),
        (["--time=43200"], "--time '43200' must be a time such as 12:00:00 or 2-00:00:00, quoted in YAML"),
        (["--time=soon"], "--time 'soon' must be a time"),
        (["--time=1:2:3"], "--time '1:2:3' must be a time"),
        (["--mem=64 G"], "--mem '64 G' must be a size"),
        (["--gpu-type=a100:2"], "--gpu-type 'a100:2' must be a name"),
        (["--job-name=a b"], "--job-name 'a b' must be letters"),
        (["--setup=a\nb"], "--setup 'a\\nb' must be one line"),
        (["--module="], "--module '' must be one line"),
        (["--sbatch=--exclude=n1"], "must be NAME=VALUE without dashes"),
        (["--sbatch=time=1"], "--sbatch time is set by the script itself; use --time"),
        (["--sbatch=cpus-per-task=1"], "--sbatch cpus-per-task is set by the script itself"),
        (['--sbatch=comment=a"b'], "must not have quotation marks"),
        (["--gpus=9"], "--gpus must be at most 8, not 9"),
        (["--warn-seconds=1"], "--warn-seconds must be at least 10, not 1"),
    ],
)
def test_values_that_cannot_stand_in_a_script(flags: list[str], sentence: str) -> None:
    assert sentence in refuse(*flags)


@pytest.mark.parametrize("time", ["30:00", "12:00:00", "2-00", "2-00:00:00"])
def test_times_as_sbatch_takes_them(time: str) -> None:
    assert settle(f"--time={time}").time == time


def test_a_run_file_may_hold_values_of_the_job(tmp_path: Path) -> None:
    text = "max_steps: 5\ntime: '12:00:00'\nsetup: [source a, source b]\nsbatch: mail-type=END\n"
    (tmp_path / "run.yaml").write_text(text)
    config: Any = parse("slurm train", SlurmTrainConfig, ["--config", str(tmp_path / "run.yaml"), "--setup=c"])
    assert (config.time, config.max_steps) == ("12:00:00", 5)
    settings = resolve_settings(config)
    assert settings.setup == ("source a", "source b", "c") and settings.sbatch == ("mail-type=END",)
