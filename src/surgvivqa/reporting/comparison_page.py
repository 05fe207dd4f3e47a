"""The comparison of runs as one HTML page, with a gallery of the questions on which they disagree."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgvivqa.evaluation.paired import PairedDifference, match_predictions
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.comparison import OTHER_LINES, Changes, Comparison
from surgvivqa.reporting.comparison_document import (
    HOW_TO_READ,
    build_document,
    describe_difference,
    describe_tests,
)
from surgvivqa.reporting.gallery import Answer, Gallery, Item, Pictures
from surgvivqa.reporting.page import Entry, render_page
from surgvivqa.reporting.tables import Table

_SECTIONS = {
    "short": "In short",
    "differences": "Where it gains and loses",
    "metrics": "Metrics",
    "changes": "Changed answers",
    "gallery": "Questions on which they disagree",
    "settings": "Training flags that differ",
    "reading": "How to read this",
}


@dataclass(frozen=True)
class Row:
    """A row of the chart of differences.

    Attributes:
        name: the group of questions.
        n: number of questions.
        before: accuracy of the reference.
        after: accuracy of the run.
        found: the paired difference.
        begins: the kind of the groups that begin with this row; empty for the others.
    """

    name: str
    n: int
    before: float
    after: float
    found: PairedDifference
    begins: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis of differences, as fractions.

    Attributes:
        least: its left end, at most 0.
        most: its right end, at least 0.
        ticks: where it has lines, 0 among them.
    """

    least: float
    most: float
    ticks: Sequence[float]


@dataclass(frozen=True)
class Part:
    """A piece of the bar of changed answers: its CSS class, name and number of questions."""

    kind: str
    name: str
    count: int


@dataclass(frozen=True)
class PairView:
    """What the page shows of one run beside the reference.

    Attributes:
        name: name of the run.
        accuracy: its accuracy.
        verdict: the difference in a sentence or two.
        tests: the p values and what so many videos can show, in sentences.
        rows: the chart of differences.
        axis: the chart's axis.
        parts: the bar of changed answers.
        table: where the answers differ most; a sentence where they do not.
    """

    name: str
    accuracy: float
    verdict: str
    tests: str
    rows: Sequence[Row]
    axis: Axis
    parts: Sequence[Part]
    table: Table | str


def render_comparison(comparison: Comparison, image_root: Path | None, count: int) -> str:
    """Renders the page.

    Args:
        comparison: the comparison.
        image_root: the folder of the frames; None if it is not known.
        count: number of questions in the gallery.
    """
    tables = {
        block.name: block
        for section in build_document(comparison).sections
        for block in section.blocks
        if isinstance(block, Table)
    }
    pairs = [_view_pair(comparison, index, tables) for index in range(len(comparison.runs) - 1)]
    names = [run.name for run in comparison.runs]
    shown = [key for key in _SECTIONS if key != "settings" or comparison.settings]
    return render_page(
        "comparison.html",
        title=f"{names[1]} against {names[0]}" if len(names) == 2 else f"{len(names)} runs side by side",
        overline="Comparison, surgical visual question answering",
        byline=[
            f"{comparison.metrics[0].n:,} questions",
            f"{comparison.videos} video{'s' if comparison.videos != 1 else ''}",
            f"reference: {names[0]}",
        ],
        contents=[Entry(key, _SECTIONS[key]) for key in shown],
        sections=_SECTIONS,
        comparison=comparison,
        reference=names[0],
        pairs=pairs,
        tables=tables,
        how_to_read=HOW_TO_READ,
        gallery_view=build_gallery(comparison, image_root, count),
    )


def build_gallery(comparison: Comparison, image_root: Path | None, count: int) -> Gallery:
    """The gallery of questions that the runs answer differently, with all their answers.

    Args:
        comparison: the comparison.
        image_root: the folder of the frames; None if it is not known.
        count: number of questions.
    """
    names = [run.name for run in comparison.runs]
    chosen = choose_disagreements(align(comparison), names, count)
    pictures = Pictures(image_root)
    items = []
    for answers in chosen:
        first = answers[0]
        found = pictures.picture(first.video, first.frame, first.image)
        items.append(
            Item(
                video=first.video,
                frame=first.frame,
                question=first.question,
                answer=first.answer_label,
                answers=[
                    Answer(name, p.prediction_label, p.probability, p.top5 or ())
                    for name, p in zip(names, answers, strict=True)
                ],
                outcome=name_outcome(answers, names),
                type=first.type or "",
                picture=found[0] if found else None,
                width=found[1] if found else 0,
                height=found[2] if found else 0,
            )
        )
    if items:
        note = pictures.note((item.video, item.frame) for item in items)
    else:
        note = "All runs give the same answers." if count else "No question is shown, because --pictures is 0."
    return Gallery(items, order="kinds in turn, most confident mistakes first", note=note)


