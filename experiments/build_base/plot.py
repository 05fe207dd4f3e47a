"""Plots the log of a build: ``python -m experiments.build_base.plot OUT/log.jsonl docs/base.png``."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

KINDS = {"val_exist": "existence", "val_count": "counting", "val_color": "colour", "val_component": "object"}


def draw(log: Path, out: Path) -> None:
    """Draws three panels: accuracy on patches, losses of the question stage, accuracy by kind of question."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    patches, questions = ([r for r in lines if r["stage"] == stage] for stage in ("patches", "questions"))
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    line(axes[0], patches, "component", "training")
    line(axes[0], patches, "val_component", "validation")
    axes[0].set(title="Stage 1: accuracy of the component of patches", xlabel="step", ylim=(0, 1))
    line(axes[1], questions, "answers", "answer, nats")
    line(axes[1], questions, "attention", "cross-attention")
    axes[1].set(title="Stage 2: losses", xlabel="step", ylim=(0, None))
    for key, name in KINDS.items():
        line(axes[2], questions, key, name)
    axes[2].set(title="Stage 2: accuracy on validation videos", xlabel="step", ylim=(0, 1))
    for ax in axes:
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


def line(ax: Any, rows: list[dict[str, Any]], key: str, label: str) -> None:
    """Draws the points of one metric."""
    points = [(r["step"], r[key]) for r in rows if key in r]
    ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=label)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
