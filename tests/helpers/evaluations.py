"""Evaluations on disk, for tests of what reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgvivqa.evaluation.predictions import Prediction
from tests.helpers.reports import report_of

PREDICTIONS = [
    Prediction("VID02", 1, "Are there any tools?", 12, 12, 0.9, 0.1, [("True", 0.9)], "zero_hop", "exist"),
    Prediction("VID22", 4, "How many tools are there?", 1, 3, 0.5, 2.0, [("2", 0.5)], "zero_hop", "count"),
]


def answer_questions(hits_by_video: dict[str, str]) -> list[Prediction]:
    """A prediction for each character: 1 is the true label (12, True), 0 is the wrong one (11, False)."""
    return [
        Prediction(video, frame, "Are there any tools?", 12, 12 if hit == "1" else 11)
        for video, hits in hits_by_video.items()
        for frame, hit in enumerate(hits)
    ]


def write_evaluation(
    folder: Path, predictions: Sequence[Prediction] = PREDICTIONS, checkpoint: str = "run", **sections: Any
) -> None:
    """Writes ``metrics.json`` and ``predictions.jsonl``; ``sections`` are further fields of the report."""
    settings = {"intervals": None, "bootstrap": None, "loss": 1.0, "synthetic": True, "checkpoint": checkpoint}
    report = report_of(predictions, **(settings | sections))
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(report.to_json()))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in predictions))
