"""The build of the packaged base: a stopped build resumes bit for bit, and leaves the package's files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from experiments.build_base import build
from experiments.build_base.build import build_base
from experiments.build_base.config import BuildConfig
from experiments.build_base.stages import PatchStage, QuestionStage, Stage
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.signals import StopSignals

pytestmark = pytest.mark.long


def config(out: Path, **more: Any) -> BuildConfig:
    small: dict[str, Any] = {"frames_per_video": 2, "patch_steps": 4, "question_steps": 5, "save_every": 2}
    return BuildConfig(out=out, patch_frames=4, question_frames=2, questions_per_frame=4, **(small | more))


@pytest.fixture(scope="module")
def complete_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build")
    assert build_base(config(out)) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "at"), [(PatchStage, 3), (QuestionStage, 0), (QuestionStage, 3)])
def test_a_killed_build_resumes_to_the_same_weights(
    stage: type[Stage], at: int, complete_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(complete_build / "source", tmp_path / "source")
    real = stage.loss

    def killed(self: Any, step: int) -> Any:
        if step == at:
            raise KeyboardInterrupt
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            build_base(config(tmp_path))
    assert not (tmp_path / "base").exists()
    assert build_base(config(tmp_path)) == 0
    for name in ("patches.safetensors", "questions.safetensors", "base/model.safetensors"):
        first, second = (load_file(out / name) for out in (complete_build, tmp_path))
        assert first.keys() == second.keys()
        assert all(torch.equal(v, second[k]) for k, v in first.items()), name


@pytest.mark.slow
def test_a_signal_saves_the_state_and_returns_75(
    complete_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(complete_build / "source", tmp_path / "source")

    class Signalled(StopSignals):
        def __enter__(self) -> Any:
            entered = super().__enter__()
            entered._caught = "SIGTERM"
            return entered

    with monkeypatch.context() as patch:
        patch.setattr(build, "StopSignals", Signalled)
        assert build_base(config(tmp_path)) == 75
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert (line["stage"], line["step"]) == ("patches", 1)
    assert (tmp_path / "patches.safetensors").is_file()


@pytest.mark.slow
def test_a_build_writes_the_package_files(complete_build: Path) -> None:
    tensors = load_file(complete_build / "base" / "model.safetensors")
    assert {v.dtype for v in tensors.values()} == {torch.float16}
    assert {"config.json", "surgvivqa.json", "tokenizer.json"} <= {p.name for p in (complete_build / "base").iterdir()}
    lines = [json.loads(line) for line in (complete_build / "log.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in lines] == [
        ("patches", 2), ("patches", 4), ("questions", 2), ("questions", 4), ("questions", 5),
    ]  # fmt: skip
    assert "val_exist" in lines[-1] and "val_component" in lines[1]


@pytest.mark.slow
def test_other_settings_are_rejected_in_a_build_folder(complete_build: Path) -> None:
    with pytest.raises(InputError, match="other settings"):
        build_base(config(complete_build, patch_steps=6))
    with pytest.raises(InputError, match="--question-steps must be at least 2"):
        build_base(config(complete_build, question_steps=1))
