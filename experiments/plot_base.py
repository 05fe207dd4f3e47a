"""Draws the log of ``surgvivqa build-base``: python experiments/plot_base.py OUT/log.jsonl docs/base.png"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

KINDS = {"val_exist": "existence", "val_count": "counting", "val_color": "colour", "val_component": "object"}


def draw(log: Path, out: Path) -> None:
    """Three panels: the lesson's accuracy on patches, the losses of the questions, accuracy by kind of question."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    lesson, questions = ([r for r in lines if r["stage"] == stage] for stage in ("lesson", "questions"))
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    line(axes[0], lesson, "component", "in training")
    line(axes[0], lesson, "val_component", "new videos")
    axes[0].set(title="Lesson: patches whose component is named right", xlabel="step", ylim=(0, 1))
    line(axes[1], questions, "answers", "answer, nats")
    line(axes[1], questions, "gaze", "attention's distance from what is meant")
    axes[1].set(title="Questions: losses", xlabel="step", ylim=(0, None))
    for key, name in KINDS.items():
        line(axes[2], questions, key, name)
    axes[2].set(title="Questions on new videos: answers right", xlabel="step", ylim=(0, 1))
    for ax in axes:
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


def line(ax: Any, rows: list[dict[str, Any]], key: str, label: str) -> None:
    """One curve, where the log has it."""
    points = [(r["step"], r[key]) for r in rows if key in r]
    ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=label)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
