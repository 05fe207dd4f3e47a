"""Bad input at the door: one sentence, exit code 2, nothing lost."""

import json
import math
import shutil
from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.helpers.runs import sentence

TINY = ["--preset=tiny", "--workers=0", "--max-steps=1"]


def test_a_missing_data_folder_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSGVQA_ROOT", raising=False)
    assert main(["train", *TINY, f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "--ssgvqa-root is missing" in sentence(capsys)


def test_a_missing_frame_is_an_error_in_train_and_check(
    synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "frames"
    shutil.copytree(synthetic_set / "frames", images)
    (images / "VID04" / "000002.png").unlink()
    flags = [f"--ssgvqa-root={synthetic_set}/ssg-qa", f"--image-root={images}", f"--splits-dir={synthetic_set}/splits"]
    assert main(["train", *TINY, *flags, f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "1 of 8 frames are missing" in sentence(capsys)
    assert main(["check", *TINY, *flags, f"--checkpoint-dir={tmp_path}/r", "--json"]) == 1
    results = {r["name"]: r["status"] for r in json.loads(capsys.readouterr().out)}
    assert results["frames"] == "FAIL"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_frame_stops_training(
    synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    images = tmp_path / "frames"
    shutil.copytree(synthetic_set / "frames", images)
    for frame in (images / "VID04").iterdir():
        frame.write_bytes(frame.read_bytes()[:3000])
    flags = [f"--ssgvqa-root={synthetic_set}/ssg-qa", f"--image-root={images}", f"--splits-dir={synthetic_set}/splits"]
    command = ["train", "--preset=tiny", f"--workers={workers}", "--max-steps=1", *flags]
    assert main([*command, f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "cannot be read as an image" in sentence(capsys)


def test_a_loss_that_is_not_finite_stops_before_the_update(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset=tiny", "--workers=0", "--max-steps=9", "--lr=1e30", "--max-grad-norm=0", "--eval-every-steps=0"]
    assert main(["train", *flags, *data_flags, f"--checkpoint-dir={tmp_path}/r", "--val-max-samples=8"]) == 1
    message = sentence(capsys)
    assert "no update was made" in message
    assert "(VID" in message and ".txt:" in message  # which question


def test_weights_that_are_no_longer_finite_are_not_saved(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset=tiny", "--workers=0", "--max-steps=9", "--lr=1e30", "--max-grad-norm=0", "--eval-every-steps=1"]
    assert main(["train", *flags, *data_flags, f"--checkpoint-dir={tmp_path}/r", "--val-max-samples=8"]) == 1
    assert "not saved as the best" in sentence(capsys)
    assert not (tmp_path / "r" / "best").exists()


def test_gradients_that_are_not_finite_stop_before_the_update(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgvivqa.training.update.vector_norm", lambda gradients: gradients.new_tensor(math.inf))
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path}/r"]) == 1
    assert "gradients of step 1 are not finite; no update was made" in sentence(capsys)


def test_a_run_with_wrong_flags_does_not_change_an_existing_run(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "best_model.pth").write_text("precious")
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "holds a run whose config.yaml is missing" in sentence(capsys)
    overwrite = [f"--checkpoint-dir={tmp_path}/r", "--overwrite"]
    assert main(["train", *TINY, *data_flags, *overwrite, "--image-root=/nowhere"]) == 2
    assert main(["train", *TINY, *data_flags, *overwrite, f"--pretrained-ckpt={tmp_path}/r/best_model.pth"]) == 2
    assert "which the run starts from" in capsys.readouterr().err
    assert (tmp_path / "r" / "best_model.pth").read_text() == "precious"


@pytest.mark.parametrize(
    "flag", ["--max-steps=-3", "--max-train-samples=0", "--lr=-1", "--clip-stride=-1", "--seed=-1"]
)
def test_a_number_out_of_range_is_an_error(
    flag: str, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--preset=tiny", *data_flags, flag, f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "must be at least" in sentence(capsys)


def test_a_log_file_that_cannot_be_written_is_an_error(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--checkpoint-dir={tmp_path}/r", f"--log-file={tmp_path}/none/a.log"]
    assert main(["train", *TINY, *data_flags, *flags]) == 2
    assert "--log-file" in sentence(capsys)


@pytest.mark.parametrize("flag", ["--scores", "--score-norm=mean", "--mask=bidirectional"])
def test_answer_only_excludes_other_flags(
    flag: str, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path}/r", "--val-max-samples=8"]) == 0
    capsys.readouterr()
    assert main(["eval", f"--checkpoint={tmp_path}/r", "--answer-only", flag]) == 2
    assert "--answer-only" in sentence(capsys)


def test_evaluation_on_training_videos_is_an_error(
    synthetic_set: Path, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path}/r", "--val-max-samples=8"]) == 0
    capsys.readouterr()
    shutil.copytree(synthetic_set / "splits", tmp_path / "splits")
    (tmp_path / "splits" / "train_videos.json").write_text("[]")
    (tmp_path / "splits" / "test_videos.json").write_text('["VID04"]')
    assert main(["eval", f"--checkpoint={tmp_path}/r", f"--splits-dir={tmp_path}/splits"]) == 2
    assert "was trained on" in sentence(capsys)


def test_a_run_folder_that_cannot_be_written_is_an_error(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path}/file/run"]) == 2
    assert "cannot be written" in sentence(capsys)


def test_fp16_needs_a_gpu(data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, *data_flags, "--fp16", f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "--fp16 needs a GPU" in sentence(capsys)


def test_a_prompt_that_is_too_long_is_an_error(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, *data_flags, "--max-length=12", f"--checkpoint-dir={tmp_path}/r"]) == 2
    assert "its answer would be cut off" in sentence(capsys)


def test_a_missing_pretrained_part_is_an_error(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    flags = [*data_flags, f"--video-model={tmp_path}/empty", f"--checkpoint-dir={tmp_path}/r", "--max-steps=1"]
    assert main(["train", *flags]) == 2
    assert "--video-model" in sentence(capsys)


def test_the_nearest_flag_of_an_unknown_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("batch_sise: 4\n")
    assert main(["train", "--config", f"{tmp_path}/c.yaml"]) == 2
    assert "'batch_size'" in sentence(capsys)


def test_code_in_a_pickle_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "owned"),))  # type: ignore[return-value]

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Bomb()))
    assert main(["eval", f"--checkpoint={tmp_path}/evil.pth"]) == 2
    assert "never executed" in sentence(capsys)
    assert not (tmp_path / "owned").exists()


def test_the_leak_check_fails_under_bidirectional(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"--checkpoint-dir={tmp_path}/r"
    for mask, status in (("prefix", "PASS"), ("causal", "PASS"), ("bidirectional", "FAIL")):
        code = main(["check", *TINY, *data_flags, folder, f"--mask={mask}", "--json"])
        results = {r["name"]: r for r in json.loads(capsys.readouterr().out)}
        assert results["leak"]["status"] == status
        assert code == (1 if mask == "bidirectional" else 0), results
    assert "reproducing" in results["leak"]["message"]


def test_a_synthetic_set_cannot_be_written_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["synth", f"--out={tmp_path}/file/set", "--videos=3", "--frames-per-video=1"]) == 2
    assert "cannot be written" in sentence(capsys)


def test_an_output_folder_that_cannot_be_written_is_an_error(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={tmp_path}/r", "--val-max-samples=8"]) == 0
    capsys.readouterr()
    (tmp_path / "file").write_text("x")
    assert main(["eval", f"--checkpoint={tmp_path}/r", f"--output={tmp_path}/file/out"]) == 2
    assert "cannot be written" in sentence(capsys)
