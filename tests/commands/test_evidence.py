"""``eval --evidence`` writes its section and its overlays, and refuses half of its flags."""

import json
from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.evaluation.report import read_report
from surgvivqa.explanation.overlay import OVERLAYS_FILE, read_overlays


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
    ],
)
def test_wrong_flags_are_reported_in_one_sentence(
    given: list[str], message: str, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags(data_flags, tmp_path), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
