"""The figures of a model card, and when they may stand beside SSG-VQA-Net's published ones."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from surgvivqa.checkpoints.public_settings import last_name
from surgvivqa.config import ModelConfig
from surgvivqa.data.splits import TEST_VIDEOS
from surgvivqa.evaluation.metrics import METRICS

# SSG-VQA-Net on the test split, in %: its released weights run again by a third party, and the F1 its README prints.
PUBLISHED = {"acc": 60.8, "mAP": 55.0, "mAR": 49.2, "mAF1": 50.4, "wF1": 60.4}
PUBLISHED_F1 = {
    "object": 49.4,
    "attribute": 60.0,
    "existence": 75.8,
    "counting": 28.6,
    "zero_hop": 58.2,
    "one_hop": 52.4,
    "single_and": 38.4,
}
# The five videos hold about a tenth of SSG-QA's 960,000 questions; a synthetic or partial copy under the same names
# holds far fewer.
_LEAST_QUESTIONS = 50_000


def figures_section(settings: ModelConfig, metrics: Mapping[str, Any]) -> str:
    """The card's metrics: overall with intervals, by type and by reasoning.

    SSG-VQA-Net's stand beside them where both answer the same questions.

    Args:
        settings: the model's settings.
        metrics: the content of ``metrics.json``; empty for a model that was not evaluated.
    """
    lines = ["## Figures", ""]
    if not any(key in metrics for key in METRICS):
        return "\n".join([*lines, "Not evaluated."])
    intervals = metrics.get("intervals") or {}
    apart = why_apart(metrics)
    where = {
        "test": "the test videos",
        "val": "the validation videos, by which the checkpoint was picked: the test figure is usually lower",
        "train": "videos that it was **trained on**: no measure of how well it answers",
    }.get(str(metrics.get("split")), "videos of a split that is not recorded")
    drawn = " These are drawn scenes; the figures say nothing about real surgery." if metrics.get("synthetic") else ""
    lines += [f"In %, on {metrics.get('n', 0):,} questions about {where}.{drawn}{_scored(settings, metrics)}", ""]
    lines += _table(
        ("figure", "this model", "95% interval", *(() if apart else ("SSG-VQA-Net, run again",))),
        [
            (key, _percent(metrics.get(key)), _interval(intervals.get(key)), *(() if apart else (str(PUBLISHED[key]),)))
            for key in METRICS
        ],
    )
    lines += ["", _interval_note(intervals), ""]
    rows = []
    for group in ("by_type", "by_reasoning"):
        for name, row in (metrics.get(group) or {}).items():
            if name in PUBLISHED_F1:
                printed = () if apart else (str(PUBLISHED_F1[name]),)
                rows.append((name, f"{row['n']:,}", *(_percent(row.get(key)) for key in METRICS), *printed))
    if rows:
        lines += _table(("questions", "n", *METRICS, *(() if apart else ("SSG-VQA-Net, F1 as printed",))), rows)
        lines.append("")
    lines.append(
        "Means run over the classes that occur in the truth (SSG-VQA-Net's definition); wF1 weights by support."
    )
    if apart:
        lines.append(f"No published figure is set beside these: {apart}.")
    else:
        lines.append(
            "SSG-VQA-Net's figures are those of its released weights, run again by a third party; its README prints "
            "the F1 by type and reasoning without saying how classes are averaged."
        )
    return "\n".join(lines)


def why_apart(metrics: Mapping[str, Any]) -> str | None:
    """Why the figures cannot stand beside those of the standard test split, or None where they can."""
    if metrics.get("synthetic") is not False:
        return "the questions are not known to be SSG-QA's own"
    if metrics.get("split") != "test" or set(metrics.get("by_video") or ()) != TEST_VIDEOS:
        return "the videos are not the five test videos of the standard split"
    if metrics.get("max_samples", 0) is not None or metrics.get("n", 0) < _LEAST_QUESTIONS:
        return "not all questions of the test split were scored"
    if metrics.get("skipped_frames"):
        return "questions about frames that cannot be used were left out"
    return None


def _scored(settings: ModelConfig, metrics: Mapping[str, Any]) -> str:
    """How answers were scored, where it is not the model's own way."""
    others = [
        f"`--{flag.replace('_', '-')} {cell(metrics[flag])}`"
        for flag, own in (("mask", settings.mask), ("prompt_mode", settings.prompt_mode), ("score_norm", "sum"))
        if metrics.get(flag, own) != own
    ]
    return f" Scored with {', '.join(others)}, not with the model's own settings." if others else ""


def _interval_note(intervals: Mapping[str, Any]) -> str:
    if not intervals:
        return "There are no intervals: they need at least two videos, and an evaluation that computed them."
    few = " With so few videos they are coarse, and narrower than 95% asks for." if intervals["videos"] < 20 else ""
    method = re.sub(r"[^\w .,+()%-]", "", str(intervals["method"]))[:100]
    return f"Intervals: {method}, {intervals['videos']} videos, {intervals['resamples']:,} resamples.{few}"


def cell(value: Any) -> str:
    """A value as text in a table: of what looks like a path its last name, and nothing that Markdown would read."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return re.sub(r"[^\w .,+=:()%-]", "", last_name(str(value)[:1000]))[:60]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _percent(value: Any) -> str:
    return "not evaluated" if value is None else f"{100 * value:.1f}"


def _interval(ends: Any) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "none"
