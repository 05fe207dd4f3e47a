"""The metrics section of a model card. SSG-VQA-Net's published metrics are shown where they can be compared."""

import re
from collections.abc import Sequence
from typing import Any

from surgvivqa.checkpoints.public_settings import last_name
from surgvivqa.config import ModelConfig
from surgvivqa.evaluation.intervals import Intervals
from surgvivqa.evaluation.metrics import METRICS, Metrics
from surgvivqa.evaluation.published import find_published, why_not_comparable
from surgvivqa.evaluation.report import EvaluationReport


def figures_section(settings: ModelConfig, report: EvaluationReport | None) -> str:
    """The card's metrics: overall with intervals, by type and by reasoning.

    SSG-VQA-Net's are shown in the same table if both answer the same questions.

    Args:
        settings: the model's settings.
        report: the evaluation; None for a model that was not evaluated.
    """
    if report is None:
        return "## Figures\n\nNot evaluated."
    reason = why_not_comparable(report)
    comparable = reason is None
    lines = ["## Figures", "", _what_was_scored(settings, report), ""]
    lines += [*_overall_table(report, comparable), "", _interval_note(report.intervals), ""]
    if table := _group_table(report, comparable):
        lines += [*table, ""]
    lines.append(
        "Means run over the classes that occur in the truth (SSG-VQA-Net's definition); wF1 weights by support."
    )
    if comparable:
        lines.append(
            "SSG-VQA-Net's figures are those of its released weights, run again by a third party, whose author also "
            "wrote the recipe that surgvivqa's commands follow; its README prints the F1 by type and reasoning "
            "without saying how classes are averaged."
        )
    else:
        lines.append(f"No published figure is set beside these: {reason}.")
    return "\n".join(lines)


def _what_was_scored(settings: ModelConfig, report: EvaluationReport) -> str:
    videos = {
        "test": "the test videos",
        "val": "the validation videos, by which the checkpoint was picked: the test figure is usually lower",
        "train": "videos that it was **trained on**: no measure of how well it answers",
    }.get(report.split, "videos of a split that is not recorded")
    drawn = " These are drawn scenes; the figures say nothing about real surgery." if report.synthetic else ""
    shown = {
        "black": " The model was shown **black frames**: the figures say what the questions alone give.",
        "shuffled": " The model was shown **frames of other videos**, not those that the questions are about.",
    }.get(report.frames, "")
    changed = [
        f"`--{flag.replace('_', '-')} {cell(value)}`"
        for flag, value, usual in (
            ("mask", report.mask, settings.mask),
            ("prompt_mode", report.prompt_mode, settings.prompt_mode),
            ("score_norm", report.score_norm, "sum"),
        )
        if value != usual
    ]
    scored = f" Scored with {', '.join(changed)}, not with the model's own settings." if changed else ""
    return f"In %, on {report.metrics.overall.n:,} questions about {videos}.{shown}{drawn}{scored}"


def _overall_table(report: EvaluationReport, comparable: bool) -> list[str]:
    rows, rerun = [], find_published("SSG-VQA-Net rerun").figures
    for name in METRICS:
        ends = report.intervals.ends[name] if report.intervals else None
        interval = f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "none"
        published = (f"{rerun[name]:.1f}",) if comparable else ()
        rows.append((name, _percent(report.metrics.overall, name), interval, *published))
    head = ("figure", "this model", "95% interval", *(("SSG-VQA-Net, run again",) if comparable else ()))
    return _table(head, rows)


def _group_table(report: EvaluationReport, comparable: bool) -> list[str]:
    rows, printed = [], find_published("SSG-VQA-Net").groups
    for name, group in {**report.metrics.by_type, **report.metrics.by_reasoning}.items():
        if name in printed:
            published = (f"{printed[name]:.1f}",) if comparable else ()
            rows.append((name, f"{group.n:,}", *(_percent(group, metric) for metric in METRICS), *published))
    head = ("questions", "n", *METRICS, *(("SSG-VQA-Net, F1 as printed",) if comparable else ()))
    return _table(head, rows) if rows else []


def _interval_note(intervals: Intervals | None) -> str:
    if intervals is None:
        return "There are no intervals: they need at least two videos, and an evaluation that computed them."
    drawn = "" if intervals.resamples is None else f", {intervals.resamples:,} resamples"
    # The bootstrap's intervals, of earlier versions, are narrower than 95% asks for.
    few = " With so few videos they are too narrow." if drawn and intervals.videos < 20 else ""
    return f"Intervals: {intervals.method}, {intervals.videos} videos{drawn}.{few}"


def cell(value: Any) -> str:
    """A value as the text of a table cell: of a path its last name, without characters that Markdown interprets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return re.sub(r"[^\w .,+=:()%-]", "", last_name(str(value)[:1000]))[:60]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _percent(metrics: Metrics, name: str) -> str:
    return f"{100 * getattr(metrics, name):.1f}"
