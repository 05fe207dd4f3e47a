"""The confusion matrix and the figures of each label."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from surgvivqa.data.labels import LABEL_INDEX, LABELS
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.confusion import build_confusion
from surgvivqa.reporting.label_groups import GROUP_OF, LABEL_GROUPS


def predictions(pairs: list[tuple[int, int]]) -> list[Prediction]:
    return [Prediction("VID02", 1, "?", truth, prediction) for truth, prediction in pairs]


def test_every_label_is_in_one_group() -> None:
    grouped = [label for labels in LABEL_GROUPS.values() for label in labels]
    assert sorted(grouped) == sorted(LABELS) and set(GROUP_OF) == set(LABELS)


def test_cells_and_figures_equal_scikit_learns() -> None:
    pairs = [tuple(pair) for pair in np.random.default_rng(0).integers(0, 12, (400, 2)).tolist()]
    view = build_confusion(predictions(pairs))
    names = [row.label for row in view.labels]
    truth, predicted = ([LABELS[pair[side]] for pair in pairs] for side in (0, 1))
    counts = np.zeros((len(names), len(names)), int)
    for cell in view.cells:
        counts[cell.row, cell.column] = cell.n
    assert (counts == confusion_matrix(truth, predicted, labels=names)).all()
    expected = precision_recall_fscore_support(truth, predicted, labels=names)
    for row, precision, recall, f1, n in zip(view.labels, *expected, strict=True):
        assert (row.precision, row.recall, row.f1, row.n) == pytest.approx((precision, recall, f1, n))


def test_only_labels_that_occur_are_shown_grouped() -> None:
    view = build_confusion(
        predictions([(LABEL_INDEX["red"], LABEL_INDEX["hook"]), (LABEL_INDEX["3"], LABEL_INDEX["10"])])
    )
    assert [row.label for row in view.labels] == ["3", "10", "hook", "red"]
    assert view.groups == [("count", 0, 2), ("tool", 2, 1), ("colour", 3, 1)]


def test_the_other_orders_are_places_of_the_labels() -> None:
    red, hook = LABEL_INDEX["red"], LABEL_INDEX["hook"]
    view = build_confusion(predictions([(red, red), (red, hook), (hook, hook), (red, red)]))
    assert [row.label for row in view.labels] == ["hook", "red"]
    assert view.orders == {"frequency": [1, 0], "alphabet": [0, 1]}


def test_the_most_confused_pairs_come_first() -> None:
    red, hook, blue = (LABEL_INDEX[name] for name in ("red", "hook", "blue"))
    view = build_confusion(predictions([(red, blue), (hook, red), (hook, red), (hook, hook)]))
    assert [(pair.truth, pair.prediction, pair.n) for pair in view.pairs] == [("hook", "red", 2), ("red", "blue", 1)]
    assert view.pairs[0].share == pytest.approx(2 / 3)


def test_a_label_that_is_never_predicted_has_no_precision() -> None:
    view = build_confusion(predictions([(LABEL_INDEX["red"], LABEL_INDEX["hook"])]))
    figures = {row.label: (row.precision, row.recall, row.f1) for row in view.labels}
    assert figures == {"red": (None, 0, 0), "hook": (0, None, 0)}


def test_the_intervals_are_those_of_the_evaluation() -> None:
    by_label = {"red": {"intervals": {"f1": [0.2, 0.6]}}, "hook": {"intervals": None}}
    view = build_confusion(predictions([(LABEL_INDEX["red"], LABEL_INDEX["hook"])]), by_label)
    assert {row.label: row.f1_ends for row in view.labels} == {"red": (0.2, 0.6), "hook": None}
