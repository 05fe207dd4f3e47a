"""Long answers from training to the figures of generated texts: ``--target long`` and ``eval --generate``."""

import json
from pathlib import Path

import pytest
import torch

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig
from surgvivqa.datasets.opening import open_dataset
from surgvivqa.synthetic.write import SynthConfig, write_synthetic
from tests.helpers.reference import reference_log_prob, reference_logits

NEW_TOKENS = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colon")
    write_synthetic(SynthConfig(out=folder, layout="real-colon-vqa", videos=3, frames_per_video=8, workers=1))
    return folder


@pytest.fixture(scope="module")
def flags(root: Path) -> list[str]:
    folders = [f"--question-root={root / 'questions'}", f"--image-root={root / 'frames'}"]
    return ["--dataset=real-colon-vqa", *folders, f"--splits-dir={root / 'splits'}", "--workers=0"]


@pytest.fixture(scope="module")
def run(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "long"
    more = [
        "--preset=tiny",
        "--target=long",
        "--best-metric=loss",
        "--max-steps=3",
        "--batch-size=4",
        "--log-interval=1",
    ]
    assert main(["train", *flags, *more, f"--checkpoint-dir={folder}", "--full-finetune", "--save-every-steps=0"]) == 0
    return folder


@pytest.mark.slow
def test_sentences_are_learned_generated_and_compared(run: Path, root: Path, flags: list[str]) -> None:
    generate = ["--split=val", "--check-samples=0", "--generate", f"--max-new-tokens={NEW_TOKENS}"]
    assert main(["eval", f"--checkpoint={run}", *generate, *flags]) == 0
    rows = [json.loads(line) for line in (run / "eval-val" / "predictions.jsonl").read_text().splitlines()]
    section = json.loads((run / "eval-val" / "metrics.json").read_text())["generation"]
    assert section["figures"]["n"] == len(rows) > 0 and section["signature"].startswith("nrefs:1")

    bundle = load_checkpoint(run, ModelConfig())
    assert bundle.run.config.target == "long"
    dataset = open_dataset("real-colon-vqa", root / "questions", root / "splits", label_set=bundle.label_set)
    frames, _ = dataset.questions(dataset.splits.val)
    store, tokens = bundle.frame_store(root / "frames", dataset.picture_files), bundle.prompt_tokenizer("long")
    losses, texts, sentences = [], [], []
    with torch.inference_mode():
        for frame in frames:
            video = bundle.model.encode_video(store.clip(frame.video, frame.frame).unsqueeze(0))
            for question in frame.questions:
                prompt, answer = tokens.prompt_ids(question.question), list[int]()
                losses.append(-reference_log_prob(bundle.model, prompt, tokens.target_ids(question), video, "prefix"))
                while len(answer) < NEW_TOKENS:
                    token = int(reference_logits(bundle.model, prompt, answer, video, "prefix")[-1].argmax())
                    if token == tokens.end:
                        break
                    answer.append(token)
                texts.append(tokens.decode(answer))
                sentences.append(question.long_answer)
    assert [row["generated"] for row in rows] == texts
    assert [row["long_answer"] for row in rows] == sentences
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (validation,) = [line["val_loss"] for line in log if "val_loss" in line]
    assert validation == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_long_targets_need_a_figure_of_sentences(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"--checkpoint-dir={tmp_path / 'r'}"
    assert main(["train", *flags, "--preset=tiny", "--target=long", folder]) == 2
    assert "add --best-metric loss" in capsys.readouterr().err


def test_a_data_set_without_long_answers_is_refused(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--preset=tiny", "--target=long", "--best-metric=loss", f"--checkpoint-dir={tmp_path / 'r'}"]
    assert main(["train", *data_flags, *more]) == 2
    assert "has no long answer; use --target short" in capsys.readouterr().err
