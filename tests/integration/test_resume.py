"""A run that is stopped and started again equals a run that is never stopped, bit for bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.checkpoints.saving import save_checkpoint
from surgvivqa.cli import main
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.resume import find_state
from surgvivqa.utils.errors import InputError
from tests.helpers.processes import LIMIT
from tests.helpers.runs import assert_equal_runs, stop_after, train


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 7, 13])  # 7 steps are an epoch
def test_a_run_stopped_at_a_step_resumes_exactly(
    step: int, uninterrupted: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        assert train(tmp_path / "run", data_flags) == 75
    saved = json.loads(next((tmp_path / "run" / "checkpoints").glob("*/training.json")).read_text())
    assert saved["step"] == step
    assert saved["validated"] == (step != 4)  # no validation begins after a signal
    assert train(tmp_path / "run", data_flags) == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_run_stopped_many_times_resumes_exactly(
    uninterrupted: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):  # the last one does the validation that a signal in the last step put off
        with monkeypatch.context() as patch:
            stop_after(2, patch)
            code = train(tmp_path / "run", data_flags)
        assert code in (0, 75)
    assert code == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(
    uninterrupted: Path, stopped: Path, data_flags: list[str]
) -> None:
    (checkpoint,) = (stopped / "checkpoints").iterdir()
    checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}.replaced"))
    assert train(stopped, data_flags) == 0
    assert "Resuming after step 5" in (stopped / "train.log").read_text()
    assert_equal_runs(stopped, uninterrupted)


def resume_error(flags: list[str], run: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert train(run, flags, *more) == 2
    return capsys.readouterr().err


@pytest.fixture
def stopped(data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped after its fifth step."""
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        assert train(tmp_path / "run", data_flags) == 75
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_does_not_resume_with_other_flags(
    stopped: Path, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in stopped.rglob("*.safetensors")}
    message = resume_error(data_flags, stopped, "--lr=1e-3", "--mask=causal", capsys=capsys)
    assert "--mask was prefix, is causal, --lr was 0.002, is 0.001" in message and "--seed" not in message
    assert "already holds a run" in resume_error(data_flags, stopped, "--resume=never", capsys=capsys)
    message = resume_error(data_flags, stopped, "--gradient-accumulation-steps=2", capsys=capsys)
    assert "micro batches a step 1, now 2" in message
    assert {p: p.read_bytes() for p in stopped.rglob("*.safetensors")} == before
    assert (
        train(stopped, data_flags, "--log-interval=3", "--keep-checkpoints=1", "--save-every-steps=2") == 0
    )  # may change


@pytest.mark.slow
def test_a_run_does_not_resume_on_other_questions(
    stopped: Path, synthetic_set: Path, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "ssg-qa"
    shutil.copytree(synthetic_set / "ssg-qa", other)
    for path in (other / "VID04").iterdir():
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))
    flags = [f"--ssgvqa-root={other}", *data_flags[1:]]
    message = resume_error(flags, stopped, capsys=capsys)
    assert "its data or steps differ: questions 40, now" in message and "validation" not in message
    # As many questions, some with another answer: in training, then in validation.
    for video, word in (("VID04", "training"), ("VID01", "validation")):
        shutil.rmtree(other)
        shutil.copytree(synthetic_set / "ssg-qa", other)
        for path in (other / video).iterdir():
            path.write_text(path.read_text().replace("|True", "|?").replace("|False", "|True").replace("|?", "|False"))
        assert f"checksum of {word} questions" in resume_error(flags, stopped, capsys=capsys)


