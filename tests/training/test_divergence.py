"""A run that diverges says which checkpoint is good, and names only flags that are in use."""

from pathlib import Path

import pytest
import torch

from surgvivqa.cli import main
from surgvivqa.training import trainer
from surgvivqa.training.schedule import seed_micro_batch
from surgvivqa.training.step_records import StepBatches, StepResult
from tests.helpers.runs import sentence

FLAGS = ["--preset=tiny", "--workers=0", "--val-max-samples=8", "--max-steps=6", "--no-bf16"]


def spoil_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a trained weight infinite before that step."""
    calls = [0]

    def seed(seed: int, epoch: int, position: int) -> None:
        calls[0] += 1
        seed_micro_batch(seed, epoch, position)

    real = trainer.Trainer.train_step

    def train_step(self: trainer.Trainer, number: int, batches: StepBatches) -> StepResult:
        if number == step:
            with torch.no_grad():
                self.updater.bucket.parameters[0].fill_(torch.inf)
        return real(self, number, batches)

    monkeypatch.setattr(trainer, "seed_micro_batch", seed)
    monkeypatch.setattr(trainer.Trainer, "train_step", train_step)


@pytest.mark.parametrize(
    "flags, good",
    [
        (["--save-every-steps=2"], "checkpoints/step-0000004."),
        (["--save-every-steps=0", "--eval-every-steps=3"], "best."),
        (["--save-every-steps=0", "--eval-every-steps=0"], None),
    ],
)
def test_the_newest_checkpoint_with_finite_scores_is_named(
    flags: list[str],
    good: str | None,
    data_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_at(5, monkeypatch)
    run = tmp_path / "run"
    assert main(["train", *FLAGS, *flags, *data_flags, f"--checkpoint-dir={run}"]) == 1
    said = sentence(capsys)
    assert "The loss of step 5 is nan" in said
    expected = f"finite numbers is {run / good}" if good else f"No checkpoint in {run} scores finite numbers."
    assert expected in said
    assert "--fp16" not in said and "Lower --lr, or lower --max-grad-norm, and start again" in said


def test_a_checkpoint_with_huge_weights_is_not_called_good(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--lr=1e20", "--max-grad-norm=0", "--save-every-steps=1", "--eval-every-steps=0"]
    assert main(["train", *FLAGS, *flags, *data_flags, f"--checkpoint-dir={tmp_path / 'run'}"]) == 1
    said = sentence(capsys)
    assert "No checkpoint in" in said and "--max-grad-norm" not in said


def test_an_empty_validation_split_says_what_best_holds(
    synthetic_set: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "splits").mkdir()
    for name, videos in (("train", '["VID04"]'), ("val", "[]"), ("test", "[]")):
        (tmp_path / "splits" / f"{name}_videos.json").write_text(videos)
    data = [f"--ssgvqa-root={synthetic_set}/ssg-qa", f"--image-root={synthetic_set}/frames"]
    data += [f"--splits-dir={tmp_path / 'splits'}", f"--checkpoint-dir={tmp_path / 'run'}"]
    assert main(["train", *FLAGS, *data]) == 0
    assert (
        "no validation questions, so best/ will hold the last weights" in (tmp_path / "run" / "train.log").read_text()
    )
