"""The confusion matrix and the figures of each label, as a page shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgvivqa.data.labels import LabelSet
from surgvivqa.evaluation.confusion import confusion_matrix
from surgvivqa.evaluation.predictions import Prediction, label_set_of
from surgvivqa.reporting.label_groups import group_of, group_order

Ends = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix that holds questions.

    Attributes:
        row: place of the true label.
        column: place of the predicted label.
        n: number of questions.
        share: share of the true label's questions.
        opacity: how strongly it is drawn, from 0 to 1.
    """

    row: int
    column: int
    n: int
    share: float
    opacity: float


@dataclass(frozen=True)
class LabelRow:
    """The figures of one label.

    Attributes:
        label: the label.
        group: its group.
        n: number of questions whose true label it is.
        predicted: number of questions that were answered with it.
        precision: share of its predictions that are right; None if it is never predicted.
        recall: share of its questions that are answered right; None without questions.
        f1: F1; None if it is neither.
        f1_ends: the 95% interval of F1; None where there is none.
    """

    label: str
    group: str
    n: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    f1_ends: Ends | None


@dataclass(frozen=True)
class Pair:
    """Two labels that are confused.

    Attributes:
        truth: the true label.
        prediction: the label that was predicted in its place.
        n: number of questions.
        share: share of the true label's questions.
    """

    truth: str
    prediction: str
    n: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of the labels that occur, in the order of their groups.

    Attributes:
        labels: the figures of each label, in this order.
        cells: the cells that hold questions.
        groups: name, first place and number of labels of each group.
        orders: for each other way to sort the labels, the place of each label.
        pairs: the most confused pairs, by falling number.
    """

    labels: Sequence[LabelRow]
    cells: Sequence[Cell]
    groups: Sequence[tuple[str, int, int]]
    orders: Mapping[str, Sequence[int]]
    pairs: Sequence[Pair]


def build_confusion(
    predictions: Sequence[Prediction], by_label: Mapping[str, Any] | None = None, most_pairs: int = 12
) -> Confusion:
    """Counts the confusion matrix of predictions.

    Args:
        predictions: all predictions.
        by_label: ``by_label`` of ``metrics.json``, for the intervals; None if it has none.
        most_pairs: number of pairs to list.
    """
    counts = confusion_matrix([p.answer for p in predictions], [p.prediction for p in predictions])
    label_set = label_set_of(predictions)
    support, predicted = counts.sum(1), counts.sum(0)
    shown = sorted((int(i) for i in np.flatnonzero(support + predicted)), key=lambda i: group_order(i, label_set))
    rows = [_label_row(i, counts, by_label or {}, label_set) for i in shown]
    place = {index: at for at, index in enumerate(shown)}
    cells = [
        Cell(place[i], place[j], n, n / support[i], round(max(0.06, (n / support[i]) ** 0.6), 2))
        for i in shown
        for j in shown
        if (n := int(counts[i, j]))
    ]
    pairs = [
        Pair(rows[cell.row].label, rows[cell.column].label, cell.n, cell.share)
        for cell in cells
        if cell.row != cell.column
    ]
    return Confusion(
        rows,
        cells,
        _groups(rows),
        {
            "frequency": _places(sorted(range(len(rows)), key=lambda at: -rows[at].n)),
            "alphabet": _places(sorted(range(len(rows)), key=lambda at: rows[at].label.lower())),
        },
        sorted(pairs, key=lambda pair: (-pair.n, -pair.share))[:most_pairs],
    )


def _label_row(index: int, counts: Any, by_label: Mapping[str, Any], label_set: LabelSet) -> LabelRow:
    hits, n, predicted = int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum())
    label = label_set.labels[index]
    ends = (by_label.get(label) or {}).get("intervals")
    return LabelRow(
        label,
        group_of(label, label_set),
        n,
        predicted,
        hits / predicted if predicted else None,
        hits / n if n else None,
        2 * hits / (n + predicted) if n + predicted else None,
        tuple(ends["f1"]) if ends else None,
    )


def _groups(rows: Sequence[LabelRow]) -> list[tuple[str, int, int]]:
    groups: list[tuple[str, int, int]] = []
    for at, row in enumerate(rows):
        if groups and groups[-1][0] == row.group:
            name, first, size = groups[-1]
            groups[-1] = (name, first, size + 1)
        else:
            groups.append((row.group, at, 1))
    return groups


def _places(order: Sequence[int]) -> list[int]:
    """The place of each label, from the labels in their order."""
    places = [0] * len(order)
    for place, at in enumerate(order):
        places[at] = place
    return places
