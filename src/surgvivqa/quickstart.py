"""The whole way on a synthetic set in one command: data, check, base, fine-tuning, evaluation, baselines."""

import json
import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from surgvivqa.baselines import majority_baseline, question_only_baseline
from surgvivqa.cli import main as command
from surgvivqa.cli import quiet_libraries
from surgvivqa.config import ModelConfig, TrainConfig, read_yaml
from surgvivqa.data.ssgqa import Frame, read_split
from surgvivqa.errors import RunError
from surgvivqa.labels import LABELS
from surgvivqa.metrics import TYPE_GROUPS, accuracy_error, compute_metrics, grouped_metrics
from surgvivqa.model.freezing import apply_freezing, trainable_fraction
from surgvivqa.model.loading import load_checkpoint
from surgvivqa.splits import load_splits

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class QuickstartConfig:
    """Runs the quickstart and leaves RUN/summary.json."""

    run: Path = Path("runs/quickstart")
    """Folder of everything it makes."""
    lesson_steps: int = 400
    """Steps of build-base."""
    steps: int = 1300
    """Steps of fine-tuning."""
    frames_per_video: int = 24
    """Frames of each of the 45 synthetic videos."""
    seed: int = 0
    """Everything random follows from it."""


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Runs every command in turn, prints the comparison and writes ``summary.json``.

    Raises:
        RunError: one of the commands failed.
    """
    started = time.monotonic()
    run, data, base, ckpt = config.run, config.run / "data", config.run / "base", config.run / "train"
    shutil.rmtree(ckpt, ignore_errors=True)
    roots = ["--ssgvqa-root", str(data / "ssg-qa"), "--image-root", str(data / "frames")]
    _run("synth", "--out", str(data), "--frames-per-video", str(config.frames_per_video), "--seed", str(config.seed))
    _run("build-base", "--synth-root", str(data), "--out", str(base), "--steps", str(config.lesson_steps))
    tune = [
        *("--preset", "tiny", "--pretrained-ckpt", str(base), "--train-blip", "--full-finetune"),
        *("--batch-size", "52", "--questions-per-frame", "13", "--lr", "5e-4", "--max-steps", str(config.steps)),
        *("--eval-every-steps", str(max(1, config.steps // 2)), "--save-every-steps", "0", "--val-max-samples", "800"),
        *("--checkpoint-dir", str(ckpt)),
    ]
    _run("check", *roots, *tune)
    _run("train", *roots, *tune)
    _run("eval", "--checkpoint", str(ckpt), *roots, "--output", str(run / "eval"))
    summary = compare(config, time.monotonic() - started)
    (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"written: {run / 'summary.json'}   ({summary['seconds']:.0f} s)")
    return summary


def compare(config: QuickstartConfig, seconds: float) -> dict[str, Any]:
    """The model beside the two baselines on the test videos, in all and by type of question."""
    splits, root = load_splits(), config.run / "data" / "ssg-qa"
    train, test = (read_split(root, splits.videos(name))[0] for name in ("train", "test"))
    records = [json.loads(line) for line in (config.run / "eval" / "predictions.jsonl").read_text().splitlines()]
    majority, question_only = majority_baseline(train, test), question_only_baseline(train, test)
    columns = {"model": records, "question_only": _records(test, question_only), "majority": _records(test, majority)}
    print(f"\n{'accuracy, %':<16}" + "".join(f"{name:>16}" for name in columns))
    groups = {name: grouped_metrics(r) for name, r in columns.items()}
    for kind in dict.fromkeys(TYPE_GROUPS.values()):
        print(
            f"{kind:<16}"
            + "".join(f"{100 * g['by_type'].get(kind, {'acc': math.nan})['acc']:>16.1f}" for g in groups.values())
        )
    print(f"{'all':<16}" + "".join(f"{100 * g['acc']:>9.1f} ± {100 * g['acc_se']:<4.1f}" for g in groups.values()))
    print(f"{'mAF1, %':<16}" + "".join(f"{100 * g['mAF1']:>16.1f}" for g in groups.values()))
    summary: dict[str, Any] = {}
    for name, rows in columns.items():
        figures = compute_metrics(
            [LABELS.index(r["answer"]) for r in rows], [LABELS.index(r["prediction"]) for r in rows]
        )
        by_type = {k: v["acc"] for k, v in groups[name]["by_type"].items() if k in TYPE_GROUPS.values()}
        summary[name] = {
            "acc": figures["acc"],
            "mAF1": figures["mAF1"],
            "acc_se": accuracy_error(rows),
            "by_type": by_type,
        }
    summary["trainable_fraction"] = _trained(config.run / "train")
    summary["seconds"] = seconds
    return summary


def _trained(ckpt: Path) -> float:
    bundle = load_checkpoint(ckpt, ModelConfig())
    apply_freezing(bundle.model, TrainConfig(**read_yaml(ckpt / "config.yaml", TrainConfig)))
    return trainable_fraction(bundle.model)


def _records(frames: list[Frame], labels: list[int]) -> list[dict[str, Any]]:
    questions = [q for f in frames for q in f.questions]
    return [
        {"video": q.video, "answer": LABELS[q.label], "prediction": LABELS[g], "reasoning": q.reasoning, "type": q.type}
        for q, g in zip(questions, labels, strict=True)
    ]


def _run(*arguments: str) -> None:
    print(f"\n$ surgvivqa {' '.join(arguments)}", flush=True)
    code = command(arguments)
    if code:
        raise RunError(f"surgvivqa {arguments[0]} ended with exit code {code}; its message is above.")


if __name__ == "__main__":
    quiet_libraries()
    quickstart(tyro.cli(QuickstartConfig, prog="quickstart"))
