"""The complete workflow on a synthetic set in one command (``surgvivqa quickstart``, ``make quickstart``).

It makes the data, checks them, fine-tunes the packaged base, evaluates, compares with baselines, and writes a report
and a picture.
"""

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig, check_ranges, flag, read_yaml
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import read_split
from surgvivqa.evaluation.baselines import LabelledQuestions, predict_baselines
from surgvivqa.evaluation.metrics import compute_grouped_metrics
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.model.freezing import apply_freezing, trainable_fraction
from surgvivqa.reporting.results import read_predictions
from surgvivqa.synthetic.answer_grid import draw_answers
from surgvivqa.synthetic.write import MANIFEST
from surgvivqa.utils.errors import RunError

_COMMON_FLAGS = (
    *("--preset", "tiny", "--batch-size", "52", "--questions-per-frame", "13"),
    *("--workers", "0"),  # cached frames need no decoding
    *("--save-every-steps", "0", "--val-max-samples", "800"),
)
LORA_FLAGS = (*_COMMON_FLAGS, "--lr", "2e-3")
FULL_FLAGS = (*_COMMON_FLAGS, "--full-finetune", "--train-blip", "--lr", "3e-4")

EVIDENCE = 60  # questions whose asked object is covered, about half a minute

TABLE_ROWS: dict[str, str | None] = {  # row of the table: question type
    "existence": "exist",
    "counting": "count",
    "colour": "query_color",
    "kind": "query_type",
    "object": "query_component",
    "action": None,
}


