"""Table and plot of how the project's times grow."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the best-fitting power law (least squares on logarithms)."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def describe_growth(exponent: float) -> str:
    """An exponent in words."""
    if exponent < 0.15:
        return "nearly constant"
    if exponent < 0.85:
        return "sublinear"
    return "linear" if exponent <= 1.15 else "superlinear"


AXES = {
    "scale_questions": ("questions per frame", "seconds per training step", "Training step"),
    "scale_labels": ("labels", "seconds per question", "Scoring, video tokens cached"),
    "scale_frames": ("frames in the cache", "seconds", "Feature cache"),
}


def scaling_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """A Markdown table: first and last value of each curve, slopes over all points and over the upper half."""
    lines = [
        "| measure | from | to | slope | slope, upper half | growth (upper half) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        x, (unit, of, title) = result["x"], AXES[name]
        for line, y in result["lines"].items():
            upper = len(x) // 2
            whole, late = slope(x, y), slope(x[upper:], y[upper:])
            lines.append(
                f"| {title}, {line}: {of} | {y[0]:.3g} at {x[0]:,} | {y[-1]:.3g} at {x[-1]:,} {unit} | {whole:.2f} | "
                f"{late:.2f} | {describe_growth(late)} |"
            )
    return lines


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws one panel per measurement, both axes logarithmic.

    Raises:
        ImportError: matplotlib is not installed (the extra ``[bench]``).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, panels = plt.subplots(1, len(results), figsize=(4.8 * len(results), 4.2), squeeze=False)
    for panel, (name, result) in zip(panels[0], results.items(), strict=True):
        unit, of, title = AXES[name]
        x = result["x"]
        for line, y in result["lines"].items():
            panel.plot(x, y, marker="o", label=f"{line} (slope {slope(x, y):.2f})")
        panel.set(xscale="log", yscale="log", xlabel=unit, ylabel=of, title=title)
        panel.set_xticks(x, [f"{v:,}" for v in x])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        low, high = panel.get_ylim()
        if high < 10 * low:  # keep a flat line flat
            middle = math.sqrt(low * high)
            panel.set_ylim(middle / 5, middle * 5)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
