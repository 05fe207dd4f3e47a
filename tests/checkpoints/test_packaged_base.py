"""The base that the package brings: whole, licensed, small, and as good as its card says."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.build_base.package_files import evaluate_zero_shot, folder_size, weights_sha256
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.model.freezing import trainable_table
from surgvivqa.training.initial_model import build_for_training

ROOT = Path(__file__).resolve().parents[2]
CARD = (PACKAGED_BASE / "README.md").read_text(encoding="utf-8")


def test_the_card_names_licence_and_hash() -> None:
    assert "license: apache-2.0" in CARD
    assert weights_sha256(PACKAGED_BASE) in CARD
    assert folder_size(PACKAGED_BASE) < 10_000_000


def test_the_tiny_preset_trains_adapters_on_it_and_nothing_else() -> None:
    model = build_for_training(TrainConfig(preset="tiny")).model
    rows = {part: (trained, total) for part, trained, total in trainable_table(model)}
    assert {part for part, (trained, _) in rows.items() if trained} == {"llm LoRA"}
    assert rows["llm LoRA"] == (45_056, 45_056)
    base = load_checkpoint(Path("tiny"), ModelConfig()).model
    assert torch.equal(base.visual_encoder.layernorm.weight, model.visual_encoder.layernorm.weight)


@pytest.mark.parametrize("frames", [4, 8])
def test_it_takes_clips_of_other_lengths(frames: int) -> None:
    model = build_for_training(TrainConfig(preset="tiny", num_frames=frames)).model
    tokens = model.encode_video(torch.zeros(1, frames, 3, 112, 112))
    assert tokens.shape == (1, 64 * frames // 2, 128)


def test_it_answers_at_once(synthetic_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = synthetic_set / "frames" / "VID02" / "000000.png"
    assert main(["predict", "--checkpoint=tiny", "--image", str(image), "--question", "Are there any hooks?"]) == 0
    assert "%" in capsys.readouterr().out


@pytest.mark.slow
def test_its_figure_as_it_is_is_the_cards(tmp_path: Path) -> None:
    figures = evaluate_zero_shot(PACKAGED_BASE, tmp_path)
    found = re.search(r"(\d+) questions\):\s+accuracy (\d+\.\d)", CARD)
    assert found is not None
    assert figures["n"] == int(found[1])
    assert abs(100 * figures["acc"] - float(found[2])) < 0.3  # another processor may turn a few close answers


@pytest.mark.slow
def test_the_wheel_is_small_and_works_without_the_repository(tmp_path: Path) -> None:
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):  # a copy: a build leaves files beside the sources
        part = ROOT / name
        ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
        shutil.copytree(part, tmp_path / name, ignore=ignored) if part.is_dir() else shutil.copy(part, tmp_path / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(tmp_path)], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.stat().st_size < 15_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "surgvivqa/base/model.safetensors" in names
    assert not any(n.startswith(("tests", "docs", "benchmarks", "experiments")) for n in names)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    load = "print(l.__file__, l.load_checkpoint('tiny', l.ModelConfig()).settings.preset)"
    code = f"import surgvivqa.training.initial_model as l; {load}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path / "site")) and done.stdout.split()[-1] == "tiny"
