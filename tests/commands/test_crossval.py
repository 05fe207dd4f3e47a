"""Cross-validation: one command that may be stopped, one fold at a time, what both leave, and what is refused."""

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from surgvivqa.cli import main
from surgvivqa.commands import crossval as command
from surgvivqa.commands.eval import evaluate as evaluate_a_fold
from surgvivqa.data.splits import TEST_VIDEOS, load_splits
from surgvivqa.evaluation.published import why_not_comparable
from surgvivqa.reporting.results import read_results
from surgvivqa.training import trainer
from surgvivqa.training.step_records import StepBatches, StepResult
from tests.conftest import CapturedLog
from tests.helpers.runs import assert_equal_runs, sentence

pytestmark = pytest.mark.long

VIDEOS = ["VID01", "VID02", "VID04"]  # VID02 is a test video of the standard split
TINY = [
    *("--preset=tiny", "--batch-size=12", "--questions-per-frame=6", "--max-steps=4", "--lr=2e-3", "--warmup-steps=1"),
    *("--eval-every-steps=2", "--save-every-steps=2", "--log-interval=1", "--workers=0", "--val-videos=1"),
    "--check-samples=50",
]


@pytest.fixture(scope="module")
def flags(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a cross-validation of three folds of one video each."""
    path = tmp_path_factory.mktemp("folds") / "folds.json"
    path.write_text(json.dumps({str(n): [video] for n, video in enumerate(VIDEOS, 1)}))
    roots = [f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--image-root={synthetic_set / 'frames'}"]
    return [*TINY, *roots, f"--folds={path}"]


def run(folder: Path, flags: Sequence[str], *more: str) -> int:
    return main(["crossval", *flags, f"--checkpoint-dir={folder}", *more])


@pytest.fixture(scope="module")
def whole(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-validation that was never stopped."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "crossval"
    assert run(folder, flags) == 0
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    """The content of the combined metrics.json without what no two runs share."""
    content: dict[str, Any] = json.loads((folder / "eval-test" / "metrics.json").read_text())
    del content["environment"], content["checkpoint"]
    return content


def assert_equal_crossvals(one: Path, other: Path) -> None:
    for number in (1, 2, 3):
        assert_equal_runs(one / f"fold-{number}", other / f"fold-{number}")
    assert metrics_of(one) == metrics_of(other)
    first, second = ((folder / "eval-test" / "predictions.jsonl").read_bytes() for folder in (one, other))
    assert first == second


def test_each_video_is_tested_by_a_model_that_was_not_trained_on_it(whole: Path) -> None:
    for number, video in enumerate(VIDEOS, 1):
        settings = json.loads((whole / f"fold-{number}" / "best" / "surgvivqa.json").read_text())
        splits = load_splits(whole / "splits" / f"fold-{number}")
        assert settings["run"]["train_videos"] == list(splits.train)
        assert splits.test == (video,) and set(splits.train) | set(splits.val) == set(VIDEOS) - {video}
        assert set(read_results(whole / f"fold-{number}").report.metrics.by_video) == {video}


def test_the_results_of_the_folds_are_one_evaluation(whole: Path) -> None:
    results = read_results(whole)
    parts = [read_results(whole / f"fold-{number}") for number in (1, 2, 3)]
    assert list(results.predictions) == [p for part in parts for p in part.predictions]
    report = results.report
    assert set(report.metrics.by_video) == set(VIDEOS)
    accuracies = [part.report.metrics.overall.acc for part in parts]
    assert report.crossval is not None and report.crossval.fold is None
    assert [fold.metrics.acc for fold in report.crossval.folds] == accuracies
    assert report.crossval.mean["acc"] == pytest.approx(np.mean(accuracies))
    assert report.crossval.spread["acc"] == pytest.approx(np.std(accuracies, ddof=1))
    assert report.intervals is not None and report.intervals.videos == 3
    losses = [p.loss for p in results.predictions if p.loss is not None]
    assert report.loss == pytest.approx(np.mean(losses))


def test_baselines_of_a_fold_are_fitted_on_its_own_training_videos(whole: Path) -> None:
    rows = {row.name: row for row in read_results(whole).report.baselines or ()}
    parts = [read_results(whole / f"fold-{number}").report for number in (1, 2, 3)]
    right = sum(
        row.metrics.acc * row.metrics.n
        for part in parts
        for row in part.baselines or ()
        if row.name == "question_only" and row.metrics is not None
    )
    found = rows["question_only"].metrics
    assert found is not None and found.acc * found.n == pytest.approx(right)


def test_no_published_result_is_set_beside_it(whole: Path) -> None:
    for folder in (whole, whole / "fold-2"):
        report = read_results(folder).report
        reason = why_not_comparable(_as_if_real(report))
        assert reason is not None and "cross-validation" in reason


def _as_if_real(report: Any) -> Any:
    """The report as one of SSG-QA's own questions about exactly the five test videos, many enough."""
    metrics = dataclasses.replace(
        report.metrics,
        overall=dataclasses.replace(report.metrics.overall, n=100_000),
        by_video=dict.fromkeys(TEST_VIDEOS, report.metrics.overall),
    )
    return dataclasses.replace(report, synthetic=False, metrics=metrics)


@pytest.mark.slow
def test_it_continues_after_a_stop(
    flags: list[str], tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, captured_log: CapturedLog
) -> None:
    """Stopped by the time limit in fold 1, killed in fold 2, and interrupted in the evaluation of fold 3."""
    folder = tmp_path / "crossval"
    assert run(folder, flags, "--max-hours=0") == 75
    assert not (folder / "fold-2").exists()
    with monkeypatch.context() as patch:
        _interrupt_training(patch, fold=2, step=4)
        assert run(folder, flags) == 75
    assert (folder / "fold-1" / "eval-test" / "metrics.json").is_file()
    assert not (folder / "fold-2" / "eval-test").exists()
    evaluate = evaluate_a_fold
    with monkeypatch.context() as patch:

        def interrupted(config: Any) -> Any:
            if config.checkpoint.name == "fold-3":
                raise KeyboardInterrupt
            return evaluate(config)

        patch.setattr(command, "evaluate", interrupted)
        assert run(folder, flags) == 75
    assert not (folder / "eval-test").exists()
    captured_log()
    assert run(folder, flags) == 0
    text = captured_log()
    assert text.count("is finished") == 3 and "Resuming" not in text
    assert_equal_crossvals(whole, folder)


@pytest.mark.slow
def test_overwrite_replaces_all_folds_after_a_stop_too(flags: list[str], tmp_path: Path, whole: Path) -> None:
    folder, other = tmp_path / "crossval", [*flags, "--lr=1e-3"]
    shutil.copytree(whole, folder)
    assert run(folder, other, "--overwrite", "--max-hours=0") == 75
    assert not (folder / "eval-test" / "metrics.json").exists()
    assert run(folder, other) == 0
    rates = [yaml.safe_load((folder / f"fold-{number}" / "config.yaml").read_text())["lr"] for number in (1, 2, 3)]
    assert rates == [1e-3] * 3 and not list(folder.glob("fold-*/.overwrite"))


def test_a_fold_that_is_to_be_replaced_is_not_put_together(
    flags: list[str], tmp_path: Path, whole: Path, captured_log: CapturedLog
) -> None:
    shutil.copytree(whole, tmp_path / "crossval")
    (tmp_path / "crossval" / "fold-2" / ".overwrite").touch()
    assert run(tmp_path / "crossval", flags, "--fold=1") == 0
    assert "Folds that are not done yet: 2." in captured_log()


def test_a_requeued_job_does_not_replace_the_fold_that_it_began(
    flags: list[str], tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "crossval")
    (tmp_path / "crossval" / "fold-1" / ".job").write_text("77")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(command, "_run_fold", lambda *_: 75)
    assert run(tmp_path / "crossval", flags, "--overwrite") == 75
    marked = [path.parent.name for path in sorted((tmp_path / "crossval").glob("fold-*/.overwrite"))]
    assert marked == ["fold-2", "fold-3"]


def _interrupt_training(patch: pytest.MonkeyPatch, fold: int, step: int) -> None:
    make = trainer.Trainer.train_step

    def train_step(self: trainer.Trainer, number: int, batches: StepBatches) -> StepResult:
        if self.folder.path.name == f"fold-{fold}" and number == step:
            raise KeyboardInterrupt
        return make(self, number, batches)

    patch.setattr(trainer.Trainer, "train_step", train_step)


@pytest.mark.slow
def test_one_fold_at_a_time_gives_the_same(
    flags: list[str], tmp_path: Path, whole: Path, captured_log: CapturedLog
) -> None:
    folder = tmp_path / "crossval"
    assert run(folder, flags, "--fold=3") == 0
    assert "Folds that are not done yet: 1, 2." in captured_log()
    assert not (folder / "fold-1").exists() and not (folder / "eval-test").exists()
    assert run(folder, flags, "--fold=1") == 0
    assert run(folder, flags, "--fold=2") == 0  # the last one writes the results
    assert_equal_crossvals(whole, folder)
    (folder / "eval-test" / "metrics.json").unlink()
    assert run(folder, flags) == 0
    assert_equal_crossvals(whole, folder)


@pytest.mark.slow
def test_a_fold_that_was_evaluated_before_its_end_is_evaluated_again(
    flags: list[str], tmp_path: Path, captured_log: CapturedLog
) -> None:
    folder = tmp_path / "crossval"
    assert run(folder, flags, "--fold=1") == 0
    done = folder / "fold-1" / "eval-test" / "crossval.json"
    done.write_text(done.read_text().replace('"model.safetensors": "', '"model.safetensors": "0'))  # of other weights
    (folder / "fold-1" / "eval-test" / "metrics.json").write_text("{}")
    assert run(folder, flags, "--fold=1") == 0
    assert read_results(folder / "fold-1").report.metrics.overall.n > 0


@pytest.mark.slow
def test_one_cache_serves_all_folds(flags: list[str], tmp_path: Path, captured_log: CapturedLog) -> None:
    """Twelve frames are encoded once; only fold 1's test and validation frames have no text states yet."""
    cached = [*flags, f"--cache={tmp_path / 'cache'}", "--cache-text", "--epochs=1"]
    cached = [flag for flag in cached if not flag.startswith("--max-steps")]
    assert run(tmp_path / "crossval", cached, "--fold=1") == 0
    encoded, states = _cache_misses(captured_log())
    assert (sum(encoded), states) == (12, [4])  # training on one video of four frames
    assert run(tmp_path / "crossval", cached, "--fold=2") == 0
    encoded, states = _cache_misses(captured_log())
    assert sum(encoded) == 0
    # Fold 2 trains on VID01, whose text states fold 1, which tests on it, has not computed.
    assert states == [4]
    assert run(tmp_path / "crossval", cached, "--fold=3") == 0
    encoded, states = _cache_misses(captured_log())
    assert sum(encoded) == 0 and states == [0]  # it trains on VID01 too


def _cache_misses(text: str) -> tuple[list[int], list[int]]:
    """The numbers of frames that were encoded, and whose text states were computed, as the log says them."""
    encoded = re.findall(r": \d+ frames read, (\d+) encoded", text)
    states = re.findall(r"text states of \d+ frames read, of (\d+) computed", text)
    return [int(n) for n in encoded], [int(n) for n in states]


def test_another_cross_validation_in_the_folder_is_refused(
    flags: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(whole, flags, "--lr=1e-3") == 2
    assert "--lr was 0.002, is 0.001" in sentence(capsys)
    other = tmp_path / "folds.json"
    other.write_text(json.dumps({"1": ["VID02"], "2": ["VID01"], "3": ["VID04"]}))
    assert run(whole, flags, f"--folds={other}") == 2
    assert "--folds names other folds" in sentence(capsys)
    assert run(whole, flags, "--val-videos=0") == 2
    assert "--val-videos was 1, is 0" in sentence(capsys)
    assert run(whole / "fold-1", flags) == 2
    assert "holds" in sentence(capsys)


def test_the_saved_flags_repeat_it(whole: Path, captured_log: CapturedLog) -> None:
    saved = yaml.safe_load((whole / "config.yaml").read_text())
    assert saved["overwrite"] is False and saved["fold"] is None
    assert main(["crossval", f"--config={whole / 'config.yaml'}"]) == 0
    assert captured_log().count("is finished") == 3


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"1": ["VID01", "VID02"]}, "has 1 folds; a cross-validation needs at least two"),
        ({}, "has 0 folds"),
        ({"1": ["VID01"], "3": ["VID02"]}, "must map the numbers 1, 2, ... to video names"),
        ([["VID01"], ["VID02"]], "must map the numbers 1, 2, ... to video names"),
        ({"1": ["VID01"], "2": []}, "Fold 2 in"),
        ({"1": ["VID01"], "2": [2]}, "Fold 2 in"),
        ({"1": ["VID01"], "2": ["../VID02"]}, "Fold 2 in"),
        ({"1": ["VID01", "VID02"], "2": ["VID02"]}, "names VID02 in fold 1 and again in fold 2"),
        ({"1": ["VID01", "VID01"], "2": ["VID02"]}, "names VID01 in fold 1 and again in fold 1"),
        ({"1": ["VID01"], "2": ["VID01_clean"]}, "VID01 and VID01_clean are the same video"),
        ({"1": ["VID01"], "2": ["VID77"]}, "lacks 1 of the 2 videos of the folds (VID77)"),
        ({"1": ["VID01"], "2": ["VID02"]}, "--val-videos 1 leaves fold 1 nothing to train on"),
    ],
)
def test_folds_that_cannot_be_used_are_one_sentence(
    folds: Any, message: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(folds))
    more = [] if "nothing to train on" in message else ["--val-videos=0"]
    assert run(tmp_path / "crossval", flags, f"--folds={path}", *more) == 2
    assert message in sentence(capsys)
    assert not (tmp_path / "crossval").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--fold=4", "--fold 4 does not exist; the folds are 1 to 3"),
        ("--fold=0", "--fold must be at least 1"),
        ("--splits-dir=/tmp", "the splits follow from --folds"),
        ("--folds=/nowhere.json", "File of folds /nowhere.json cannot be read"),
        ("--report-to=mlflow", "--report-to mlflow"),
    ],
)
def test_flags_that_cannot_be_used_are_one_sentence(
    flag: str, message: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "crossval", flags, flag) == 2
    assert message in sentence(capsys)


