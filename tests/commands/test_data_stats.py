"""``surgvivqa data stats``."""

import json
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.cli import main
from surgvivqa.data.splits import load_splits
from surgvivqa.data.ssgqa import read_split
from surgvivqa.evaluation.baselines import TITLES, LabelledQuestions, predict_baselines
from surgvivqa.evaluation.metrics import compute_metrics
from surgvivqa.evaluation.predictions import Prediction
from tests.helpers.runs import sentence


@pytest.fixture
def flags(synthetic_set: Path) -> list[str]:
    return [f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--splits-dir={synthetic_set / 'splits'}"]


def stats(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["data", "stats", "--json", *flags]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_questions_are_counted(synthetic_set: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    content = stats(capsys, *flags, "--no-prior")
    train, _, test = content["splits"]
    frames, report = read_split(synthetic_set / "ssg-qa", ["VID02"])
    questions = [question for frame in frames for question in frame.questions]
    assert (test["frames"], test["questions"]) == (4, len(questions))
    assert test["distinct"] == len({question.question for question in questions})
    assert test["by_video"] == {"VID02": len(questions)}
    assert test["by_type"]["exist"] == sum(question.type == "exist" for question in questions)
    assert test["by_reasoning"]["(none)"] == sum(question.reasoning is None for question in questions)
    assert test["by_label"]["True"] == sum(question.answer == "True" for question in questions)
    assert test["skipped"] == dict(report.skipped) and test["skipped"]["summary"] == 8
    for group in ("by_type", "by_reasoning", "by_label"):
        assert sum(train[group].values()) == train["questions"]
    assert content["priors"] == [] and content["note"] is None


def test_priors_are_those_of_eval(synthetic_set: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    content = stats(capsys, *flags)
    rows = {(row["split"], row["name"]): row for row in content["priors"]}
    assert list(rows) == [(split, name) for split in ("val", "test") for name in TITLES]
    root = synthetic_set / "ssg-qa"
    train = LabelledQuestions.of_frames(read_split(root, ["VID04"])[0])
    asked = [
        Prediction.of_question(question, 0) for frame in read_split(root, ["VID02"])[0] for question in frame.questions
    ]
    for name, found in predict_baselines(train, asked).items():
        expected = compute_metrics([p.answer for p in found], [p.prediction for p in found])
        metrics = rows["test", name]["metrics"]
        assert {key: metrics[key] for key in expected.to_json()} == pytest.approx(expected.to_json())
        assert rows["test", name]["by_type"]["counting"]["n"] == sum(p.type == "count" for p in asked)


def test_tables_and_markdown(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", *flags]) == 0
    text = capsys.readouterr().out
    for words in (
        "Questions by type.",
        "lines with several answers",
        "question only",
        "Intervals: Student's t",
        "VID04",
    ):
        assert words in text, words
    page_file = tmp_path / "stats.md"
    assert main(["data", "stats", "--markdown", "--no-prior", f"--output={page_file}", *flags]) == 0
    assert capsys.readouterr().out == f"written: {page_file}\n"
    page = page_file.read_text()
    assert "| split | videos | frames | questions |" in page and "| train | 1 of 1 | 4 |" in page
    assert "give away" not in page


def test_a_part_of_the_videos_is_enough(synthetic_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = f"--ssgvqa-root={synthetic_set / 'ssg-qa'}"
    content = stats(capsys, root)  # the standard splits, of which the set has three videos
    missing = [video for video in load_splits().train if video != "VID04"]
    assert [len(split["missing"]) for split in content["splits"]] == [34, 4, 4]
    assert content["splits"][0]["missing"] == missing
    assert content["note"] == "the baselines are fitted on 1 of the 35 training videos, those that are there"


def test_without_training_questions_no_prior_is_fitted(
    synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "VID02").symlink_to(synthetic_set / "ssg-qa" / "VID02")
    content = stats(capsys, f"--ssgvqa-root={tmp_path}")
    assert content["priors"] == [] and "no question of the training split is there" in content["note"]
    assert main(["data", "stats", f"--ssgvqa-root={tmp_path}"]) == 0
    assert "train lacks all its videos" in capsys.readouterr().out


def test_wrong_use_is_one_sentence(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "--json", "--markdown", *flags]) == 2
    assert "two formats" in sentence(capsys)
    assert main(["data", "stats", f"--output={tmp_path}", *flags]) == 2
    assert "is not a file in a folder that exists" in sentence(capsys)
    assert main(["data", "stats", f"--ssgvqa-root={tmp_path}"]) == 2
    assert "has no question of the 45 videos of the splits" in sentence(capsys)
    assert main(["data", "stats", f"--ssgvqa-root={tmp_path / 'none'}"]) == 2
    assert "does not exist" in sentence(capsys)


def test_another_data_set_is_counted_by_its_own_labels_and_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["video,frame,question,answer,kind"]
    for video in "abc":
        rows += [
            f"{video},{number},Which phase is it?,{'late' if number > 1 else 'early'},phase" for number in range(5)
        ]
        rows += [f"{video},{number},Is there smoke?,yes,smoke" for number in range(5)]
    rows.append("c,9,Is there smoke?,perhaps,smoke")
    (tmp_path / "questions.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "own.yaml").write_text(
        "name: own\ntitle: Own\nreader: table\nfiles: [questions.csv]\npictures: '{video}/{frame}.png'\n"
        "fields: {video: video, frames: frame, question: question, answer: answer, type: kind}\n"
        "splits: {val: [b], test: [c]}\n"
    )
    content = stats(capsys, f"--dataset={tmp_path / 'own.yaml'}", f"--question-root={tmp_path}")
    test = content["splits"][2]
    assert test["by_label"] == {"early": 2, "late": 3, "yes": 5} and test["by_type"] == {"phase": 5, "smoke": 5}
    assert test["by_video"] == {"c": 10} and test["skipped"] == {"unknown_answer": 1}
    majority = next(row for row in content["priors"] if row["split"] == "test" and row["name"] == "majority_by_type")
    assert majority["metrics"]["acc"] == 0.8 and majority["by_type"]["smoke"]["acc"] == 1.0
