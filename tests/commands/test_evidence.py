"""``eval --evidence`` writes its section and its overlays, and refuses half of its flags."""

import json
from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.evaluation.report import read_report
from surgvivqa.explanation.overlay import OVERLAYS_FILE, read_overlays
from tests.conftest import CapturedLog


def flags(data_flags: list[str], output: Path) -> list[str]:
    return ["eval", "--checkpoint=tiny", f"--output={output}", "--workers=0", "--max-samples=60", *data_flags]


def test_the_section_and_the_overlays_are_of_the_same_questions(
    data_flags: list[str], synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence_flags = ["--evidence=5", f"--scene-graph-root={synthetic_set / 'scene_graph'}"]
    assert main([*flags(data_flags, tmp_path), *evidence_flags]) == 0
    assert "Evidence on 5 questions of 1 video " in capsys.readouterr().out
    evidence = read_report(tmp_path / "metrics.json").evidence
    assert evidence is not None
    overlays = read_overlays(tmp_path)
    assert evidence.n == len(overlays) == 5
    asked = {(p["video"], p["frame"], p["question"]) for p in map(json.loads, _lines(tmp_path))}
    assert set(overlays) <= asked
    assert main(flags(data_flags, tmp_path)) == 0  # an evaluation without evidence leaves no older overlays
    assert not (tmp_path / OVERLAYS_FILE).exists()
    assert read_report(tmp_path / "metrics.json").evidence is None


def _lines(folder: Path) -> list[str]:
    return (folder / "predictions.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    "given, message",
    [
        (["--evidence=5"], "--evidence needs the boxes of the objects"),
        (["--scene-graph-root=."], "--scene-graph-root is used by --evidence only"),
        (["--evidence=5", "--scene-graph-root=nowhere"], "--scene-graph-root nowhere is not a folder"),
        (["--evidence=0", "--scene-graph-root=."], "--evidence must be at least 1"),
        (["--evidence=5", "--scene-graph-root=."], "has a scene graph"),
        (["--evidence=5", "--scene-graph-root=.", "--frames=black"], "which --frames black does not show"),
    ],
)
def test_wrong_flags_are_reported_in_one_sentence(
    given: list[str], message: str, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags(data_flags, tmp_path), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_a_damaged_scene_graph_is_reported_before_the_predictions(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for frame in range(100):
        (tmp_path / f"VID02_{frame}.json").write_text("{")
    monkeypatch.setattr("surgvivqa.commands.eval._predict", lambda *_: pytest.fail("predictions were made"))
    assert main([*flags(data_flags, tmp_path), "--evidence=5", f"--scene-graph-root={tmp_path}"]) == 2
    assert "is not one of SSG-QA" in capsys.readouterr().err


def test_predictions_are_written_where_no_question_can_be_measured(
    data_flags: list[str],
    synthetic_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    captured_log: CapturedLog,
) -> None:
    monkeypatch.setattr("surgvivqa.explanation.evidence.place_elsewhere", lambda *_: [])
    graphs = f"--scene-graph-root={synthetic_set / 'scene_graph'}"
    assert main([*flags(data_flags, tmp_path), "--check-samples=0", "--evidence=5", graphs]) == 0
    assert read_report(tmp_path / "metrics.json").evidence is None
    assert "can be measured (" in captured_log()