def test_a_fold_is_never_evaluated_on_its_training_videos(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fold 1 was trained on VID02, a test video of the standard split."""
    standard = Path(command.__file__).parents[1] / "splits"
    for splits in (standard, whole / "splits" / "fold-2"):
        flags = [f"--checkpoint={whole / 'fold-1'}", f"--splits-dir={splits}", f"--output={tmp_path}"]
        assert main(["eval", *flags]) == 2
        assert "VID02" in sentence(capsys)


@pytest.mark.slow
def test_a_fold_does_not_start_from_a_checkpoint_that_has_seen_its_test_videos(
    whole: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = f"--pretrained-ckpt={whole / 'fold-1'}"
    assert run(tmp_path / "crossval", flags, start, "--fold=2") == 2
    assert "was trained on VID02, which this run's split tests on" in sentence(capsys)
    # Fold 1 itself may be trained further; its checkpoint remembers the videos of both runs.
    assert run(tmp_path / "crossval2", flags, start, "--fold=1", "--val-videos=0") == 0
    settings = json.loads((tmp_path / "crossval2" / "fold-1" / "best" / "surgvivqa.json").read_text())
    assert settings["run"]["train_videos"] == ["VID02", "VID04"]


def test_an_evaluation_of_a_part_of_a_fold_is_not_put_together(
    flags: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = whole / "fold-2" / "eval-test" / "metrics.json"
    before = folder.read_text()
    try:
        folder.write_text(json.dumps(json.loads(before) | {"max_samples": 5}))
        assert run(whole, flags) == 2
        assert "is not the whole evaluation of fold 2" in sentence(capsys)
    finally:
        folder.write_text(before)


def test_the_table_of_the_folds_has_their_mean_and_spread(
    flags: list[str], whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(whole, flags) == 0
    text = capsys.readouterr().out
    crossval = read_results(whole).report.crossval
    assert crossval is not None
    for name, values in (("mean of the folds", crossval.mean), ("standard deviation of the folds", crossval.spread)):
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        assert [float(cell) for cell in line.removeprefix(name).split()] == [
            math.floor(1000 * value + 0.5) / 10 for value in values.values()
        ]
    assert sum(line.startswith(f"{n}  (1 videos)") for n in (1, 2, 3) for line in text.splitlines()) == 3
