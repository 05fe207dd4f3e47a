"""Evaluations with another data set's labels, through the report, the comparison and the exports."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from surgvivqa.cli import main
from surgvivqa.evaluation.build_report import build_report
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.confusion import build_confusion
from surgvivqa.reporting.results import read_results
from tests.helpers.evaluations import PREDICTIONS, write_evaluation
from tests.helpers.label_sets import SEVEN

FIELDS = {"synthetic": False, "skipped": {}, "skipped_frames": [], "checkpoint": "run", "split": "test"}
FIELDS |= {"max_samples": None, "mask": "prefix", "prompt_mode": "simple", "score_norm": "sum"}


def predictions(shift: int = 0) -> list[Prediction]:
    return [
        Prediction(
            f"colon{n % 3}",
            n,
            f"What is number {n}?",
            n % 7,
            (n + shift * (n % 2)) % 7,
            0.6,
            0.5,
            [(SEVEN.labels[(n + shift * (n % 2)) % 7], 0.6)],
            None,
            "tool" if n % 2 else "polyp",
            answer_probability=0.6,
            brier=0.3,
            label_set=SEVEN,
        )
        for n in range(42)
    ]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    for name, shift in (("first", 1), ("second", 2)):
        write_evaluation(tmp_path / name, predictions(shift), synthetic=False)
    return tmp_path / "first", tmp_path / "second"


def test_results_are_read_back_with_their_labels(runs: tuple[Path, Path]) -> None:
    content = json.loads((runs[0] / "metrics.json").read_text())
    assert content["label_set"] == {"name": "colon", "labels": list(SEVEN.labels)}
    results = read_results(runs[0])
    assert results.report.label_set == SEVEN and results.predictions == predictions(1)
    assert list(results.report.metrics.by_label) == list(SEVEN.labels)
    assert set(results.report.metrics.by_type) == {"tool", "polyp"}  # types without SSG-QA's reasoning


def test_an_evaluation_without_recorded_labels_is_ssg_qas(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "old")
    file = tmp_path / "old" / "metrics.json"
    content = json.loads(file.read_text())
    del content["label_set"]
    file.write_text(json.dumps(content))
    assert read_results(tmp_path / "old").predictions == PREDICTIONS


def test_contradictions_are_those_of_ssg_qas_questions_alone() -> None:
    assert build_report(predictions(), **FIELDS).contradictions is None
    assert build_report(PREDICTIONS, **FIELDS).contradictions is not None


def test_labels_are_grouped_by_kind_and_others_keep_their_order() -> None:
    found = build_confusion(predictions(1))
    assert [row.label for row in found.labels] == ["yes", "no", "0", "2", "cold snare", "polyp", "polyp with a clip"]
    assert found.groups == [("yes/no", 0, 2), ("count", 2, 2), ("other", 4, 3)]


def test_the_report_shows_other_labels(runs: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    page = output.read_text()
    assert "polyp with a clip" in page and "one of 7 labels" in page and "42, colon" in page
    for other in ("one of 51 labels", "specimen_bag", "SSG-QA has labels made by detectors", "CholecT45 (lapa"):
        assert other not in page, other


def test_runs_with_other_labels_are_compared(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs), "--output", str(tmp_path / "c.html")]) == 0
    assert "polyp with a clip" in (tmp_path / "c.html").read_text()
    write_evaluation(tmp_path / "ssg")
    assert main(["compare", str(runs[0]), str(tmp_path / "ssg"), "--output", str(tmp_path / "d.html")]) == 2
    assert "chose from the 51 labels of ssg-qa, but first from the 7 of colon" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["parquet", "fiftyone", "labelstudio", "tsv"])
def test_exports_have_other_labels(runs: tuple[Path, Path], form: str, tmp_path: Path) -> None:
    where = f"--image-root={tmp_path}" if form == "labelstudio" else "--relative"
    output = tmp_path / {"parquet": "p.parquet", "fiftyone": "folder", "labelstudio": "p.json", "tsv": "p.tsv"}[form]
    assert main(["export", str(runs[0]), f"--to={form}", f"--output={output}", where]) == 0
    if form == "parquet":
        table = pq.read_table(output)
        assert table.column("answer").to_pylist() == [p.answer_label for p in predictions(1)]
        assert json.loads(table.schema.metadata[b"surgvivqa"])["labels"] == list(SEVEN.labels)
        return
    files = [output, *output.rglob("*"), output.with_suffix(".xml")]
    text = "".join(file.read_text() for file in files if file.is_file())
    assert "polyp with a clip" in text and "specimen_bag" not in text


def test_hostile_labels_in_metrics_json_are_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = runs[0] / "metrics.json"
    hostile: object
    for hostile in ([], {"name": "x"}, {"name": "x", "labels": ["a", "a"]}, {"name": 5, "labels": ["a"]}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"label_set": hostile}))
        assert main(["report", str(runs[0]), "--output", str(tmp_path / "r.html")]) == 2
        assert "is not a metrics.json of eval" in capsys.readouterr().err
