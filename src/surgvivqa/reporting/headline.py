"""The first lines of a report: what the figures say in words, and the figures beside those they have to beat."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa.evaluation.published import load_published, why_not_comparable
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.reporting.page import between, percent
from surgvivqa.reporting.sections import Verdict
from surgvivqa.reporting.trust import Mark

Ends = tuple[float, float]
METRIC_TITLES = {
    "acc": "Accuracy",
    "mAP": "Mean precision (mAP)",
    "mAR": "Mean recall (mAR)",
    "mAF1": "Mean F1 (mAF1)",
    "wF1": "Weighted F1",
}
# How the sentences begin that may lead a report.
_FIRST = (
    *("The model beats", "The model does not beat", "The model is above", "The model was shown"),
    "Whether the model beats",
)


@dataclass(frozen=True)
class Figure:
    """A figure with its interval.

    Attributes:
        title: what it is.
        value: the figure, as a fraction.
        ends: its 95% interval; None if there is none.
    """

    title: str
    value: float
    ends: Ends | None


@dataclass(frozen=True)
class HeadlineRow:
    """A row of the chart of headline figures.

    Attributes:
        title: what it is.
        note: a few words on it.
        accuracy: its accuracy; None where only other figures are known.
        ends: the 95% interval of the accuracy; None if there is none.
        macro_f1: its mAF1; None if it is not known.
        is_ours: whether it is the run that the page is about.
    """

    title: str
    note: str
    accuracy: float | None
    ends: Ends | None
    macro_f1: float | None
    is_ours: bool = False


def ends_of(content: Mapping[str, Any] | None, name: str) -> Ends | None:
    """The interval of one figure in ``intervals`` of ``metrics.json``; None if there is none."""
    ends = (content or {}).get(name)
    return None if not ends or None in ends else (float(ends[0]), float(ends[1]))


def figures_of(content: Mapping[str, Any]) -> list[Figure]:
    """The five metrics of all questions with their intervals."""
    return [Figure(title, content[name], ends_of(content["intervals"], name)) for name, title in METRIC_TITLES.items()]


def best_blind(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The baseline with the highest accuracy among those that do not see the frames; None if there is none."""
    rows = [row for row in content.get("baselines") or () if row["metrics"] is not None and not row["sees_frames"]]
    return max(rows, key=lambda row: row["metrics"]["acc"], default=None)


def lead(content: Mapping[str, Any]) -> Verdict:
    """The first sentence: whether the model is above what the questions alone give.

    It is the evaluation's own, if that has one about the baselines or about what the model was shown.
    """
    for verdict in stored_verdicts(content):
        if verdict.text.startswith(_FIRST):
            return verdict
    ours = f"{percent(content['acc'])}%"
    ends = ends_of(content["intervals"], "acc")
    videos = len(content["by_video"])
    interval = f" (95% interval over {videos} videos: {between(ends)}%)" if ends else ""
    answers = f"The model answers {ours} of {content['n']:,} questions right"
    best = best_blind(content)
    if best is None:
        return Verdict("unknown", f"{answers}{interval}; what the questions alone give was not measured.")
    other = f"{percent(best['metrics']['acc'])}%"
    if content["acc"] <= best["metrics"]["acc"]:
        text = (
            f"The model does not beat a baseline that never sees a frame: {ours} of {content['n']:,} questions right, "
        )
        return Verdict("warn", f"{text}against {other}.")
    difference = best["difference"]
    if difference is None or difference["low"] is None or difference["low"] <= 0:
        text = f"{answers}, a baseline that never sees a frame {other}: too few or too uneven videos to call it better."
        return Verdict("warn", text)
    return Verdict("pass", f"{answers}{interval}. The best baseline that never sees a frame reaches {other}.")


def stored_verdicts(content: Mapping[str, Any]) -> list[Verdict]:
    """The sentences that the evaluation itself wrote, marked by what they say."""
    return [Verdict(_mark_of(text), text) for text in content.get("verdicts") or ()]


def _mark_of(text: str) -> Mark:
    if text.startswith("The model beats"):
        return "pass"
    if text.startswith(("Whether", "How far")):
        return "unknown"
    starts = ("Below", "Also below", "The model was shown", "The figures may be", "All figures are about")
    is_bad = text.startswith(starts) or re.search(r"does not beat|do(es)? not show", text)
    return "warn" if is_bad else "plain"


def group_verdict(content: Mapping[str, Any], least: int = 30) -> Verdict | None:
    """The strongest and the weakest question type, of those with at least ``least`` questions."""
    types = {name: row for name, row in content["by_type"].items() if name in GROUPED and row["n"] >= least}
    if len(types) < 2:
        return None
    order = sorted(types, key=lambda name: types[name]["acc"])
    weak, strong = order[0], order[-1]

    def words(name: str) -> str:
        ends = ends_of(types[name].get("intervals"), "acc")
        return f"{name} questions ({percent(types[name]['acc'])}%{f', {between(ends)}' if ends else ''})"

    return Verdict("plain", f"Weakest on {words(weak)}, strongest on {words(strong)}.")


GROUPED = ("attribute", "object", "existence", "counting")  # the authors' groups of question types


def headline_rows(name: str, content: Mapping[str, Any], others: Sequence[HeadlineRow] = ()) -> list[HeadlineRow]:
    """The run's accuracy, its baselines', and ``others``."""
    ours = HeadlineRow(name, "", content["acc"], ends_of(content["intervals"], "acc"), content["mAF1"], is_ours=True)
    baselines = [
        HeadlineRow(
            row["title"][:1].upper() + row["title"][1:],
            "" if row["sees_frames"] else "never sees a frame",
            row["metrics"]["acc"],
            ends_of(row["metrics"].get("intervals"), "acc"),
            row["metrics"]["mAF1"],
        )
        for row in content.get("baselines") or ()
        if row["metrics"] is not None
    ]
    return [ours, *sorted([*baselines, *others], key=lambda row: -(row.accuracy or 0))]


def picture_rows(picture: Mapping[str, Any] | None) -> list[HeadlineRow]:
    """The same model without the questions' own frames."""
    if picture is None:
        return []
    overall = picture["overall"]
    note = f"on {overall['n']:,} of the questions"
    shown = (("Same model on frames of another video", "shuffled"), ("Same model on black frames", "black"))
    return [
        HeadlineRow(title, note, acc["value"], None if acc["low"] is None else (acc["low"], acc["high"]), None)
        for title, name in shown
        if overall[name] is not None
        for acc in [overall[name]["acc"]]
    ]


def published_rows(report: EvaluationReport) -> list[HeadlineRow]:
    """Published results that may be set beside the run; none if it was not asked the same questions."""
    if why_not_comparable(report) is not None:
        return []
    return [
        HeadlineRow(
            result.title,
            f"published {result.year}",
            result.figures["acc"] / 100,
            None,
            result.figures["mAF1"] / 100 if "mAF1" in result.figures else None,
        )
        for result in load_published()
        if result.comparable and "acc" in result.figures
    ]


def headline_notes(content: Mapping[str, Any]) -> list[str]:
    """What is missing beside the run, and why."""
    baselines = content.get("baselines")
    if not baselines:
        return ["No baselines are recorded. Evaluate again: surgvivqa eval fits them on the training split."]
    return list(dict.fromkeys(f"{row['title']}: {row['note']}." for row in baselines if row["note"]))
