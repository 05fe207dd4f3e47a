"""``surgvivqa data audit``, and ``eval --only`` on what it confirms."""

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.cli import main
from surgvivqa.data.question_lists import read_question_list
from tests.conftest import SHARED, CapturedLog
from tests.helpers.runs import sentence
from tests.helpers.triplet_labels import labels_of_graphs, write_cholect45, write_cholect50


@pytest.fixture
def flags(synthetic_set: Path) -> list[str]:
    return [f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--splits-dir={synthetic_set / 'splits'}"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_audit_leaves_lists_and_shares(
    synthetic_set: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_of_graphs(synthetic_set, "VID02")
    wrong = next(frame for frame, triplets in labels.items() if triplets)
    labels[wrong] = []
    write_cholect50(tmp_path / "labels", "VID02", labels)
    output = tmp_path / "audit"
    assert main(["data", "audit", *flags, f"--cholect50-labels={tmp_path / 'labels'}", f"--output={output}"]) == 0
    confirmed, contradicted = lines_of(output / "confirmed.jsonl"), lines_of(output / "contradicted.jsonl")
    others = lines_of(output / "not_contradicted.jsonl")
    assert confirmed and {line["verdict"] for line in confirmed} == {"agrees"}
    assert {(line["frame"], tuple(line["labels"])) for line in contradicted} == {(wrong, ())}
    assert {line["verdict"] for line in others} == {"agrees", "undecided"}

    content = json.loads((output / "audit.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert (rows["all"]["agrees"], rows["all"]["contradicts"]) == (len(confirmed), len(contradicted))
    assert rows["all"]["agrees"] + rows["all"]["undecided"] == len(others)
    assert rows["all"]["share"] == pytest.approx(len(confirmed) / (len(confirmed) + len(contradicted)))
    assert rows["all"]["low"] is None  # one video
    assert (content["split"], content["videos"], content["synthetic"]) == ("test", ["VID02"], True)
    printed = capsys.readouterr().out
    assert f"{100 * rows['all']['share']:.1f}" in printed and "the labels have no such action" in printed


def test_both_layouts_give_the_same_verdicts(synthetic_set: Path, flags: list[str], tmp_path: Path) -> None:
    labels = {video: labels_of_graphs(synthetic_set, video) for video in ("VID01", "VID02", "VID04")}
    for video, frames in labels.items():
        write_cholect50(tmp_path / "50" / "labels", video, frames)
    write_cholect45(tmp_path / "45", labels)
    found = []
    for layout in ("50", "45"):
        places = [f"--cholect50-labels={tmp_path / layout}", f"--output={tmp_path / f'out{layout}'}"]
        assert main(["data", "audit", "--split=all", *flags, *places]) == 0
        found.append((tmp_path / f"out{layout}" / "confirmed.jsonl").read_text())
    assert found[0] == found[1]
    row = json.loads((tmp_path / "out50" / "audit.json").read_text())["rows"][0]
    assert (row["name"], row["share"], row["low"], row["high"], row["videos"]) == ("all", 1.0, 1.0, 1.0, 3)


def test_eval_reports_on_the_confirmed_questions(
    synthetic_set: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cholect50(tmp_path / "labels", "VID02", labels_of_graphs(synthetic_set, "VID02"))
    output = tmp_path / "audit"
    assert main(["data", "audit", *flags, f"--cholect50-labels={tmp_path / 'labels'}", f"--output={output}"]) == 0
    given = [
        "--checkpoint=tiny",
        "--workers=0",
        "--check-samples=0",
        f"--image-root={synthetic_set / 'frames'}",
        *flags,
    ]
    assert main(["eval", *given, f"--only={output / 'confirmed.jsonl'}", f"--output={tmp_path / 'eval'}"]) == 0
    content = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert content["n"] == content["only"]["selected"] == len(lines_of(output / "confirmed.jsonl"))
    assert content["only"]["missing"] == 0
    assert content["only"]["sha256"] == read_question_list(output / "confirmed.jsonl").sha256


def test_videos_without_labels_are_left_out(
    synthetic_set: Path, flags: list[str], tmp_path: Path, captured_log: CapturedLog
) -> None:
    write_cholect50(tmp_path / "labels", "VID01", labels_of_graphs(synthetic_set, "VID01"))
    places = [f"--cholect50-labels={tmp_path / 'labels'}", f"--output={tmp_path / 'out'}"]
    assert main(["data", "audit", "--split=all", *flags, *places]) == 0
    assert "2 videos have no labels and are left out: VID04, VID02." in captured_log()
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["videos"] == ["VID01"] and content["videos_without_labels"] == ["VID04", "VID02"]


def test_labels_of_other_videos_are_an_error(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cholect50(tmp_path, "VID79", {})
    assert main(["data", "audit", *flags, f"--cholect50-labels={tmp_path}", f"--output={tmp_path / 'out'}"]) == 2
    assert "has labels of VID79, but of none of the videos of the questions (VID02)" in sentence(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (SHARED / "real" / "ssg-qa").is_dir(), reason="the real data are not there")
def test_real_questions_are_understood(tmp_path: Path) -> None:
    """Their answers come from the labels, so labels that agree with the action lines contradict none of these."""
    root = SHARED / "real" / "ssg-qa"
    labels: dict[int, list[str]] = {}
    for path in sorted((root / "VID70").glob("*.txt")):
        fields = [line.split("|") for line in path.read_text().splitlines()]
        tools = [answer for question, answer, *_ in fields if question.startswith("Which tools are present")]
        labels[int(path.stem)] = [f"{t.strip()},null_verb,null_target" for t in tools[0].split(",") if t.strip()]
    write_cholect50(tmp_path / "labels", "VID70", labels)
    places = [f"--ssgvqa-root={root}", f"--cholect50-labels={tmp_path / 'labels'}", f"--output={tmp_path / 'out'}"]
    assert main(["data", "audit", "--split=train", *places]) == 0
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["exist"]["contradicts"] == rows["exist"]["undecided"] == 0 and rows["exist"]["agrees"] > 500
    assert not [row for row in content["reasons"] if row["reason"] == "not_understood"]
