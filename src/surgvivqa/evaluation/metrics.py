"""Figures from predictions, by SSG-VQA-Net's definition: macro averages over the classes that occur in the truth."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from surgvivqa.data.labels import LABEL_INDEX, parse_label

# The authors' breakdown of template questions by type.
TYPE_GROUPS = {
    "query_color": "attribute",
    "query_type": "attribute",
    "query_location": "attribute",
    "query_component": "object",
    "exist": "existence",
    "count": "counting",
}


def compute_metrics(truth: Sequence[int], prediction: Sequence[int]) -> dict[str, float]:
    """``n``, ``acc``, ``mAP`` (mean precision), ``mAR`` (mean recall), ``mAF1`` and ``wF1``, as fractions.

    Means run over the classes that occur in ``truth``, not over all 51; a class never predicted has precision 0.
    ``wF1`` weights by support.
    """
    if len(truth) == 0:
        return {"n": 0, "acc": 0.0, "mAP": 0.0, "mAR": 0.0, "mAF1": 0.0, "wF1": 0.0}
    present = sorted(set(truth))
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, prediction, labels=present, average="macro", zero_division=0
    )
    weighted = f1_score(truth, prediction, labels=present, average="weighted", zero_division=0)
    return {
        "n": len(truth),
        "acc": float(accuracy_score(truth, prediction)),
        "mAP": float(precision),
        "mAR": float(recall),
        "mAF1": float(f1),
        "wF1": float(weighted),
    }


def accuracy_error(records: Sequence[dict[str, Any]]) -> float:
    """Standard error of accuracy over videos: deviation of the videos' accuracies by the root of their number."""
    by_video: dict[str, list[bool]] = {}
    for record in records:
        by_video.setdefault(record["video"], []).append(_label(record["answer"]) == LABEL_INDEX[record["prediction"]])
    means = [float(np.mean(hits)) for hits in by_video.values()]
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0


def grouped_metrics(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures over all records, and ``by_reasoning``, ``by_type`` (the authors' groups and the raw types, of lines
    that have a reasoning) and ``by_video``; ``acc_se`` is the standard error over videos.
    """
    templates = [r for r in records if r["reasoning"]]
    return {
        **_figures(records),
        "acc_se": accuracy_error(records),
        "by_reasoning": _by(templates, lambda r: r["reasoning"]),
        "by_type": _by(templates, lambda r: r["type"]) | _by(templates, lambda r: TYPE_GROUPS.get(r["type"])),
        "by_video": _by(records, lambda r: r["video"]),
    }


def mean_label_loss(records: Sequence[dict[str, Any]]) -> float:
    """Mean negative log-likelihood of the true label's tokens in nats."""
    return float(np.mean([r["loss"] for r in records])) if records else 0.0


def _label(answer: str) -> int:
    label = parse_label(answer)
    assert label is not None
    return label


def _figures(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    return compute_metrics([_label(r["answer"]) for r in records], [LABEL_INDEX[r["prediction"]] for r in records])


def _by(records: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], str | None]) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        name = key(record)
        if name is not None:
            groups.setdefault(name, []).append(record)
    return {name: _figures(groups[name]) for name in sorted(groups)}
