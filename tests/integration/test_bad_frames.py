"""Bad frames in ``check``, training, validation, evaluation and caching, under each ``--on-bad-frame`` policy."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from surgvivqa.cli import main
from surgvivqa.config import TrainConfig
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.index import open_questions, question_counts
from surgvivqa.features.batches import EpochOrder, MicroBatch, plan_epoch, plan_micro_batches
from surgvivqa.features.cache_file import CacheFile, IndexEntry, write_cache_file
from surgvivqa.training import schedule
from surgvivqa.training.run_log import TIMINGS, MetricsLog
from surgvivqa.utils.errors import RunError
from tests.conftest import CapturedLog
from tests.helpers.runs import sentence

TINY = ["--preset=tiny", "--workers=0", "--log-interval=1", "--val-max-samples=30", "--eval-every-steps=4"]
TINY += ["--max-steps=8", "--warmup-steps=3", "--lr=2e-3", "--batch-size=12"]
BAD = "000001.png"  # of VID04, the training video
SKIP = ["--on-bad-frame=skip", "--max-bad-frames=0.25"]


@pytest.fixture
def frames(synthetic_set: Path, tmp_path: Path) -> Path:
    """A copy of the frames, to be damaged."""
    return Path(shutil.copytree(synthetic_set / "frames", tmp_path / "frames"))


@pytest.fixture
def flags(synthetic_set: Path, frames: Path) -> list[str]:
    return [f"--ssgvqa-root={synthetic_set}/ssg-qa", f"--image-root={frames}", f"--splits-dir={synthetic_set}/splits"]


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:3000])
    return path


def train(folder: Path, flags: list[str], *more: str) -> int:
    torch.set_num_threads(1)
    return main(["train", *TINY, *flags, f"--checkpoint-dir={folder}", *more])


def metrics_lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in found]


def skipped_frames(folder: Path) -> list[tuple[str, int]]:
    return [(video, frame) for video, frame, _ in json.loads((folder / "finished.json").read_text())["skipped_frames"]]


def drop_frame(frame: int, plan: list[MicroBatch]) -> list[MicroBatch]:
    return [[(f, chosen) for f, chosen in batch if f != frame] for batch in plan]


def frame_index(synthetic_set: Path, number: int) -> int:
    found, _ = open_questions(synthetic_set / "ssg-qa", ["VID04"])
    return [f.frame for f in found].index(number)


def assert_same(one: Path, other: Path, bound: float) -> None:
    assert len(metrics_lines(one)) == len(metrics_lines(other))
    for first, second in zip(metrics_lines(one), metrics_lines(other), strict=True):
        assert second == pytest.approx(first, abs=bound, rel=0)
    weights, others = (load_file(folder / "best" / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, atol=bound, rtol=0, msg=name)


@pytest.mark.slow
def test_skipping_a_frame_equals_leaving_it_out_of_the_plan(
    synthetic_set: Path, frames: Path, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Large micro-batches, so that none is empty without the frame.
    large = ["--batch-size=78", "--gradient-accumulation-steps=2", "--max-steps=3"]
    with monkeypatch.context() as patch:
        frame = frame_index(synthetic_set, 1)
        patch.setattr(
            schedule, "plan_epoch", lambda *a: EpochOrder(drop_frame(frame, plan_epoch(*a).micro_batches), [])
        )
        assert train(tmp_path / "planned", flags, *large) == 0
    truncate(frames / "VID04" / BAD)
    assert train(tmp_path / "skipped", flags, *large, *SKIP, "--encode-ahead=4") == 0
    assert skipped_frames(tmp_path / "skipped") == [("VID04", 1)]
    assert_same(tmp_path / "planned", tmp_path / "skipped", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_without_usable_frames_makes_no_update(
    workers: int, synthetic_set: Path, frames: Path, flags: list[str], tmp_path: Path
) -> None:
    truncate(frames / "VID04" / BAD)
    small = ["--batch-size=2", "--questions-per-frame=2", "--max-steps=12", f"--workers={workers}"]
    assert train(tmp_path / "run", flags, *small, *SKIP) == 0
    found, _ = open_questions(synthetic_set / "ssg-qa", ["VID04"])
    plan = plan_micro_batches(question_counts(found), 2, 2, TrainConfig.seed, 0)[:12]
    empty = [not batch for batch in drop_frame(frame_index(synthetic_set, 1), plan)]
    assert any(empty)
    assert [line["loss"] is None for line in metrics_lines(tmp_path / "run") if "loss" in line] == empty
    assert [line["grad_norm"] == 0 for line in metrics_lines(tmp_path / "run") if "loss" in line] == empty


@pytest.mark.slow
@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_frame_that_is_lost_during_a_run_and_restored_changes_nothing(
    where: str,
    frames: Path,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = [*flags, "--encode-ahead=1"]  # a window would hold the frames of the whole run
    assert train(tmp_path / "complete", flags) == 0
    lost = [frames / "VID04" / BAD] if where == "training" else sorted((frames / "VID01").iterdir())
    step = 2 if where == "training" else 4  # the last one before it is missed
    write = MetricsLog.write

    def then_remove(self: MetricsLog, **values: Any) -> None:
        write(self, **values)
        if values["step"] == step and "loss" in values:
            for path in lost:
                path.rename(tmp_path / path.name)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", then_remove)
        capsys.readouterr()
        assert train(tmp_path / "run", flags, "--save-every-steps=0") == 2
    message = sentence(capsys)
    assert "does not exist" in message and "--on-bad-frame skip" in message
    reached = metrics_lines(tmp_path / "run")[-1]["step"]
    assert f"the same command resumes after step {reached}" in message
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{reached:07d}"]
    for path in lost:
        (tmp_path / path.name).rename(path)
    assert train(tmp_path / "run", flags, "--save-every-steps=0") == 0
    assert_same(tmp_path / "complete", tmp_path / "run", 0)
    assert skipped_frames(tmp_path / "run") == []


@pytest.mark.slow
def test_more_bad_frames_than_allowed_stop_the_run_after_a_checkpoint(
    frames: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate(frames / "VID04" / BAD)
    write = MetricsLog.write

    def then_remove_more(self: MetricsLog, **values: Any) -> None:
        write(self, **values)
        if values["step"] == 3:
            for path in list((frames / "VID04").iterdir())[:3]:
                path.unlink()

    monkeypatch.setattr(MetricsLog, "write", then_remove_more)
    assert train(tmp_path / "run", flags, *SKIP, "--encode-ahead=1") == 2
    message = sentence(capsys)
    assert "of 5 frames cannot be used, more than the 2 that --max-bad-frames 0.25 allows" in message
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    progress = json.loads((checkpoint / "training.json").read_text())
    assert progress["step"] >= 3 and len(progress["bad"]) <= 2


@pytest.mark.slow
def test_missing_frames_are_counted_before_training(
    frames: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (frames / "VID04" / BAD).unlink()
    assert train(tmp_path / "run", flags, "--on-bad-frame=skip", "--max-bad-frames=0") == 2
    assert "1 of 5 frames are missing" in sentence(capsys)
    assert train(tmp_path / "run", flags, *SKIP) == 0
    assert skipped_frames(tmp_path / "run") == [("VID04", 1)]
    (frames / "VID04" / "000000.png").unlink()
    (frames / "VID04" / "000002.png").unlink()
    assert train(tmp_path / "other", flags, *SKIP) == 2
    assert "3 of 5 frames are missing" in sentence(capsys)


@pytest.mark.slow
def test_evaluation_reports_the_skipped_frames(
    frames: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", flags, "--max-steps=1") == 0
    command = ["eval", f"--checkpoint={tmp_path / 'run'}", *flags, "--workers=0"]
    assert main([*command, f"--output={tmp_path / 'complete'}"]) == 0
    complete = (tmp_path / "complete" / "predictions.jsonl").read_text().splitlines()
    truncate(frames / "VID02" / BAD)
    (frames / "VID02" / "000002.png").unlink()
    capsys.readouterr()
    assert main([*command, f"--output={tmp_path / 'eval'}"]) == 2
    assert "1 of 4 frames are missing" in sentence(capsys)
    assert main([*command, f"--output={tmp_path / 'eval'}", "--on-bad-frame=skip"]) == 2
    assert "2 of 4 frames cannot be used, more than the 1" in sentence(capsys)
    assert main([*command, f"--output={tmp_path / 'eval'}", "--on-bad-frame=skip", "--max-bad-frames=0.5"]) == 0
    figures = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert [(bad["video"], bad["frame"]) for bad in figures["skipped_frames"]] == [("VID02", 2), ("VID02", 1)]
    left = [line for line in complete if json.loads(line)["frame"] not in (1, 2)]
    assert figures["n"] == len(left) and f"LEFT OUT: {len(complete) - len(left)} questions" in capsys.readouterr().out
    assert [json.loads(x)["prediction"] for x in left] == [
        json.loads(x)["prediction"] for x in (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()
    ]
    assert json.loads((tmp_path / "complete" / "metrics.json").read_text())["skipped_frames"] == []


@pytest.mark.slow
def test_the_cache_skips_bad_frames_and_is_completed_later(
    frames: Path,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    captured_log: CapturedLog,
) -> None:
    good = (frames / "VID04" / BAD).read_bytes()
    truncate(frames / "VID04" / BAD)
    (frames / "VID01" / "000003.png").unlink()
    command = ["cache", "--preset=tiny", "--workers=0", *flags, f"--cache={tmp_path / 'cache'}"]
    assert main(command) == 2
    assert "1 of 12 frames are missing" in sentence(capsys)
    assert main([*command, *SKIP]) == 0
    assert "2 frames cannot be used and are not in the cache" in captured_log()
    (frames / "VID04" / BAD).write_bytes(good)
    assert main([*command, *SKIP]) == 0
    assert "Done: 1 frames encoded" in captured_log()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["flipped byte", "NaN"])
def test_damaged_values_in_a_cache_are_reported_or_skipped(
    fault: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = f"--cache={tmp_path / 'cache'}"
    assert main(["cache", "--preset=tiny", "--workers=0", *flags, cache]) == 0
    (path,) = (tmp_path / "cache").glob("*/VID04.safetensors")
    file = CacheFile(path)
    if fault == "flipped byte":
        raw = bytearray(path.read_bytes())
        raw[file.data_start + 5] ^= 1
        path.write_bytes(raw)
    else:  # with matching checksums, as another tool might write it
        arrays = [file.read(key) for key in file.entries]
        arrays[0].view("<u2")[0, 0] = 0x7E00
        items = [(k, IndexEntry(0, len(a), zlib.crc32(a.data))) for k, a in zip(file.entries, arrays, strict=True)]
        write_cache_file(path, file.fingerprint, file.dtype, file.width, items, arrays)
    capsys.readouterr()
    what = "checksum" if fault == "flipped byte" else "not all finite"
    assert main(["check", *TINY, *flags, cache, "--json"]) == 1
    found = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
    assert found["cache"]["status"] == "FAIL" and what in found["cache"]["message"]
    assert train(tmp_path / "run", flags, cache) == 2
    message = sentence(capsys)
    assert what in message and "VID04.safetensors" in message and "remove the file" in message
    assert train(tmp_path / "skip", flags, cache, *SKIP) == 0
    assert len(skipped_frames(tmp_path / "skip")) == 1
    path.unlink()
    assert train(tmp_path / "run", flags, cache) == 0


@pytest.mark.slow
def test_a_run_without_validation_frames_stops_and_resumes(
    frames: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = ["--on-bad-frame=skip", "--max-bad-frames=0.9"]
    good = {path: path.read_bytes() for path in (frames / "VID01").iterdir()}
    for path in good:
        truncate(path)
    assert train(tmp_path / "run", flags, *loose) == 2
    assert "None of the frames to validate on can be used" in sentence(capsys)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000004"]
    for path in good:
        path.unlink()
    assert train(tmp_path / "other", flags, *loose) == 2
    assert "None of the 1 frames to validate on exists" in sentence(capsys)
    for path, raw in good.items():
        path.write_bytes(raw)
    assert train(tmp_path / "run", flags, *loose) == 0
    assert [line["step"] for line in metrics_lines(tmp_path / "run") if "val_loss" in line] == [4, 8]


@pytest.mark.slow
def test_a_validation_that_failed_twice_is_logged_once(
    frames: Path, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (frames / "VID01").rename(tmp_path / "VID01")
    (frames / "VID01").mkdir()
    for path in kept.iterdir():
        (frames / "VID01" / path.name).write_bytes(b"")
    assert train(tmp_path / "run", flags) == 2
    shutil.rmtree(frames / "VID01")
    kept.rename(frames / "VID01")

    def full(*_: object) -> None:
        raise RunError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr("surgvivqa.training.run_folder.export_pth", full)
        assert train(tmp_path / "run", flags) == 1
    assert train(tmp_path / "run", flags) == 0
    assert [line["step"] for line in metrics_lines(tmp_path / "run") if "val_loss" in line] == [4, 8]


@pytest.mark.slow
def test_a_non_finite_loss_is_reported_when_frames_are_skipped(
    frames: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(frames / "VID04" / BAD)
    small = ["--batch-size=2", "--questions-per-frame=2", "--lr=1e6", "--max-grad-norm=0", "--max-steps=12"]
    assert train(tmp_path / "run", flags, *small, *SKIP) == 1
    assert "The loss of step" in sentence(capsys)


@pytest.mark.slow
def test_a_broken_link_is_left_out_of_the_cache(frames: Path, flags: list[str], tmp_path: Path) -> None:
    (frames / "VID04" / BAD).unlink()
    (frames / "VID04" / BAD).symlink_to(tmp_path / "nowhere.png")
    command = ["cache", "--preset=tiny", "--workers=0", *flags, f"--cache={tmp_path / 'cache'}"]
    assert main(command) == 2
    assert main([*command, *SKIP]) == 0


@pytest.mark.slow
def test_a_run_resumed_with_the_error_policy_skips_no_frame(
    frames: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (frames / "VID04" / BAD).read_bytes()
    truncate(frames / "VID04" / BAD)
    assert train(tmp_path / "run", flags, *SKIP, "--max-hours=0", "--batch-size=78") == 75
    assert train(tmp_path / "run", flags, "--batch-size=78") == 2
    assert BAD in sentence(capsys)
    (frames / "VID04" / BAD).write_bytes(good)
    assert train(tmp_path / "run", flags, "--batch-size=78") == 0
    assert skipped_frames(tmp_path / "run") == [("VID04", 1)]  # of the complete run


@pytest.mark.parametrize(
    ("most", "total", "limit"), [(0.07, 100, 7), (0.14, 50, 7), (0.01, 5, 1), (0, 9, 0), (1, 9, 9)]
)
def test_the_limit_of_bad_frames(most: float, total: int, limit: int) -> None:
    assert BadFrames("skip", most, total).limit == limit
    assert BadFrames("error", most, total).limit == 0


def test_check_reports_what_train_would_report(
    frames: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def run_check(*more: str) -> dict[str, Any]:
        capsys.readouterr()
        main(["check", *TINY, *flags, *more, "--json"])
        return {r["name"]: r for r in json.loads(capsys.readouterr().out)}

    truncate(frames / "VID04" / "000002.png")
    for seed in range(3):  # whichever frame comes first
        found = run_check(*SKIP, f"--seed={seed}")
        assert found["images"]["status"] == "WARN" and found["loss"]["status"] == "PASS"
    # With past clips the frame is also in the clip of a later frame.
    past = run_check("--on-bad-frame=skip", "--max-bad-frames=0.25", "--clip-mode=past")
    assert "2 cannot be used" in past["images"]["message"]
    for name in (
        "000000.png",
        "000001.png",
        "000003.png",
    ):  # more than a quarter of the training frames, but not of all
        (frames / "VID04" / name).unlink()
    assert run_check("--on-bad-frame=skip", "--max-bad-frames=0.25")["frames"]["status"] == "FAIL"


def test_check_finds_bad_frames(frames: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    truncate(frames / "VID04" / BAD)
    for more, status in (([], "FAIL"), (["--on-bad-frame=skip", "--max-bad-frames=0.1"], "WARN")):
        assert main(["check", *TINY, *flags, *more, "--json"]) == (status == "FAIL")
        found = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
        assert found["images"]["status"] == status and BAD in found["images"]["message"]