def align(comparison: Comparison) -> list[tuple[Prediction, ...]]:
    """The predictions of all runs for each question, the reference's first."""
    reference = comparison.reference.predictions
    columns = [[new for _, new in match_predictions(reference, run.predictions)] for run in comparison.runs[1:]]
    return list(zip(reference, *columns, strict=True))


def name_outcome(answers: Sequence[Prediction], names: Sequence[str]) -> str:
    """Which runs answer a question correctly, in words: the filter of the gallery."""
    right = [name for name, prediction in zip(names, answers, strict=True) if prediction.correct]
    if not right:
        return "all wrong" if len(names) > 2 else "both wrong"
    return f"only {right[0]} right" if len(right) == 1 else f"{' and '.join(right)} right"


def choose_disagreements(
    questions: Sequence[tuple[Prediction, ...]], names: Sequence[str], count: int
) -> list[tuple[Prediction, ...]]:
    """Chooses questions that the runs answer differently.

    It takes turns between the outcomes and question types, and of each takes the most confident mistake, of a frame
    that is not shown yet where there is one.

    Args:
        questions: the predictions of all runs for each question.
        names: the names of the runs.
        count: number of questions; fewer if there are fewer.
    """
    groups: dict[tuple[str, str], list[tuple[Prediction, ...]]] = defaultdict(list)
    for answers in questions:
        if len({p.prediction for p in answers}) > 1:
            groups[name_outcome(answers, names), answers[0].type or ""].append(answers)
    for group in groups.values():
        group.sort(key=lambda answers: -max(p.probability or 0.0 for p in answers if not p.correct))
    chosen, shown = list[tuple[Prediction, ...]](), set[Hashable]()
    while groups and len(chosen) < count:
        for key in sorted(groups):
            group = groups[key]
            place = next((i for i, a in enumerate(group) if (a[0].video, a[0].frame) not in shown), 0)
            chosen.append(group.pop(place))
            shown.add((chosen[-1][0].video, chosen[-1][0].frame))
            if not group:
                del groups[key]
    # Cut at the end, so that each turn is complete but the last.
    return chosen[:count]


def _view_pair(comparison: Comparison, index: int, tables: dict[str, Table]) -> PairView:
    run, accuracy = comparison.runs[index + 1], comparison.differences[index]["acc"]
    rows = [Row("all", comparison.metrics[0].n, comparison.metrics[0].acc, comparison.metrics[index + 1].acc, accuracy)]
    for kind, title in (("reasoning", "by reasoning"), ("type", "by question type")):
        begins = title
        for group in comparison.groups[kind]:  # type: ignore[index]
            if kind == "type" and group.name == OTHER_LINES:
                continue
            before, after = group.metrics[0].acc, group.metrics[index + 1].acc
            rows.append(Row(group.name, group.metrics[0].n, before, after, group.differences[index], begins))
            begins = ""
    name = f"disagreement-{index + 1}"
    return PairView(
        name=run.name,
        accuracy=comparison.metrics[index + 1].acc,
        verdict=describe_difference(accuracy),
        tests=describe_tests(accuracy),
        rows=rows,
        axis=choose_axis([row.found for row in rows]),
        parts=_parts(comparison.changes[index], run.name, comparison.reference.name),
        table=tables.get(name, f"{run.name} and {comparison.reference.name} give the same answers to all questions."),
    )


def choose_axis(differences: Sequence[PairedDifference]) -> Axis:
    """An axis with 0 and three to six other ticks that holds all differences, and their intervals where they fit.

    An interval over two or three videos can be very wide; one of more than three times the largest difference is cut.
    """
    most_shown = 3 * max(0.05 / 3, *(abs(found.difference) for found in differences))
    ends = [0.0]
    for found in differences:
        ends += [end for end in (found.difference, found.low, found.high) if end is not None]
    least, most = max(-most_shown, min(ends)), min(most_shown, max(ends))
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if (most - least) / step <= 5 or step == 0.5)
    first, last = math.floor(least / step), math.ceil(most / step)
    if first == last:  # no difference at all
        first, last = -1, 1
    ticks = [round(step * index, 2) for index in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def _parts(changes: Changes, run: str, reference: str) -> list[Part]:
    parts = [
        Part("both", "both right", changes.both_right),
        Part("gained", f"only {run} right", changes.wrong_to_right),
        Part("lost", f"only {reference} right", changes.right_to_wrong),
        Part("other", "both wrong, other answers", changes.other_mistake),
        Part("same", "both wrong, same answer", changes.same_mistake),
    ]
    return [part for part in parts if part.count]
