"""Tiny training runs, and whether two of them are equal bit for bit."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surgvivqa.cli import main
from surgvivqa.training.run_log import TIMINGS
from surgvivqa.training.schedule import seed_micro_batch

TINY = [
    *("--preset=tiny", "--batch-size=6", "--questions-per-frame=3", "--max-steps=14", "--lr=2e-3", "--warmup-steps=3"),
    *("--eval-every-steps=4", "--val-max-samples=12", "--log-interval=3", "--workers=0", "--max-train-samples=40"),
]


def train(folder: Path, flags: list[str], *more: str) -> int:
    """Trains a tiny run in ``folder`` in this process; returns the exit code."""
    return main(["train", *TINY, *flags, f"--checkpoint-dir={folder}", *more])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of an error on standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("surgvivqa: ")]
    assert len(lines) == 1, lines
    return lines[0]


def assert_equal_runs(one: Path, other: Path) -> None:
    """Metrics without timings, and best weights, are equal bit for bit."""
    assert _metrics(one) == _metrics(other)
    for name in ("best/model.safetensors", "best_model.pth"):
        load = load_file if name.endswith("safetensors") else lambda p: torch.load(p, weights_only=True)
        first, second = load(one / name), load(other / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), key


def _metrics(folder: Path) -> list[dict[str, object]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for name in TIMINGS:
            record.pop(name, None)
    return records


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process a signal during that step."""
    count = [0]

    def counted(seed: int, epoch: int, position: int) -> None:
        count[0] += 1
        if count[0] == step:
            os.kill(os.getpid(), signal.SIGUSR1)
        seed_micro_batch(seed, epoch, position)

    monkeypatch.setattr("surgvivqa.training.trainer.seed_micro_batch", counted)
