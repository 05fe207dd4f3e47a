"""The baselines that eval reads and computes."""

import json
from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.commands import eval as eval_command
from surgvivqa.commands.eval_baselines import compute_baselines, read_baseline_runs
from surgvivqa.data.labels import SSG_QA
from surgvivqa.data.splits import Splits
from surgvivqa.data.ssgqa import read_split
from surgvivqa.datasets.description import load_description
from surgvivqa.datasets.opening import Dataset
from surgvivqa.evaluation.baselines import TITLES
from surgvivqa.evaluation.predictions import Prediction
from surgvivqa.reporting.results import read_results
from surgvivqa.utils.errors import InputError
from tests.helpers.evaluations import write_evaluation
from tests.helpers.runs import sentence

SPLITS = Splits(("VID04",), ("VID01",), ("VID02",))


def right_answers(root: Path) -> list[Prediction]:
    frames, _ = read_split(root, ["VID02"])
    return [Prediction.of_question(q, q.label) for frame in frames for q in frame.questions]


@pytest.fixture(scope="module")
def root(synthetic_set: Path) -> Path:
    return synthetic_set / "ssg-qa"


def test_eval_prints_and_writes_the_baselines(
    synthetic_set: Path, data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--checkpoint=tiny", *data_flags, f"--output={tmp_path}", "--workers=0"]) == 0
    metrics, out = json.loads((tmp_path / "metrics.json").read_text()), capsys.readouterr().out
    assert [row["name"] for row in metrics["baselines"]] == list(TITLES)
    for row in metrics["baselines"]:
        assert row["title"] in out and row["metrics"]["n"] == metrics["n"]
        assert row["difference"]["pooled"] == pytest.approx(metrics["acc"] - row["metrics"]["acc"])
    assert out.splitlines()[0] == metrics["verdicts"][0]


def ssg_qa(root: Path, splits: Splits = SPLITS) -> Dataset:
    return Dataset(load_description("ssg-qa"), root, splits, SSG_QA)


def test_without_training_questions_the_baselines_say_why(root: Path, tmp_path: Path) -> None:
    (tmp_path / "VID02").symlink_to(root / "VID02")
    rows = compute_baselines(right_answers(root), [], ssg_qa(tmp_path), "test")
    assert [row.metrics for row in rows] == [None] * len(TITLES)
    assert rows[0].note == "the questions of the training split, on which baselines are fitted, are not there"


def test_some_training_videos_are_used_and_counted(root: Path) -> None:
    splits = Splits(("VID04", "VID05", "VID06"), ("VID01",), ("VID02",))
    rows = compute_baselines(right_answers(root), [], ssg_qa(root, splits), "test")
    assert rows[0].metrics is not None
    assert rows[0].note == "they are fitted on 1 of the 3 training videos, the ones there are"


def test_baselines_on_training_videos_say_that_they_are_fitted_on_them(root: Path) -> None:
    rows = compute_baselines(right_answers(root), [], ssg_qa(root), "train")
    assert rows[-1].note == "they are fitted on the questions that they are asked"


def test_another_evaluation_is_a_row(root: Path, tmp_path: Path) -> None:
    predictions = right_answers(root)
    wrong = [Prediction(p.video, p.frame, p.question, p.answer, 50 - p.answer) for p in predictions]
    write_evaluation(tmp_path / "other", wrong[::-1])
    frames, _ = read_split(root, ["VID02"])
    runs = read_baseline_runs([tmp_path / "other"], "test", frames, [])
    row = compute_baselines(predictions, runs, ssg_qa(root), "test")[-1]
    assert (row.title, row.sees_frames) == ("other", True)
    assert row.difference is not None and row.difference.pooled > 0.9


@pytest.mark.parametrize("frames", ["own", "black"])
def test_a_run_on_blank_pictures_is_blind_only_where_it_is_asked_on_black_frames(
    frames: str, root: Path, tmp_path: Path
) -> None:
    predictions = right_answers(root)
    write_evaluation(tmp_path / "run" / "eval-test", predictions, frames=frames)
    (tmp_path / "run" / "config.yaml").write_text("blank_video: true\n")
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    row = compute_baselines(predictions, [read_results(tmp_path / "run")], ssg_qa(root), "test")[-1]
    assert (row.title, row.sees_frames) == ("run, trained on a blank picture", frames == "own")


def test_questions_about_frames_that_were_skipped_are_left_out_of_the_row(root: Path, tmp_path: Path) -> None:
    predictions = right_answers(root)
    write_evaluation(tmp_path / "other", predictions)
    scored = [p for p in predictions if p.frame > 0]
    row = compute_baselines(scored, [read_results(tmp_path / "other")], ssg_qa(root), "test")[-1]
    assert row.metrics is not None and row.metrics.n == len(scored) < len(predictions)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda all_of_them: all_of_them[3:], r"it lacks 3 of [\d,]+, and has 0 others \(first: VID02, frame 0: "),
        (lambda all_of_them: [*all_of_them, all_of_them[0]], r"it lacks 0 of [\d,]+, and has 1 others"),
    ],
)
def test_other_questions_are_an_error(change, message: str, root: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_evaluation(tmp_path / "other", change(right_answers(root)))
    frames, _ = read_split(root, ["VID02"])
    with pytest.raises(InputError, match=message):
        read_baseline_runs([tmp_path / "other"], "test", frames, [])


def test_missing_frames_may_be_in_a_baseline_or_not(root: Path, tmp_path: Path) -> None:
    frames, _ = read_split(root, ["VID02"])
    predictions = right_answers(root)
    first = frames[0].frame
    for name, kept in (("all", predictions), ("some", [p for p in predictions if p.frame != first])):
        write_evaluation(tmp_path / name, kept)
        assert len(read_baseline_runs([tmp_path / name], "test", frames, [("VID02", first)])) == 1


def test_a_mismatch_is_reported_before_anything_is_scored(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it scores")

    monkeypatch.setattr(eval_command, "predict_frames", fail)
    write_evaluation(tmp_path / "other")
    flags = ["--checkpoint=tiny", *data_flags, f"--output={tmp_path / 'out'}", f"--baseline={tmp_path / 'other'}"]
    assert main(["eval", *flags]) == 2
    assert f"--baseline {tmp_path / 'other'} is about other questions" in sentence(capsys)
    assert not (tmp_path / "out" / "metrics.json").exists()
