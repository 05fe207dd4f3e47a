"""The first lines of a report: what the figures say in words, and the figures beside those they have to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgvivqa.reporting.page import between, percent
from surgvivqa.reporting.trust import Mark

Ends = tuple[float, float]
METRIC_TITLES = {
    "acc": "Accuracy",
    "mAP": "Mean precision (mAP)",
    "mAR": "Mean recall (mAR)",
    "mAF1": "Mean F1 (mAF1)",
    "wF1": "Weighted F1",
}
TYPE_TITLES = {"query_color": "colour", "query_type": "kind", "query_location": "location", "query_component": "object"}


@dataclass(frozen=True)
class Verdict:
    """A sentence about the figures.

    Attributes:
        mark: how it is marked.
        text: the sentence.
    """

    mark: Mark
    text: str


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


def lead_sentence(content: Mapping[str, Any]) -> str:
    """The accuracy with its interval, in words."""
    ends = ends_of(content["intervals"], "acc")
    videos = len(content["by_video"])
    interval = f" (95 % interval over {videos} videos: {between(ends)} %)" if ends else ""
    return f"The model answers {percent(content['acc'])} % of {content['n']:,} questions right{interval}."


def group_verdict(content: Mapping[str, Any], least: int = 30) -> Verdict | None:
    """The strongest and the weakest question type, of those with at least ``least`` questions."""
    types = {name: row for name, row in content["by_type"].items() if name in GROUPED and row["n"] >= least}
    if len(types) < 2:
        return None
    order = sorted(types, key=lambda name: types[name]["acc"])
    weak, strong = order[0], order[-1]

    def words(name: str) -> str:
        ends = ends_of(types[name].get("intervals"), "acc")
        return f"{name} questions ({percent(types[name]['acc'])} %{f', {between(ends)}' if ends else ''})"

    return Verdict("plain", f"Weakest on {words(weak)}, strongest on {words(strong)}.")


GROUPED = ("attribute", "object", "existence", "counting")  # the authors' groups of question types


def headline_rows(name: str, content: Mapping[str, Any], others: Sequence[HeadlineRow] = ()) -> list[HeadlineRow]:
    """The run's accuracy, its baselines', and ``others``."""
    ours = HeadlineRow(name, "", content["acc"], ends_of(content["intervals"], "acc"), content["mAF1"], is_ours=True)
    baselines = [
        HeadlineRow(
            row["title"],
            "",
            row["metrics"]["acc"],
            ends_of(row["metrics"].get("intervals"), "acc"),
            row["metrics"]["mAF1"],
        )
        for row in content.get("baselines") or ()
    ]
    return [ours, *sorted([*baselines, *others], key=lambda row: -(row.accuracy or 0))]
