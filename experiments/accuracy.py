"""Accuracy of a predictions.jsonl by kind of question."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surgvivqa.data.vocabulary import HEIGHT, WIDTH

VERBS = ("aspirate", "clip", "coagulate", "cut", "dissect", "grasp", "irrigate", "pack", "retract")


def names_cropped_object(record: dict[str, Any], graphs: Path) -> bool:
    """Whether a question or its answer names an object that a square centre crop removes.

    The centres of all objects of that name lie outside the square.
    """
    path = graphs / f"{record['video']}_{record['frame']}.json"
    if not path.is_file():
        return False
    said = f"{record['question']} {record['answer']}".replace("_", " ")
    centres: dict[str, list[float]] = {}
    for item in json.loads(path.read_text(encoding="utf-8"))["scenes"][0]["objects"]:
        centres.setdefault(item["component"].replace("_", " "), []).append(item["center"][0])
    return any(
        re.search(rf"\b{name}\b", said) and all(abs(x - WIDTH / 2) > HEIGHT / 2 for x in places)
        for name, places in centres.items()
    )


def accuracy_by_kind(predictions: Path, graphs: Path | None) -> dict[str, float]:
    """Accuracy in per cent: overall, by type, on verbs, and on objects at the sides; NaN without questions."""
    records = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    kinds: dict[str, Callable[[dict[str, Any]], bool]] = {
        "all": lambda r: True,
        "existence": lambda r: r["type"] == "exist",
        "counting": lambda r: r["type"] == "count",
        "colour": lambda r: r["type"] == "query_color",
        "object": lambda r: r["type"] == "query_component",
        "verb": lambda r: r["type"] is None and r["answer"] in VERBS,
        "sides": lambda r: "-left" in r["question"] or "-right" in r["question"],
        "edge": lambda r: graphs is not None and names_cropped_object(r, graphs),
    }
    figures = {}
    for name, of in kinds.items():
        hits = [r["answer"].lower() == r["prediction"].lower() for r in records if of(r)]
        figures[name] = 100 * sum(hits) / len(hits) if hits else float("nan")
    return figures