@dataclass(kw_only=True)
class QuickstartConfig:
    """Runs the quickstart and leaves RUN/report.html, RUN/summary.json and RUN/answers.png."""

    run: Path = flag("Folder for all files.", Path("runs/quickstart"))
    steps: int = flag("Number of fine-tuning steps.", 1200, least=1)
    frames_per_video: int = flag("Number of frames of each of the 45 synthetic videos.", 24, least=1)
    seed: int = flag("Random seed.", 0, least=0, below=2**32)
    full: bool = flag("Also fine-tune all weights of the base, for comparison (some minutes more).", False)


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Runs the commands one after another, prints the comparison, and writes report, ``summary.json`` and picture.

    The run folders are ``lora`` and, with ``full``, ``full``; ``base`` has the evaluation of the base as it is.

    Raises:
        InputError: a number is out of its range.
        RunError: one of the commands failed.
    """
    check_ranges(config)
    started = time.monotonic()
    run, data = config.run, config.run / "data"
    _make_data(config, data)
    roots = ["--ssgvqa-root", str(data / "ssg-qa"), "--image-root", str(data / "frames")]
    steps = ["--max-steps", str(config.steps), "--eval-every-steps", str(max(1, config.steps // 2))]
    steps += ["--seed", str(config.seed)]
    # Only the LoRA adapters are trained, so the outputs of both encoders are cached and an epoch runs the decoder only.
    lora = [*LORA_FLAGS, *steps, "--cache", str(run / "cache"), "--cache-text"]
    run_command("check", *roots, *lora)
    # The base is not judged, so it is not asked again on other pictures.
    base = ["--output", str(run / "base"), "--check-samples", "0"]
    run_command("eval", "--checkpoint", "tiny", *roots, *base)
    evidence = ["--evidence", str(EVIDENCE), "--scene-graph-root", str(data / "scene_graph")]
    _train_and_evaluate(run / "lora", roots, lora, evidence)
    runs = {"base": run / "base", "model": run / "lora" / "eval-test"}
    if config.full:
        _train_and_evaluate(run / "full", roots, [*FULL_FLAGS, *steps], evidence)
        runs["full"] = run / "full" / "eval-test"
    summary = summarise(runs, data / "ssg-qa")
    _write_report(run, ["lora", "full"] if config.full else ["lora"], data / "frames")
    print_summary(summary)
    predictions = runs["model"] / "predictions.jsonl"
    picture = draw_answers(predictions, data / "frames", run / "answers.png", seed=config.seed)
    seconds = time.monotonic() - started
    summary |= {"trainable_fraction": _trainable_fraction(run / "lora"), "seconds": seconds}
    (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"written: {run / 'summary.json'}, {picture}   ({seconds:.0f} s)")
    return summary


def run_command(*arguments: str) -> None:
    """Prints a ``surgvivqa`` command and runs it.

    Raises:
        RunError: the command failed.
    """
    print(f"\n$ surgvivqa {' '.join(arguments)}", flush=True)
    code = main(arguments)
    if code:
        raise RunError(f"surgvivqa {arguments[0]} failed with exit code {code}; its message is above.")


def _make_data(config: QuickstartConfig, data: Path) -> None:
    """Makes the synthetic set, and removes the feature cache of an earlier set."""
    manifest = data / MANIFEST
    old = manifest.read_bytes() if manifest.is_file() else b""
    frames, seed = str(config.frames_per_video), str(config.seed)
    run_command("synth", "--out", str(data), "--frames-per-video", frames, "--seed", seed)
    if manifest.read_bytes() != old:
        shutil.rmtree(config.run / "cache", ignore_errors=True)


def _train_and_evaluate(
    run_folder: Path, roots: Sequence[str], train_flags: Sequence[str], eval_flags: Sequence[str]
) -> None:
    """Trains into an empty run folder and evaluates its best checkpoint, to its ``eval-test``."""
    shutil.rmtree(run_folder, ignore_errors=True)
    run_command("train", *roots, *train_flags, "--checkpoint-dir", str(run_folder))
    run_command("eval", "--checkpoint", str(run_folder), *roots, *eval_flags)


def _write_report(run: Path, names: Sequence[str], image_root: Path) -> None:
    """Writes the report; without the extra it needs, the quickstart goes on."""
    runs = [str(run / name) for name in names]
    arguments = ["report", *runs, "--image-root", str(image_root), "--output", str(run / "report.html")]
    print(f"\n$ surgvivqa {' '.join(arguments)}", flush=True)
    if main(arguments):
        print("The report is not written; the message above says why.")


def summarise(evaluated: dict[str, Path], questions_root: Path) -> dict[str, Any]:
    """Computes the metrics of the two baselines and of the evaluated models on the test videos.

    Args:
        evaluated: column name to the folder of its ``predictions.jsonl``; ``model`` is one.
        questions_root: the folder of the questions.

    Returns:
        Column name to ``acc``, ``mAF1``, ``acc_se`` and the accuracy ``by_type`` of question, as fractions.
    """
    columns = {name: read_predictions(folder / "predictions.jsonl") for name, folder in evaluated.items()}
    train, _ = read_split(questions_root, load_splits().train)
    baselines = predict_baselines(LabelledQuestions.of_frames(train), columns["model"])
    columns = {name: baselines[name] for name in ("majority", "question_only")} | columns
    summary: dict[str, Any] = {}
    for name, predictions in columns.items():
        metrics = compute_grouped_metrics(predictions)
        by_type = {row: _accuracy([p for p in predictions if p.type == kind]) for row, kind in TABLE_ROWS.items()}
        overall = {"acc": metrics.overall.acc, "mAF1": metrics.overall.mAF1, "acc_se": metrics.acc_se}
        summary[name] = overall | {"by_type": by_type}
    return summary


def print_summary(summary: dict[str, Any]) -> None:
    """Prints the comparison as a table: accuracy by type of question and overall, and mAF1."""
    columns = summary.values()
    print(f"\n{'accuracy, %':<14}" + "".join(f"{name:>15}" for name in summary))
    for row in TABLE_ROWS:
        print(f"{row:<14}" + "".join(f"{100 * column['by_type'][row]:>15.1f}" for column in columns))
    print(f"{'all':<14}" + "".join(f"{100 * c['acc']:>8.1f} ± {100 * c['acc_se']:<4.1f}" for c in columns))
    print(f"{'mAF1, %':<14}" + "".join(f"{100 * column['mAF1']:>15.1f}" for column in columns))


def _accuracy(predictions: Sequence[Prediction]) -> float:
    return float(np.mean([p.correct for p in predictions])) if predictions else math.nan


def _trainable_fraction(run_folder: Path) -> float:
    """The fraction of the model's parameters that a run trains."""
    bundle = load_checkpoint(run_folder, ModelConfig())
    apply_freezing(bundle.model, TrainConfig(**read_yaml(run_folder / "config.yaml", TrainConfig)))
    return trainable_fraction(bundle.model)
