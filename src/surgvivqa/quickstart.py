"""The whole way on a synthetic set in one command: data, check, fine-tuning, evaluation, baselines, a picture."""

import json
import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.cli import main as command
from surgvivqa.cli import quiet_libraries
from surgvivqa.config import ModelConfig, TrainConfig, read_yaml
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import FrameQuestions, read_split
from surgvivqa.evaluation.baselines import predict_from_text, predict_most_frequent
from surgvivqa.evaluation.metrics import compute_grouped_metrics
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.model.freezing import apply_freezing, trainable_fraction
from surgvivqa.synthetic.answer_grid import draw_answers
from surgvivqa.utils.errors import RunError

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class QuickstartConfig:
    """Runs the quickstart and leaves RUN/summary.json and RUN/answers.png."""

    run: Path = Path("runs/quickstart")
    """Folder of everything it makes."""
    steps: int = 1200
    """Steps of fine-tuning."""
    frames_per_video: int = 24
    """Frames of each of the 45 synthetic videos."""
    seed: int = 0
    """Everything random follows from it."""
    full: bool = False
    """Then also fine-tune all of the base's weights, for comparison (some minutes more)."""


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Runs every command in turn, prints the comparison and writes ``summary.json`` and the picture.

    Raises:
        RunError: one of the commands failed.
    """
    started = time.monotonic()
    run, data = config.run, config.run / "data"
    roots = ["--ssgvqa-root", str(data / "ssg-qa"), "--image-root", str(data / "frames")]
    marked = (data / "synthetic.json").read_bytes() if (data / "synthetic.json").is_file() else b""
    _run("synth", "--out", str(data), "--frames-per-video", str(config.frames_per_video), "--seed", str(config.seed))
    if (data / "synthetic.json").read_bytes() != marked:
        shutil.rmtree(run / "cache", ignore_errors=True)
    # LoRA alone, everything else frozen: frames and BLIP's outputs are cached, so an epoch is the decoder's work.
    lora = [*LORA, "--cache", str(run / "cache"), "--cache-text", "--max-steps", str(config.steps)]
    common = ["--seed", str(config.seed), "--eval-every-steps", str(max(1, config.steps // 2))]
    lora += common
    _run("check", *roots, *lora)
    _run("eval", "--checkpoint", "tiny", *roots, "--output", str(run / "eval-base"))
    _tune(run, "train", "eval", roots, lora)
    columns = {"base": "eval-base", "model": "eval"}
    if config.full:
        _tune(run, "train-full", "eval-full", roots, [*FULL, *common, "--max-steps", str(config.steps)])
        columns["full"] = "eval-full"
    summary = compare(config, columns)
    picture = draw_answers(run / "eval" / "predictions.jsonl", data / "frames", run / "answers.png", seed=config.seed)
    summary["trainable_fraction"], summary["seconds"] = _trained(run / "train"), time.monotonic() - started
    (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"written: {run / 'summary.json'}, {picture}   ({summary['seconds']:.0f} s)")
    return summary


_COMMON = (
    *("--preset", "tiny", "--batch-size", "52", "--questions-per-frame", "13"),
    *("--workers", "0"),  # from the cache a frame is there at once, and two cores have enough to do
    *("--save-every-steps", "0", "--val-max-samples", "800"),
)
LORA = (*_COMMON, "--lr", "2e-3")
FULL = (*_COMMON, "--full-finetune", "--train-blip", "--lr", "3e-4")


def _tune(run: Path, train: str, evaluation: str, roots: list[str], flags: list[str]) -> None:
    """Training and evaluation in the run's folders of these names."""
    shutil.rmtree(run / train, ignore_errors=True)
    _run("train", *roots, *flags, "--checkpoint-dir", str(run / train))
    _run("eval", "--checkpoint", str(run / train), *roots, "--output", str(run / evaluation))


ROWS: dict[str, str | None] = {  # row of the table: question type
    "existence": "exist",
    "counting": "count",
    "colour": "query_color",
    "kind": "query_type",
    "object": "query_component",
    "action": None,
}


def compare(config: QuickstartConfig, evaluated: dict[str, str]) -> dict[str, Any]:
    """Compares the evaluated models with the two baselines on the test videos, overall and by type of question.

    Args:
        config: the quickstart's flags.
        evaluated: column name to the folder of its ``predictions.jsonl``.
    """
    splits, root = load_splits(), config.run / "data" / "ssg-qa"
    train, test = (read_split(root, splits.videos(name))[0] for name in ("train", "test"))
    columns = {
        "majority": _predictions(test, predict_most_frequent(train, test)),
        "question_only": _predictions(test, predict_from_text(train, test)),
    }
    for name, folder in evaluated.items():
        lines = (config.run / folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        columns[name] = [Prediction.from_json(json.loads(line)) for line in lines]
    summary: dict[str, Any] = {}
    for name, predictions in columns.items():
        metrics = compute_grouped_metrics(predictions)
        summary[name] = {"acc": metrics.overall.acc, "mAF1": metrics.overall.mAF1, "acc_se": metrics.acc_se}
        summary[name]["by_type"] = {
            row: _accuracy([p for p in predictions if p.type == kind]) for row, kind in ROWS.items()
        }
    print(f"\n{'accuracy, %':<14}" + "".join(f"{name:>15}" for name in columns))
    for row in ROWS:
        print(f"{row:<14}" + "".join(f"{100 * s['by_type'][row]:>15.1f}" for s in summary.values()))
    print(f"{'all':<14}" + "".join(f"{100 * s['acc']:>8.1f} ± {100 * s['acc_se']:<4.1f}" for s in summary.values()))
    print(f"{'mAF1, %':<14}" + "".join(f"{100 * s['mAF1']:>15.1f}" for s in summary.values()))
    return summary


def _accuracy(predictions: list[Prediction]) -> float:
    return float(np.mean([p.correct for p in predictions])) if predictions else math.nan


def _trained(ckpt: Path) -> float:
    bundle = load_checkpoint(ckpt, ModelConfig())
    apply_freezing(bundle.model, TrainConfig(**read_yaml(ckpt / "config.yaml", TrainConfig)))
    return trainable_fraction(bundle.model)


def _predictions(frames: list[FrameQuestions], labels: list[int]) -> list[Prediction]:
    questions = [q for frame in frames for q in frame.questions]
    return [Prediction.of_question(q, label) for q, label in zip(questions, labels, strict=True)]


def _run(*arguments: str) -> None:
    print(f"\n$ surgvivqa {' '.join(arguments)}", flush=True)
    code = command(arguments)
    if code:
        raise RunError(f"surgvivqa {arguments[0]} ended with exit code {code}; its message is above.")


if __name__ == "__main__":
    quiet_libraries()
    quickstart(tyro.cli(QuickstartConfig, prog="quickstart"))
