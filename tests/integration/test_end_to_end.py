"""The real commands on a small set, and the files that they leave."""

import json
import signal
import sys
from pathlib import Path

import pytest

from surgvivqa.cli import main
from tests.helpers.processes import running, wait_for_exit, wait_until

TINY = ["--preset=tiny", "--workers=0"]


@pytest.fixture(scope="module")
def run_folder(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "ckpt"
    flags = [f"--ssgvqa-root={synthetic_set / 'ssg-qa'}", f"--image-root={synthetic_set / 'frames'}"]
    flags += [f"--splits-dir={synthetic_set / 'splits'}", f"--checkpoint-dir={folder}"]
    steps = [
        "--max-steps=4",
        "--save-every-steps=2",
        "--eval-every-steps=2",
        "--log-interval=1",
        "--val-max-samples=20",
    ]
    assert main(["train", *TINY, *flags, *steps]) == 0
    return folder


def test_train_leaves_a_run_folder(run_folder: Path) -> None:
    for name in ("config.yaml", "train.log", "best/model.safetensors", "best/config.json", "best_model.pth"):
        assert (run_folder / name).is_file(), name
    assert sorted(p.name for p in (run_folder / "checkpoints").iterdir()) == ["step-0000002", "step-0000004"]
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines if "loss" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in lines if "val_acc" in r] == [2, 4]


def test_answers_do_not_depend_on_batching(run_folder: Path, tmp_path: Path) -> None:
    """A frame in several passes (7) or one (40), all in one pass (500); with all scores or the best label only."""
    found = {}
    for batch in (7, 40, 500):
        for only in ([], ["--answer-only"]):
            output = tmp_path / f"{batch}{''.join(only)}"
            flags = [f"--checkpoint={run_folder}", f"--output={output}", "--workers=0", f"--batch-size={batch}"]
            assert main(["eval", *flags, *only]) == 0
            records = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
            found[batch, bool(only)] = records
            assert all((r["probability"] is None and r["top5"] is None) == bool(only) for r in records)
            assert (json.loads((output / "metrics.json").read_text())["loss"] is None) == bool(only)
    first = found[7, False]
    for records in found.values():
        assert [(r["question"], r["prediction"]) for r in records] == [(r["question"], r["prediction"]) for r in first]
    for batch in (40, 500):
        probabilities = [r["probability"] for r in found[batch, False]]
        assert probabilities == pytest.approx([r["probability"] for r in first], abs=1e-5)


@pytest.mark.parametrize("name", ["", "best", "best_model.pth"])
def test_eval_scores_are_equal_for_every_form_of_a_checkpoint(run_folder: Path, name: str, tmp_path: Path) -> None:
    checkpoint = run_folder / name
    assert main(["eval", f"--checkpoint={checkpoint}", f"--output={tmp_path}", "--workers=0", "--scores"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    records = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert metrics["n"] == len(records) > 50
    assert set(metrics["by_video"]) == {"VID02"}
    assert all(len(r["scores"]) == 51 for r in records)
    reference = run_folder.parent / "reference.json"
    scores = [r["scores"] for r in records]
    if reference.exists():
        assert json.loads(reference.read_text()) == scores
    else:
        reference.write_text(json.dumps(scores))


def test_predict_prints_answers(run_folder: Path, synthetic_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = synthetic_set / "frames" / "VID02" / "000000.png"
    question = "How many instruments are there?"
    command = ["predict", "--checkpoint", str(run_folder), "--image", str(image), "--question", question, "--json"]
    assert main(command) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert len(answers) == 5
    assert answers[0]["probability"] >= answers[1]["probability"]


def test_the_saved_config_starts_the_same_run(run_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["train", "--config", str(run_folder / "config.yaml"), f"--checkpoint-dir={again}"]) == 0
    first, second = ((f / "metrics.jsonl").read_text().splitlines() for f in (run_folder, again))
    losses = [[r["loss"] for r in map(json.loads, lines) if "loss" in r] for lines in (first, second)]
    assert losses[0] == losses[1]


def test_an_existing_run_is_not_overwritten(
    run_folder: Path, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "best" / "model.safetensors").read_bytes()
    assert main(["train", *TINY, *data_flags, f"--checkpoint-dir={run_folder}", "--max-steps=1"]) == 2
    assert "holds a run with other flags (--max-steps was" in capsys.readouterr().err
    assert (run_folder / "best" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_signal_saves_and_exits_75(data_flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*TINY, *data_flags, f"--checkpoint-dir={folder}", "--max-steps=100000", "--log-interval=1"]
    with running([sys.executable, "-m", "surgvivqa", "train", *flags]) as process:
        wait_until((folder / "metrics.jsonl").exists, process)
        process.send_signal(signal.SIGTERM)
        code, errors, _ = wait_for_exit(process)
    assert code == 75, errors
    saved = list((folder / "checkpoints").iterdir())
    assert len(saved) == 1
    assert (saved[0] / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--gradient-checkpointing"],
        ["--debug"],
        ["--bf16"],
        ["--mask=bidirectional", "--questions-per-frame=2"],
        ["--mask=causal", "--gradient-accumulation-steps=3"],
        ["--clip-mode=past", "--num-frames=4", "--frame-fit=crop"],
        ["--prompt-mode=choices", "--max-length=192", "--frame-fit=pad"],
        ["--schedule=constant", "--max-grad-norm=0", "--best-metric=loss", "--max-train-samples=20"],
    ],
    ids=lambda flags: flags[0],
)
def test_every_training_option_runs_and_its_checkpoint_evaluates(
    data_flags: list[str], tmp_path: Path, flags: list[str]
) -> None:
    steps = ["--max-steps=2", "--val-max-samples=6", "--log-interval=1"]
    assert main(["train", *TINY, *data_flags, *steps, *flags, f"--checkpoint-dir={tmp_path}/run"]) == 0
    evaluate = ["eval", f"--checkpoint={tmp_path}/run", "--max-samples=6", "--workers=0"]
    assert main([*evaluate, f"--output={tmp_path}/eval"]) == 0
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["n"] > 0
