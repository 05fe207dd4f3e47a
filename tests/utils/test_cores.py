"""The default number of workers follows the cores that a process may use."""

import os
from pathlib import Path

import pytest

from surgvivqa.utils import cores


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_NTASKS", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def test_a_large_machine_gets_sixteen_workers() -> None:
    assert cores.usable_cores() == 64
    assert cores.default_workers() == 16


@pytest.mark.parametrize(("text", "expected"), [("max 100000", 64), ("250000 100000", 3), ("garbage", 64)])
def test_the_limit_of_a_container_counts(text: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert cores.usable_cores() == expected


def test_the_limit_of_an_old_container_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.default_workers() == 3


def test_processes_of_torchrun_share_the_cores_and_those_of_srun_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert cores.default_workers() == 7
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cores.usable_cores() == 8
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert cores.usable_cores() == 2


def test_one_core_still_gets_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert cores.default_workers() == 1
