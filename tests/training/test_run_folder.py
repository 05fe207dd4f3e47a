"""What lies in a run folder before a run: a link to a larger disk, what a crash left."""

from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.utils.atomic_files import write_folder
from surgvivqa.utils.errors import RunError
from tests.conftest import Said

TINY = ["--preset=tiny", "--workers=0", "--max-steps=2", "--eval-every-steps=0", "--save-every-steps=1"]
TINY += ["--val-max-samples=5", "--log-interval=1", "--max-train-samples=20"]


def train(folder: Path, flags: list[str], *more: str) -> int:
    return main(["train", *TINY, *flags, f"--checkpoint-dir={folder}", *more])


def test_checkpoints_may_lie_on_another_disk(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    (run / "checkpoints").symlink_to(disk)
    assert train(run, data_flags, "--max-hours=0") == 75
    assert [p.name for p in disk.iterdir()] == ["step-0000001"]
    # What is behind the link may be another run's.
    assert train(run, data_flags, "--overwrite") == 2
    assert "--overwrite does not remove what lies behind the link" in capsys.readouterr().err
    assert train(run, data_flags) == 0
    assert (run / "checkpoints").is_symlink() and (disk / "step-0000002").is_dir()
    for path in disk.iterdir():
        path.rename(tmp_path / path.name)
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert (run / "checkpoints").is_symlink() and [p.name for p in disk.iterdir()] == ["step-0000001"]
    assert not (run / "finished.json").exists()


def test_a_line_of_the_figures_that_a_crash_left_as_noise(data_flags: list[str], tmp_path: Path) -> None:
    assert train(tmp_path / "run", data_flags, "--max-hours=0") == 75
    path = tmp_path / "run" / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo\xff\xfe\x00\x00\x00')
    assert train(tmp_path / "run", data_flags) == 0
    assert [line.partition(b",")[0] for line in path.read_bytes().splitlines()] == [b'{"step": 1', *[b'{"step": 2'] * 2]


def test_a_log_on_a_full_disk_is_told_of_once(data_flags: list[str], tmp_path: Path, said: Said) -> None:
    assert train(tmp_path / "run", data_flags, "--log-file=/dev/full") == 0
    text = said()
    assert text.count("/dev/full cannot be written") == 1 and "Done: 2 steps" in text


class Slow(Exception):
    """What is not the disk's."""


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (Exception("No space left on device (os error 28)"), True),  # tokenizers
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 10139072 vs 10138960"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (Slow("no"), False),
    ],
)
def test_a_full_disk_in_the_words_of_each_library(tmp_path: Path, error: Exception, is_told: bool) -> None:
    def fill(aside: Path) -> None:
        (aside / "large").write_text("x")
        raise error

    with pytest.raises(RunError if is_told else type(error)) as raised:
        write_folder(tmp_path / "best", fill)
    assert not is_told or "what was there before is kept" in str(raised.value)
    assert list(tmp_path.iterdir()) == []  # the room is given back


def test_a_job_that_slurm_queued_again_replaces_what_is_not_its_own(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    """It is started with the arguments that it was submitted with, ``--overwrite`` among them."""
    run = tmp_path / "run"
    assert train(run, data_flags, "--max-hours=0") == 75
    (run / "checkpoints" / "step-0000001" / "of-the-older-run").touch()
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    # Warned while it loaded, before it had begun: the older run is still there, and is replaced.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert not (run / "checkpoints" / "step-0000001" / "of-the-older-run").exists()
    # Warned in its steps: the run is its own, and goes on.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert train(run, data_flags, "--overwrite") == 0
    assert "Resuming after step 1" in said()
    # Another job, and one that was not queued again, are asked to replace it.
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert (run / ".job").read_text() == "43"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert train(run, data_flags, "--overwrite", "--max-hours=0") == 75
    assert not (run / ".job").exists()
