"""What a run folder may hold before a run: a link to another disk, the rest of a crash, a lock, another run."""

import errno
import fcntl
from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.conftest import CapturedLog

TINY = ["--preset=tiny", "--workers=0", "--max-steps=2", "--eval-every-steps=0", "--save-every-steps=1"]
TINY += ["--val-max-samples=5", "--log-interval=1", "--max-train-samples=20"]


def train(folder: Path, flags: list[str], *more: str) -> int:
    return main(["train", *TINY, *flags, f"--checkpoint-dir={folder}", *more])


def test_the_checkpoints_folder_may_be_a_link(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    (run / "checkpoints").symlink_to(disk)
    assert train(run, data_flags, "--max-hours=0") == 75
    assert [p.name for p in disk.iterdir()] == ["step-0000001"]
    # What lies behind the link may belong to another run.
    assert train(run, data_flags, "--overwrite") == 2
    assert "--overwrite does not remove what lies behind the link" in capsys.readouterr().err
    assert train(run, data_flags) == 0
    assert (run / "checkpoints").is_symlink() and (disk / "step-0000002").is_dir()
    for path in disk.iterdir():
        path.rename(tmp_path / path.name)
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert (run / "checkpoints").is_symlink() and [p.name for p in disk.iterdir()] == ["step-0000001"]
    assert not (run / "finished.json").exists()


def test_a_damaged_line_of_the_metrics_is_dropped(data_flags: list[str], tmp_path: Path) -> None:
    assert train(tmp_path / "run", data_flags, "--max-hours=0") == 75
    path = tmp_path / "run" / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo\xff\xfe\x00\x00\x00')
    assert train(tmp_path / "run", data_flags) == 0
    assert [line.partition(b",")[0] for line in path.read_bytes().splitlines()] == [b'{"step": 1', *[b'{"step": 2'] * 2]


def test_a_log_on_a_full_disk_is_reported_once(
    data_flags: list[str], tmp_path: Path, captured_log: CapturedLog
) -> None:
    assert train(tmp_path / "run", data_flags, "--log-file=/dev/full") == 0
    text = captured_log()
    assert text.count("/dev/full cannot be written") == 1 and "Done: 2 steps" in text


def test_a_lock_that_is_a_link_is_not_opened(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.write_text("precious")
    (run / ".lock").symlink_to(precious)
    assert train(run, data_flags) == 2
    assert "cannot be locked" in capsys.readouterr().err
    assert precious.read_text() == "precious"


def test_a_file_system_without_locks_is_tolerated(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert train(tmp_path / "run", data_flags) == 0


def test_a_requeued_slurm_job_replaces_only_a_run_that_is_not_its_own(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured_log: CapturedLog
) -> None:
    """SLURM starts it with the arguments that it was submitted with, ``--overwrite`` among them."""
    run = tmp_path / "run"
    assert train(run, data_flags, "--max-hours=0") == 75
    (run / "checkpoints" / "step-0000001" / "of-the-older-run").touch()
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    # Signalled while it loaded, before it had begun: the older run is still there, and is replaced.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert not (run / "checkpoints" / "step-0000001" / "of-the-older-run").exists()
    # Signalled in its steps: the run is its own, and resumes.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert train(run, data_flags, "--overwrite") == 0
    assert "Resuming after step 1" in captured_log()
    # Another job, and one that was not requeued, replace it as asked.
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert (run / ".job").read_text() == "43"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert not (run / ".job").exists()
