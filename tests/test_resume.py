"""A run that was stopped and started again is the run that was never stopped, bit for bit."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surgvivqa.cli import main

TINY = [
    *("--preset=tiny", "--batch-size=6", "--questions-per-frame=3", "--max-steps=14", "--lr=2e-3", "--warmup-steps=3"),
    *("--eval-every-steps=4", "--val-max-samples=12", "--log-interval=3", "--workers=0", "--max-train-samples=40"),
]


def train(folder: Path, flags: list[str], *more: str) -> int:
    return main(["train", *TINY, *flags, f"--checkpoint-dir={folder}", *more])


def lines(folder: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in found:
        record.pop("questions_per_second", None)
    return found


def same(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    for name in ("best/model.safetensors", "best_model.pth"):
        load = load_file if name.endswith("safetensors") else lambda p: torch.load(p, weights_only=True)
        first, second = load(one / name), load(other / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), key


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, synthetic_set: Path) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, flags_of(synthetic_set)) == 0
    return folder


def flags_of(root: Path) -> list[str]:
    return [f"--ssgvqa-root={root / 'ssg-qa'}", f"--image-root={root / 'frames'}", f"--splits-dir={root / 'splits'}"]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal reaches the process during that step."""
    from surgvivqa import training

    real, count = training.seed_micro_batch, [0]

    def counted(*place: int) -> None:
        count[0] += 1
        if count[0] == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        real(*place)

    monkeypatch.setattr(training, "seed_micro_batch", counted)


@pytest.mark.parametrize("step", [1, 4, 7, 13])  # 7 steps are an epoch
def test_stopped_at_a_step_and_started_again(
    step: int, whole: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        assert train(tmp_path / "run", data_flags) == 75
    assert json.loads(next((tmp_path / "run" / "checkpoints").glob("*/training.json")).read_text())["step"] == step
    assert train(tmp_path / "run", data_flags) == 0
    same(tmp_path / "run", whole)


def test_stopped_again_and_again(
    whole: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(7):
        with monkeypatch.context() as patch:
            stop_after(2, patch)
            code = train(tmp_path / "run", data_flags)
        assert code in (0, 75)
    assert code == 0
    same(tmp_path / "run", whole)