def test_a_finished_run_is_not_repeated(
    uninterrupted: Path, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (uninterrupted / "best_model.pth").stat().st_mtime_ns
    assert train(uninterrupted, data_flags) == 0
    assert (uninterrupted / "best_model.pth").stat().st_mtime_ns == before


@pytest.mark.slow
def test_damaged_checkpoints_are_skipped(
    uninterrupted: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(9, patch)
        assert train(run, data_flags, "--save-every-steps=2", "--keep-checkpoints=9") == 75
    steps = sorted((run / "checkpoints").iterdir())
    assert [int(p.name[5:]) for p in steps] == [2, 4, 6, 8, 9]
    flipped = bytearray((steps[4] / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (steps[4] / "model.safetensors").write_bytes(flipped)
    (steps[3] / "training.safetensors").write_bytes((steps[3] / "training.safetensors").read_bytes()[:-7])
    (steps[2] / "training.json").write_text("{")
    assert train(run, data_flags, "--save-every-steps=2", "--keep-checkpoints=1") == 0
    assert_equal_runs(run, uninterrupted)
    left = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert left == ["damaged-step-0000006", "damaged-step-0000008", "damaged-step-0000009", "step-0000014"]


@pytest.mark.slow
def test_a_missing_shard_makes_a_checkpoint_incomplete(
    uninterrupted: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_in_shards(bundle: ModelBundle, folder: Path, **options: Any) -> None:
        size = "2MB" if folder.name.startswith("step-") else "5GB"
        save_checkpoint(bundle, folder, **options | {"max_shard_size": size})

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("surgvivqa.training.run_folder.save_checkpoint", save_in_shards)
        stop_after(9, patch)
        assert train(run, data_flags, "--save-every-steps=4") == 75
    shards = sorted((run / "checkpoints" / "step-0000009").glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    assert train(run, data_flags) == 0
    assert_equal_runs(run, uninterrupted)
    assert (run / "checkpoints" / "damaged-step-0000009").is_dir()


def test_a_changed_digit_in_the_progress_is_detected(stopped: Path, data_flags: list[str]) -> None:
    (path,) = stopped.glob("checkpoints/*/training.json")
    text = path.read_text()
    path.write_text(text.replace('"step": 5', '"step": 4'))
    with pytest.raises(InputError, match="None of the 1 checkpoints"):
        find_state(stopped / "checkpoints")
    path.write_text(text.replace('"best": 0.', '"best": 0.9'))
    with pytest.raises(InputError, match="None of the 1 checkpoints"):
        find_state(stopped / "checkpoints")
    path.write_text(text)
    assert find_state(stopped / "checkpoints")


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    uninterrupted: Path, data_flags: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes((uninterrupted / "config.yaml").read_bytes())
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": 9.0}\n{"st')
    assert train(run, data_flags) == 0
    assert_equal_runs(run, uninterrupted)


def test_a_kill_while_best_is_replaced_leaves_a_readable_checkpoint(stopped: Path) -> None:
    from surgvivqa.checkpoints.loading import load_checkpoint
    from surgvivqa.config import ModelConfig

    (stopped / "best").rename(stopped / ".best.replaced")
    assert load_checkpoint(stopped, ModelConfig()).checkpoint_tensors


@pytest.mark.slow
def test_the_time_limit_stops_a_run(data_flags: list[str], tmp_path: Path, uninterrupted: Path) -> None:
    assert train(tmp_path / "run", data_flags, "--max-hours=0") == 75
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert train(tmp_path / "run", data_flags, "--max-hours=5") == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(
    data_flags: list[str],
    tmp_path: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from surgvivqa.training import resume

    real, count = resume.save_state, [0]

    def full(*arguments: object) -> None:
        count[0] += 1
        if count[0] == 3:
            raise OSError(28, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("surgvivqa.training.run_folder.save_state", full)
        assert train(tmp_path / "run", data_flags, "--save-every-steps=2") == 1
    assert "No space left on device" in capsys.readouterr().err
    left = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-0000002", "step-0000004"]
    assert train(tmp_path / "run", data_flags) == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


def test_nothing_is_removed_if_no_checkpoint_can_be_read(
    stopped: Path, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for path in stopped.glob("checkpoints/*/training.json"):
        path.write_text("{")
    before = {p: p.read_bytes() for p in stopped.rglob("*.safetensors")}
    assert "None of the 1 checkpoints" in resume_error(data_flags, stopped, capsys=capsys)
    assert {p: p.read_bytes() for p in stopped.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_again_and_keeps_the_old_files(
    stopped: Path, data_flags: list[str], uninterrupted: Path
) -> None:
    shutil.rmtree(stopped / "checkpoints")
    best = (stopped / "best" / "model.safetensors").read_bytes()
    assert train(stopped, data_flags) == 0
    assert_equal_runs(stopped, uninterrupted)
    assert (stopped / "before-1" / "best" / "model.safetensors").read_bytes() == best


def test_overwrite_is_not_saved(stopped: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert train(stopped, data_flags, "--overwrite") == 75
    assert [p.name for p in (stopped / "checkpoints").iterdir()] == ["step-0000002"]
    assert "overwrite: false" in (stopped / "config.yaml").read_text()
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert main(["train", f"--config={stopped / 'config.yaml'}"]) == 75
    assert [p.name for p in sorted((stopped / "checkpoints").iterdir())] == ["step-0000002", "step-0000003"]


def test_a_kill_while_the_old_run_is_removed_does_not_block_the_new_one(
    stopped: Path, data_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (stopped / "finished.json").write_text("{}")

    def killed(folder: Path, **_: object) -> None:
        if folder.exists():
            (folder / "checkpoints" / "step-0000005" / "training.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        assert train(stopped, data_flags, "--overwrite", "--lr=1e-3") == 130
    assert not (stopped / "finished.json").exists()
    assert train(stopped, data_flags, "--lr=1e-3", "--max-hours=0") == 75  # without the flag, as for a requeued job
    assert [p.name for p in (stopped / "checkpoints").iterdir()] == ["step-0000001"]
    assert not (stopped / ".removed").exists()


@pytest.mark.long
@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """A short run of ``tools/kill_test.py``; docs/reliability.md reports a long one."""
    tool = Path(__file__).resolve().parents[2] / "tools" / "kill_test.py"
    command = [sys.executable, str(tool), "--kills=8", f"--out={tmp_path / 'kills'}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "kills" / "report.json").read_text())
    assert report["kills"] == 8 and report["runs"] >= 1 and report["failures"] == []


@pytest.mark.slow
def test_a_renamed_checkpoint_does_not_stand_for_a_later_step(stopped: Path, data_flags: list[str]) -> None:
    found = find_state(stopped / "checkpoints")
    assert found is not None
    shutil.copytree(found[0], stopped / "checkpoints" / "step-0009999")
    assert find_state(stopped / "checkpoints") == found
