"""The reporting checklist: all items of both guidelines, filled with what the run says and nothing else."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.data.frames import BadFrame
from surgvivqa.evaluation.environment import Environment
from surgvivqa.evaluation.intervals import Intervals
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.reporting.checklist import TO_FILL, ChecklistItem, build_checklist, format_checklist
from surgvivqa.reporting.results import RunResults, read_results
from tests.helpers.evaluations import write_evaluation

DETECTORS = "labels made by detectors, not by people"


def evaluated(tmp_path: Path, flags: Any = None, log: Any = (), **report: Any) -> RunResults:
    write_evaluation(tmp_path / "eval", checkpoint="/home/me/run")
    results = read_results(tmp_path / "eval")
    changed = dataclasses.replace(results.report, **report)
    return dataclasses.replace(results, report=changed, flags=flags or {}, log=log)


def item(results: RunResults, heading: str) -> ChecklistItem:
    return next(item for item in build_checklist(results) if item.heading == heading)


def answer(results: RunResults, heading: str) -> str:
    return item(results, heading).answer or TO_FILL


def test_every_item_of_both_guidelines_is_there(tmp_path: Path) -> None:
    """CLAIM's 2024 update has 44 items, TRIPOD+AI 27."""
    items = build_checklist(evaluated(tmp_path))
    assert [int(i.claim) for i in items if i.claim] == list(range(1, 45))
    tripod = {int(number) for i in items for number in re.findall(r"\d+", i.tripod)}
    assert tripod == set(range(1, 28))
    assert len({i.heading for i in items}) == len(items)


@pytest.mark.parametrize(("synthetic", "expected"), [(False, True), (None, True), (True, False)])
def test_detector_made_labels_are_said_where_ssg_qa_is_used(
    tmp_path: Path, synthetic: bool | None, expected: bool
) -> None:
    results = evaluated(tmp_path, synthetic=synthetic)
    for heading in ("Reason", "Source", "Test annotations", "Variability"):
        assert (DETECTORS in answer(results, heading)) == expected
    assert (DETECTORS.capitalize() in answer(results, "Limitations")) == expected
    assert ("not recorded" in answer(results, "Source")) == (synthetic is None)


def test_figures_come_from_the_report(tmp_path: Path) -> None:
    ends = dict.fromkeys(METRICS, (0.4, 0.6))
    results = evaluated(tmp_path, intervals=Intervals(ends, 2, "a method"))
    assert "acc 50.0% (40.0 to 60.0)" in answer(results, "Performance")
    assert "a method, 2 videos" in answer(results, "Uncertainty")
    assert "1 of 2 answers are wrong" in answer(results, "Failures")
    assert "counting (0.0%)" in answer(results, "Failures")


def test_the_environment_and_the_flags_are_quoted(tmp_path: Path) -> None:
    environment = Environment({"torch": "2.13"}, "H100", "bfloat16", 4, 1.0, "2026")
    flags = {"lr": 0.002, "max_steps": 1200, "epochs": 1, "seed": 0, "full_finetune": False, "best_metric": "acc"}
    log = [{"step": 1, "val_acc": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "val_acc": 0.6}]
    results = evaluated(tmp_path, flags, log, environment=environment)
    assert answer(results, "Software") == "torch 2.13; evaluated on H100, 4 processes in bfloat16."
    assert answer(results, "Training") == "AdamW; lr 0.002, max_steps 1200, seed 0."
    assert "best acc in 2 validations" in answer(results, "Selection")


def test_what_a_run_does_not_know_is_left_to_the_authors(tmp_path: Path) -> None:
    items = build_checklist(evaluated(tmp_path))
    for heading in ("Title", "Funding", "Registration", "Software", "Training", "Selection", "Initialisation"):
        assert not next(i for i in items if i.heading == heading).is_filled


def test_what_was_not_evaluated_is_said(tmp_path: Path) -> None:
    results = evaluated(tmp_path)
    for heading in ("Robustness", "Explanation", "Calibration"):
        assert answer(results, heading) == "Not evaluated."
    assert answer(results, "Baselines").startswith("Not evaluated")


def test_frames_left_out_are_counted(tmp_path: Path) -> None:
    results = evaluated(
        tmp_path, skipped_frames=[BadFrame("VID02", 3, "damaged")], skipped={"summary": 4, "no_pipe": 0}
    )
    assert "1 frames that cannot be used" in answer(results, "Missing data")
    assert "Lines left out: summary 4; frames left out: 1." in answer(results, "Inclusion")


def test_the_leaking_mask_is_a_limitation(tmp_path: Path) -> None:
    results = evaluated(tmp_path, mask="bidirectional")
    assert "leaks" in answer(results, "Limitations") and "leaks" in answer(results, "Model")


def test_markdown_has_a_row_for_every_item_and_no_local_path(tmp_path: Path) -> None:
    results = evaluated(tmp_path, {"pretrained_ckpt": "/home/me/old.pth", "seed": 1})
    items = build_checklist(results)
    text = format_checklist(items, results)
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| CLAIM", "| ---"))]
    assert len(rows) == len(items)
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert f"{sum(i.is_filled for i in items)} of {len(items)} items are filled" in text
    assert text.count(f"*{TO_FILL}*") == sum(not i.is_filled for i in items)
    assert "/home/me" not in text and "old.pth" in text
