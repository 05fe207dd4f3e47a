"""The benchmark for a GPU at its small size on a CPU: its files, its rows, and how its figures are derived."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_accuracy import compare_outputs
from benchmarks.gpu_commands import START, add_evaluation_rates, error_line, read_rates
from benchmarks.gpu_rows import Case, Deadline, measure_row, summarize_trace

pytestmark = pytest.mark.long

RATES = {"bf16": 1e12}


def make_case(build: Callable[[], Callable[[], Any]]) -> Case:
    return Case("row", "bf16", 8, build, flops=10**6)


def run_small(out: Path, *flags: str) -> dict[str, Any]:
    assert gpu.main(["--device=cpu", "--size=small", f"--out={out}", "--seconds=1000", *flags]) == 0
    results: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    return results


@pytest.mark.slow
def test_the_engines_rows_are_measured_beside_the_plain_way(tmp_path: Path) -> None:
    results = run_small(tmp_path, "--sections=engine-train,engine-score,accuracy")
    sections, report = results["sections"], (tmp_path / "gpu.md").read_text()
    rows = sections["engine-train"] + sections["engine-score"]
    assert not [row for row in rows + sections["accuracy"] if "error" in row]
    assert (len(sections["engine-train"]), len(sections["engine-score"])) == (16, 9)
    assert all(row["rate"] > 0 for row in rows)
    assert all(("operations" in r) == (r["precision"] == "bf16") for r in rows if r["name"].startswith("ours"))
    assert all(0 < row["decided"] <= row["questions"] for row in sections["accuracy"])
    for fact in (torch.__version__, "--size=small", "TFLOP/s", "agree within 1e-4", "its times mean nothing"):
        assert fact in report


@pytest.mark.slow
def test_the_real_commands_run_and_a_failing_one_stays_a_row(tmp_path: Path) -> None:
    results = run_small(tmp_path, "--sections=commands", "--rows=live|start")
    live, start, failed = results["sections"]["commands"]["rows"]
    assert live["steps"] == 8 and live["rate"] > 0
    assert start["name"] == START and start["questions"] == 4 and 0 < start["own_s"] < start["wall_s"]
    assert "--fp16 needs a GPU" in failed["error"]
    report = (tmp_path / "gpu.md").read_text()
    assert "surgvivqa train --ssgvqa-root=WORK/set/ssg-qa" in report
    assert str(tmp_path) not in live["command"]


def test_an_unknown_section_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--sections=engine"])
    assert "the sections are engine-train, engine-score" in capsys.readouterr().err


def test_a_row_has_the_median_and_the_share_of_the_chip() -> None:
    row = measure_row("cpu", Deadline(60), make_case(lambda: lambda: None), RATES)
    assert row["rate"] == pytest.approx(8 / row["median"])
    assert row["share"] == pytest.approx(1e6 / row["median"] / 1e12)


def test_out_of_memory_is_reported_in_the_row() -> None:
    def build() -> Callable[[], Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert measure_row("cpu", Deadline(60), make_case(build), RATES)["error"] == "out of memory"


def test_another_failure_is_reported_in_one_line() -> None:
    def build() -> Callable[[], Any]:
        raise ValueError("one\ntwo")

    assert measure_row("cpu", Deadline(60), make_case(build), RATES)["error"] == "ValueError: one"


def test_after_the_deadline_rows_are_left_out() -> None:
    row = measure_row("cpu", Deadline(0), make_case(lambda: lambda: None), RATES)
    assert row["error"].startswith("left out")


def test_overlapping_activities_count_once() -> None:
    def event(name: str, category: str, start: float, length: float) -> dict[str, Any]:
        return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": length}

    events = [
        event("gemm", "kernel", 0, 10),
        event("direct_copy_kernel", "kernel", 5, 10),
        event("Memcpy HtoD", "gpu_memcpy", 20, 5),
        event("Memset", "gpu_memset", 6, 1),
        event("cudaLaunchKernel", "cuda_runtime", 0, 100),
        {"ph": "M", "name": "process_name"},
    ]
    found = summarize_trace({"traceEvents": events}, seconds=40e-6)
    assert (found["kernels"], found["copies"]) == (4, 2)
    assert found["busy"] == pytest.approx(0.5)


def test_best_labels_count_only_where_the_difference_leaves_no_doubt() -> None:
    exact = torch.tensor([[0.0, -1.0], [0.0, -0.1], [0.0, -9.0]])
    found = torch.tensor([[0.0, -1.0], [-0.2, -0.1], [0.0, -9.0]])
    losses = torch.zeros(3)
    row = compare_outputs((losses, found), (losses, exact))
    assert (row["decided"], row["equal"]) == (2, 2)
    assert row["score_largest"] == pytest.approx(0.2)


def test_an_output_that_is_not_finite_is_an_infinite_difference() -> None:
    scores = torch.zeros(1, 2)
    row = compare_outputs((torch.tensor([torch.nan]), scores), (torch.zeros(1), scores))
    assert row["loss_largest"] == torch.inf


def write_log(path: Path, rates: list[tuple[int, float]]) -> Path:
    lines = [{"step": n, "epoch": e, "questions_per_second": r} for n, (e, r) in enumerate(rates, 1)]
    path.write_text("\n".join(map(json.dumps, [*lines, {"step": 9, "acc": 0.5}])))
    return path


def test_the_first_line_of_the_log_does_not_count(tmp_path: Path) -> None:
    found = read_rates(write_log(tmp_path / "m.jsonl", [(0, 1.0), (0, 20.0), (0, 30.0), (0, 25.0)]))
    assert found == {"rates": [20.0, 30.0, 25.0], "rate": 25.0, "steps": 4}


def test_the_epoch_that_fills_a_cache_does_not_count(tmp_path: Path) -> None:
    found = read_rates(write_log(tmp_path / "m.jsonl", [(0, 1.0), (0, 2.0), (1, 3.0), (1, 40.0)]), warm_epoch=True)
    assert found["rates"] == [40.0]


def test_too_few_lines_are_an_error_of_the_row(tmp_path: Path) -> None:
    assert "too few lines" in read_rates(write_log(tmp_path / "m.jsonl", [(0, 1.0)]))["error"]


def test_the_start_of_eval_is_subtracted() -> None:
    rows: list[dict[str, Any]] = [
        {"name": START, "own_s": 10.0, "questions": 400},
        {"name": "eval, 51 scores", "own_s": 12.0, "questions": 6400},
        {"name": "eval, --answer-only", "own_s": 9.0, "questions": 6400},
        {"name": "train", "rate": 5.0},
    ]
    add_evaluation_rates(rows)
    assert rows[1]["rate"] == 3000
    assert "no longer than its start" in rows[2]["error"]
    assert "rate" not in rows[0] and rows[3] == {"name": "train", "rate": 5.0}


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("noise\nsurgvivqa: the disk is full.\n", "surgvivqa: the disk is full."),
        ("╭─ x ─╮\n│ Unrecognized options: --a │\n│ For help, run it │\n╰──╯\n", "Unrecognized options: --a"),
        ("Traceback\nKeyError: 3\n\n", "KeyError: 3"),
        ("", ""),
    ],
)
def test_the_line_that_says_why_a_command_failed(printed: str, expected: str) -> None:
    assert error_line(printed) == expected
