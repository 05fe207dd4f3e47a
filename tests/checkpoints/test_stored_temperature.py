"""A stored temperature belongs to its weights and settings, in every form of the checkpoint, and to no others."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.stored_temperature import (
    TEMPERATURE_FILE,
    find_place,
    hash_weights,
    read_temperature,
    score_settings,
    temperature_file,
    write_temperature,
)
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig
from surgvivqa.evaluation.temperature import Temperature
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.errors import InputError
from tests.conftest import CapturedLog


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder: a copy of the packaged base."""
    return Path(shutil.copytree(PACKAGED_BASE, tmp_path / "base"))


def load(checkpoint: Path) -> ModelBundle:
    return load_checkpoint(checkpoint, ModelConfig())


def temperature_of(bundle: ModelBundle, **values: Any) -> Temperature:
    fitted = Temperature(
        temperature=2.0,
        split="val",
        questions=10,
        videos=["VID01"],
        log_score=1.0,
        log_score_after=0.9,
        settings=score_settings(bundle, "sum"),
        weights=hash_weights(bundle.model),
        fitted="2026-01-01T00:00:00+00:00",
    )
    return dataclasses.replace(fitted, **values)


def test_a_stored_temperature_is_read_back(checkpoint: Path) -> None:
    bundle = load(checkpoint)
    assert read_temperature(bundle, "sum") is None
    place = find_place(checkpoint, bundle)
    write_temperature(place, temperature_of(bundle))
    assert place == checkpoint / TEMPERATURE_FILE
    assert read_temperature(load(checkpoint), "sum") == temperature_of(bundle)


def test_that_of_other_weights_is_ignored(checkpoint: Path, captured_log: CapturedLog) -> None:
    bundle = load(checkpoint)
    write_temperature(checkpoint / TEMPERATURE_FILE, temperature_of(bundle))
    with torch.no_grad():
        next(bundle.model.parameters()).flatten()[0] += 1e-3
    assert read_temperature(bundle, "sum") is None
    assert "is ignored: it is of other weights. Fit it again with eval --fit-temperature." in captured_log()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("score_norm", "mean", "fitted with score_norm sum, not mean"),
        ("mask", "causal", "fitted with mask prefix, not causal"),
        ("prompt_mode", "choices", "fitted with prompt_mode simple, not choices"),
    ],
)
def test_that_of_other_scores_is_ignored(
    name: str, value: str, message: str, checkpoint: Path, captured_log: CapturedLog
) -> None:
    bundle = load(checkpoint)
    write_temperature(checkpoint / TEMPERATURE_FILE, temperature_of(bundle))
    if name != "score_norm":
        setattr(bundle.settings, name, value)
    assert read_temperature(bundle, value if name == "score_norm" else "sum") is None
    assert message in captured_log()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '"x"', {"temperature": 0}, {"temperature": -1}, {"temperature": "hot"}, {"split": "test"}],
)
def test_a_damaged_file_is_ignored(content: str | dict[str, Any], checkpoint: Path, captured_log: CapturedLog) -> None:
    bundle = load(checkpoint)
    if isinstance(content, dict):
        content = json.dumps(dataclasses.asdict(temperature_of(bundle)) | content)
    (checkpoint / TEMPERATURE_FILE).write_text(content)
    assert read_temperature(bundle, "sum") is None
    assert "is ignored: it is not a temperature of eval" in captured_log()


def test_the_packaged_base_and_the_hub_have_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = load(Path("tiny"))
    with pytest.raises(InputError, match="tiny is the packaged base; write it into a folder with surgvivqa convert"):
        find_place(Path("tiny"), bundle)
    bundle.source = tmp_path
    with pytest.raises(InputError, match="some/model is on the hub"):
        find_place(Path("some/model"), bundle)


def test_a_folder_that_cannot_be_written_is_an_error_before_the_evaluation(checkpoint: Path) -> None:
    bundle = load(checkpoint)
    bundle.source = checkpoint / "gone" / "best"
    with pytest.raises(InputError, match=r"--fit-temperature cannot write .*\(No such file"):
        find_place(checkpoint, bundle)


def test_processes_that_check_the_folder_at_once_do_not_disturb_each_other(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load(checkpoint)
    monkeypatch.setattr(Path, "touch", lambda path: None)  # as if another process had just removed its probe
    assert find_place(checkpoint, bundle) == checkpoint / TEMPERATURE_FILE


@pytest.mark.parametrize("form", ["huggingface", "published"])
def test_it_is_carried_to_other_forms_of_the_weights(form: str, checkpoint: Path, tmp_path: Path) -> None:
    write_temperature(checkpoint / TEMPERATURE_FILE, temperature_of(load(checkpoint)))
    output = tmp_path / ("model.pth" if form == "published" else "model")
    more = ["--tensors=all"] if form == "published" else []
    assert main(["convert", f"--checkpoint={checkpoint}", f"--output={output}", f"--to={form}", *more]) == 0
    assert temperature_file(output).name == ("model.temperature.json" if form == "published" else TEMPERATURE_FILE)
    flags = ModelConfig(preset="tiny", num_frames=load(checkpoint).model.config.video_config.num_frames)
    found = read_temperature(load_checkpoint(output, flags), "sum")
    assert found is not None and found.temperature == 2.0


def test_that_of_other_weights_is_not_carried(checkpoint: Path, tmp_path: Path, captured_log: CapturedLog) -> None:
    write_temperature(checkpoint / TEMPERATURE_FILE, temperature_of(load(checkpoint), weights="0"))
    assert main(["convert", f"--checkpoint={checkpoint}", f"--output={tmp_path / 'model'}"]) == 0
    assert "is not carried along: it is of other weights" in captured_log()
    assert not (tmp_path / "model" / TEMPERATURE_FILE).exists()
