"""``eval`` and ``predict`` in 16 bits have the results of autocast, with weights held in the dtype."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from surgvivqa.cli import main
from surgvivqa.commands import predict as predict_command
from surgvivqa.commands.precision import prepare_inference
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.tf32 import full_float32, set_tf32
from tests.helpers.runs import sentence
from tests.helpers.small_models import LABEL_IDS, PROMPTS, clips, small_model

HALVES = [torch.bfloat16, torch.float16]


def score(model: SurgViVQAModel) -> torch.Tensor:
    return model.score(clips(), PROMPTS, LABEL_IDS, "prefix")


@pytest.mark.parametrize("dtype", HALVES)
def test_scores_in_16_bits_are_those_of_autocast_alone(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype):
        expected = score(small_model(lora=True))
    model = small_model(lora=True)
    exact = score(model)
    with prepare_inference(model, dtype):
        scores = score(model)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)
    assert not torch.equal(scores, exact)
    torch.testing.assert_close(scores, exact, rtol=0, atol=0.5)


def test_float32_changes_nothing() -> None:
    model = small_model(lora=True)
    exact = score(model)
    with prepare_inference(model, torch.float32):
        assert torch.equal(score(model), exact)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("fills_cache", [False, True])
def test_the_video_encoder_fills_a_cache_in_float32(fills_cache: bool) -> None:
    model = small_model()
    tokens = model.encode_video(clips())
    with prepare_inference(model, torch.bfloat16, fills_cache=fills_cache), torch.autocast("cpu", enabled=False):
        dtypes = {parameter.dtype for parameter in model.visual_encoder.parameters()}
        assert dtypes == ({torch.float32} if fills_cache else {torch.float32, torch.bfloat16})
        if fills_cache:
            assert torch.equal(model.encode_video(clips()), tokens)
    assert model.text_encoder.encoder.layer[0].crossattention.self.key.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("command", ["eval", "predict"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fp16", "--bf16"], "--fp16 and --bf16 cannot be combined"),
        (["--fp16"], "--fp16 needs a GPU and none is visible"),
    ],
)
def test_a_precision_that_cannot_be_used_is_refused(
    command: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--image=x.png", "--question=Is it?"] if command == "predict" else []
    assert main([command, "--checkpoint=tiny", *inputs, *flags]) == 2
    assert message in sentence(capsys)


@pytest.mark.parametrize("cached", [False, True])
def test_eval_in_bfloat16_gives_nearly_the_same_answers(cached: bool, data_flags: list[str], tmp_path: Path) -> None:
    answers = []
    for n, flags in enumerate(([], ["--bf16"])):
        cache = [f"--cache={tmp_path / 'cache'}"] if cached else []
        output = tmp_path / str(n)
        common = ["--checkpoint=tiny", "--workers=0", "--max-samples=60", f"--output={output}", "--tf32"]
        assert main(["eval", *common, *data_flags, *cache, *flags]) == 0
        lines = (output / "predictions.jsonl").read_text().splitlines()
        answers.append([line.partition('"prediction": ')[2].partition(",")[0] for line in lines])
    equal = sum(one == other for one, other in zip(*answers, strict=True))
    assert len(answers[0]) >= 60 and equal > 0.9 * len(answers[0])


def test_predict_runs_on_a_visible_gpu(
    synthetic_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved: list[torch.device] = []
    monkeypatch.setattr(predict_command, "start_processes", lambda: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(SurgViVQAModel, "to", lambda _, device: moved.append(device))
    image = synthetic_set / "frames" / "VID02" / "000000.png"
    assert main(["predict", "--checkpoint=tiny", f"--image={image}", "--question=Is it?", "--bf16"]) == 0
    assert moved == [torch.device("cuda")]
    assert "%" in capsys.readouterr().out


def test_sums_of_log_probabilities_do_not_use_tf32() -> None:
    flags: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [flag.allow_tf32 for flag in flags]
    try:
        set_tf32(True)
        assert all(flag.allow_tf32 for flag in flags)
        with full_float32():
            assert not any(flag.allow_tf32 for flag in flags)
        assert all(flag.allow_tf32 for flag in flags)
        set_tf32(False)
        assert not any(flag.allow_tf32 for flag in flags)
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value
