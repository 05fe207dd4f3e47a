"""A checkpoint is what was saved: its checksums are verified before it is used."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgvivqa.auto import SurgViVQAModel
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.saving import export_pth, save_adapters, save_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return build_for_training(TrainConfig(preset="tiny"))


@pytest.fixture(scope="module")
def saved(bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each form that carries checksums."""
    root = tmp_path_factory.mktemp("saved")
    save_checkpoint(bundle, root / "best")
    save_checkpoint(bundle, root / "shards", everything=True, max_shard_size="2MB")
    save_adapters(bundle, root / "adapters")
    return root


def load(path: Path, **options: Any) -> ModelBundle:
    return load_checkpoint(path, ModelConfig(preset="tiny"), **options)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("form", ["best", "shards", "adapters"])
def test_one_changed_bit_is_refused_and_no_verify_loads_it(form: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / form, tmp_path / form)
    load(folder)
    file = max(folder.glob("*.safetensors"))
    flip(file)
    with pytest.raises(InputError, match=rf"{file.name} is not the file that was saved .* --no-verify"):
        load(folder)
    load(folder, verify=False)


def test_a_changed_bit_in_a_pth_file_is_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pth"
    export_pth(bundle, path)
    load(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"best_model\.pth is damaged or cut off .* --no-verify"):
        load(path)
    load(path, verify=False)


@pytest.mark.parametrize("command", ["eval", "predict", "convert", "train"])
def test_every_command_verifies(
    command: str, saved: Path, synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "best")
    flip(folder / "model.safetensors")
    data = [f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--image-root={synthetic_set / 'frames'}"]
    data += [f"--splits-dir={synthetic_set / 'splits'}", "--workers=0"]
    flags = {
        "eval": [f"--checkpoint={folder}", *data, "--max-samples=4"],
        "predict": [f"--checkpoint={folder}", f"--image={synthetic_set}/frames/VID02/000003.png", "--question=What?"],
        "convert": [f"--checkpoint={folder}", f"--output={tmp_path / 'out'}"],
        "train": [f"--pretrained-ckpt={folder}", "--preset=tiny", *data, "--max-steps=1", "--val-max-samples=4"],
    }[command]
    flags += [f"--checkpoint-dir={tmp_path / 'run'}"] if command == "train" else []
    assert main([command, *flags]) == 2
    assert "is damaged: model.safetensors is not the file that was saved" in capsys.readouterr().err
    assert main([command, *flags, "--no-verify"]) == 0


def test_from_pretrained_verifies(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "best")
    SurgViVQAModel.from_pretrained(folder)
    flip(folder / "model.safetensors")
    with pytest.raises(InputError, match="its checksum differs"):
        SurgViVQAModel.from_pretrained(folder)


def test_save_pretrained_renews_the_checksums(bundle: ModelBundle, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "best")
    model = SurgViVQAModel.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    model.save_pretrained(folder)
    load(folder)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The project's log, which does not reach the root logger."""
    logger = logging.getLogger("surgvivqa")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger="surgvivqa"):
        yield caplog
    logger.removeHandler(caplog.handler)


def test_a_folder_without_checksums_is_loaded_and_reported(
    saved: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "best")
    rewrite(folder, lambda content: content.pop("sha256"))
    flags = [f"--checkpoint={folder}", f"--output={tmp_path / 'out'}"]
    assert main(["convert", *flags]) == 0
    assert "records no checksums" in logged.text


def test_an_older_step_checkpoint_is_verified_by_its_training_state(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "step-0000001")
    sums = rewrite(folder, lambda content: content.pop("sha256"))
    (folder / "training.json").write_text(json.dumps({"sha256": {**sums, "training.json": "x"}}))
    load(folder)
    flip(folder / "model.safetensors")
    with pytest.raises(InputError, match="its checksum differs"):
        load(folder)


def test_weights_of_zeros_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "best")
    tensors = load_file(folder / "model.safetensors")
    save_file({k: torch.zeros_like(t) for k, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="holds only zeros"):
        load(folder, verify=False)


def test_a_newer_format_and_unknown_fields_are_reported(
    saved: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(saved / "best", tmp_path / "best")
    rewrite(folder, lambda content: content.update(shiny=1))
    config = json.loads((folder / "config.json").read_text()) | {"glossy": 1}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["convert", f"--checkpoint={folder}", f"--output={tmp_path / 'out'}"]) == 0
    errors = logged.text
    assert "surgvivqa.json has unknown fields, which are ignored: shiny" in errors
    assert "config.json has unknown fields, which are ignored: glossy" in errors
    rewrite(folder, lambda content: content.update(format=2))
    with pytest.raises(InputError, match=r"has format 2, but this version of surgvivqa reads formats up to 1"):
        load(folder)


def test_the_packaged_base_carries_its_checksums(logged: pytest.LogCaptureFixture) -> None:
    assert load(Path("tiny")).model is not None
    assert "model.safetensors" in json.loads((PACKAGED_BASE / "surgvivqa.json").read_text())["sha256"]
    assert "checksums" not in logged.text


def rewrite(folder: Path, change: Any) -> Any:
    """Changes the content of a folder's ``surgvivqa.json``; returns what ``change`` returns."""
    path = folder / "surgvivqa.json"
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(content))
    return result
