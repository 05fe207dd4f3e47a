"""``eval --fit-temperature`` stores a temperature; later ``eval`` and ``predict`` apply it, and no answer changes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.cli import main
from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.temperature import fit_temperature
from tests.conftest import CapturedLog
from tests.helpers.runs import sentence


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, synthetic_set: Path) -> Path:
    """A folder with the checkpoint ``base``, a temperature beside it, and the evaluation ``val`` that fitted it."""
    folder = tmp_path_factory.mktemp("fitted")
    shutil.copytree(PACKAGED_BASE, folder / "base")
    assert evaluate(folder, "val", synthetic_set, "--split=val", "--fit-temperature", "--scores") == 0
    return folder


def evaluate(folder: Path, name: str, synthetic_set: Path, *flags: str) -> int:
    roots = {"ssgvqa-root": "ssg-qa", "image-root": "frames", "splits-dir": "splits"}
    paths = [f"--{flag}={synthetic_set / part}" for flag, part in roots.items()]
    return main(["eval", f"--checkpoint={folder / 'base'}", f"--output={folder / name}", "--workers=0", *paths, *flags])


def read(folder: Path) -> tuple[Any, list[Any]]:
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return json.loads((folder / "metrics.json").read_text()), [json.loads(line) for line in lines]


def test_the_temperature_has_the_least_log_score_of_the_validation_split(fitted: Path) -> None:
    stored = json.loads((fitted / "base" / "temperature.json").read_text())
    metrics, lines = read(fitted / "val")
    scores = np.array([line["scores"] for line in lines], np.float32)
    expected = fit_temperature(scores, np.array([LABELS.index(line["answer"]) for line in lines]))
    assert stored["temperature"] == pytest.approx(expected, rel=1e-6)
    assert (stored["split"], stored["questions"], stored["videos"]) == ("val", len(lines), ["VID01"])
    assert metrics["calibration"]["temperature"] == stored
    before, after = metrics["calibration"]["figures"], metrics["calibration"]["after_temperature"]
    assert before["log_score"] == pytest.approx(stored["log_score"])
    assert after["log_score"] == pytest.approx(stored["log_score_after"])
    assert after["log_score"] <= before["log_score"] and after["accuracy"] == before["accuracy"]


def test_later_evaluations_have_figures_with_and_without_it(fitted: Path, synthetic_set: Path, tmp_path: Path) -> None:
    assert evaluate(fitted, "test", synthetic_set) == 0
    metrics, lines = read(fitted / "test")
    stored = json.loads((fitted / "base" / "temperature.json").read_text())
    assert metrics["calibration"]["temperature"] == stored
    assert "scores" not in lines[0]
    assert evaluate(fitted, "scores", synthetic_set, "--scores") == 0
    rows = np.array([line["scores"] for line in read(fitted / "scores")[1]]) / stored["temperature"]
    shares = np.exp(rows - rows.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    of_truth = shares[np.arange(len(lines)), [LABELS.index(line["answer"]) for line in lines]]
    after = metrics["calibration"]["after_temperature"]
    assert after["log_score"] == pytest.approx(-np.log(of_truth).mean(), rel=1e-5)
    assert after["confidence"] == pytest.approx(shares.max(1).mean(), rel=1e-5)


def test_mean_scores_have_no_temperature_of_sums(fitted: Path, synthetic_set: Path, captured_log: CapturedLog) -> None:
    assert evaluate(fitted, "mean", synthetic_set, "--score-norm=mean", "--max-samples=10") == 0
    assert "is ignored: it was fitted with score_norm sum, not mean" in captured_log()
    assert read(fitted / "mean")[0]["calibration"]["temperature"] is None


def test_predict_shows_tempered_probabilities_of_the_same_answers(
    fitted: Path, synthetic_set: Path, capsys: pytest.CaptureFixture[str], captured_log: CapturedLog
) -> None:
    frame, question = synthetic_set / "frames" / "VID02" / "000001.png", "How many instruments are there?"
    flags = [f"--image={frame}", f"--question={question}", "--top=51", "--json"]
    found = []
    for checkpoint in ("tiny", str(fitted / "base")):
        assert main(["predict", f"--checkpoint={checkpoint}", *flags]) == 0
        found.append(json.loads(capsys.readouterr().out))
    raw, tempered = found
    temperature = json.loads((fitted / "base" / "temperature.json").read_text())["temperature"]
    assert (raw["temperature"], tempered["temperature"]) == (None, temperature)
    assert [a["answer"] for a in raw["answers"]] == [a["answer"] for a in tempered["answers"]]
    logs = np.log([a["probability"] for a in raw["answers"]]) / temperature
    assert [a["probability"] for a in tempered["answers"]] == pytest.approx(np.exp(logs) / np.exp(logs).sum(), rel=1e-3)
    assert main(["predict", f"--checkpoint={fitted / 'base'}", *flags[:-1]]) == 0
    assert f"Probabilities are at temperature {temperature:.3f}, fitted on" in captured_log()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split=test"], "fits on the validation split alone, not on test"),
        (["--split=train"], "fits on the validation split alone, not on train"),
        (["--split=val", "--answer-only"], "needs the scores of all labels; leave out --answer-only"),
    ],
)
def test_a_fit_that_cannot_be_is_an_error(
    flags: list[str], message: str, fitted: Path, synthetic_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(fitted, "error", synthetic_set, "--fit-temperature", *flags) == 2
    assert message in sentence(capsys)


def test_the_packaged_base_takes_no_temperature(data_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--checkpoint=tiny", "--split=val", "--fit-temperature", *data_flags]) == 2
    assert "tiny is the packaged base" in sentence(capsys)


def test_answers_alone_have_no_calibration_but_contradictions(fitted: Path, synthetic_set: Path) -> None:
    assert evaluate(fitted, "only", synthetic_set, "--answer-only", "--ask-partners=2", "--max-samples=60") == 0
    metrics, _ = read(fitted / "only")
    assert metrics["calibration"] is None
    assert metrics["contradictions"]["asked_frames"] == 2


def test_partner_questions_change_no_other_figure(fitted: Path, synthetic_set: Path) -> None:
    found = []
    for name, flags in (("none", []), ("asked", ["--ask-partners=3"])):
        assert evaluate(fitted, name, synthetic_set, *flags) == 0
        found.append(read(fitted / name))
    (plain, lines), (asked, same_lines) = found
    assert lines == same_lines
    assert plain["contradictions"]["asked_questions"] == 0 < asked["contradictions"]["asked_questions"]
    rows = {row["kind"]: row for row in asked["contradictions"]["rows"]}
    assert all(rows[kind]["asked"] > 0 for kind in ("existence_counting", "synonyms", "sentences", "converse"))
    for name in ("contradictions", "environment"):
        del plain[name], asked[name]
    assert plain == asked


@pytest.mark.slow
def test_two_processes_fit_and_count_the_same_as_one(fitted: Path, synthetic_set: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGED_BASE, tmp_path / "base")
    roots = {"ssgvqa-root": "ssg-qa", "image-root": "frames", "splits-dir": "splits"}
    flags = [f"--{flag}={synthetic_set / part}" for flag, part in roots.items()]
    flags += ["--split=val", "--fit-temperature", "--ask-partners=3", "--workers=0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "surgvivqa"]
    command = [*torchrun, "eval", f"--checkpoint={tmp_path / 'base'}", f"--output={tmp_path / 'two'}", *flags]
    subprocess.run(command, check=True, timeout=600, capture_output=True)
    assert evaluate(fitted, "one", synthetic_set, "--split=val", "--fit-temperature", "--ask-partners=3") == 0
    (two, _), (one, _) = read(tmp_path / "two"), read(fitted / "one")
    assert two["calibration"]["temperature"]["temperature"] == pytest.approx(
        one["calibration"]["temperature"]["temperature"], rel=1e-4
    )
    assert two["calibration"]["figures"]["ece"] == pytest.approx(one["calibration"]["figures"]["ece"], abs=1e-4)
    counts = [[(row["pairs"], row["contradictions"]) for row in m["contradictions"]["rows"]] for m in (two, one)]
    assert counts[0] == counts[1]
