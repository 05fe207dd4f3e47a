"""``train --blank-video``: the pictures have no part in the run, and it resumes like any other."""

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.model_card import write_model_card
from surgvivqa.config import ModelConfig
from tests.helpers.runs import assert_equal_runs, sentence, stop_after, train


@pytest.fixture(scope="module")
def blank(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on black pictures that was never stopped."""
    folder = tmp_path_factory.mktemp("blank") / "run"
    roots = {"ssgvqa-root": "ssg-qa", "image-root": "frames", "splits-dir": "splits"}
    flags = [f"--{flag}={synthetic_set / name}" for flag, name in roots.items()]
    assert train(folder, flags, "--blank-video") == 0
    return folder


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("val_loss")) for line in lines]


def test_the_run_equals_one_on_black_files_and_reads_no_picture(
    blank: Path, synthetic_set: Path, data_flags: list[str], tmp_path: Path
) -> None:
    black, damaged = tmp_path / "black", tmp_path / "damaged"
    for path in (synthetic_set / "frames").rglob("*.png"):
        for folder in (black, damaged):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (43, 24)).save(black / path.parent.name / path.name)
        (damaged / path.parent.name / path.name).write_bytes(b"no picture")
    assert train(tmp_path / "one", data_flags, f"--image-root={black}") == 0
    # The frames of a batch are encoded together there, and once here, which may change the last digits.
    assert losses(tmp_path / "one") == pytest.approx(losses(blank), abs=1e-4)
    assert train(tmp_path / "two", data_flags, f"--image-root={damaged}", "--blank-video") == 0
    assert_equal_runs(tmp_path / "two", blank)


def test_the_flag_is_recorded_in_the_run_and_in_its_card(blank: Path, tmp_path: Path) -> None:
    assert yaml.safe_load((blank / "config.yaml").read_text())["blank_video"] is True
    bundle = load_checkpoint(blank, ModelConfig())
    assert bundle.run.config.blank_video
    card = write_model_card(tmp_path, bundle.settings, bundle.run, None, None).read_text()
    assert "| `--blank-video` | yes |" in card


def test_a_stopped_run_resumes_exactly_and_keeps_the_flag(
    blank: Path,
    data_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        assert train(tmp_path / "run", data_flags, "--blank-video") == 75
    capsys.readouterr()
    assert train(tmp_path / "run", data_flags) == 2
    assert "--blank-video was True, is False" in sentence(capsys)
    assert train(tmp_path / "run", data_flags, "--blank-video") == 0
    assert_equal_runs(tmp_path / "run", blank)


@pytest.mark.slow
def test_caches_of_black_pictures_change_no_loss_and_are_not_those_of_the_frames(
    blank: Path, data_flags: list[str], tmp_path: Path
) -> None:
    """The base is frozen in a run that starts from another one."""
    start = [f"--pretrained-ckpt={blank}", "--cache-dtype=fp32"]
    cached = [f"--cache={tmp_path / 'cache'}", "--cache-text"]
    for name, flags in (("plain", []), ("fills", cached), ("reads", cached)):
        assert train(tmp_path / name, data_flags, "--blank-video", *start, *flags) == 0
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    assert losses(tmp_path / "fills") == losses(tmp_path / "reads")
    log = (tmp_path / "reads" / "train.log").read_text()
    assert re.search(r"text states of \d+ frames read, of 0 computed", log)
    video, _ = sorted((tmp_path / "cache").iterdir(), key=lambda f: "mask" in (f / "manifest.json").read_text())
    assert json.loads((video / "manifest.json").read_text())["made_of"]["pictures"] == "black"
    assert train(tmp_path / "frames", data_flags, *start, *cached) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert losses(tmp_path / "frames") != losses(tmp_path / "reads")
