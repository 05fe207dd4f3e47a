"""For combinations of freezing flags, exactly the expected parameters get gradients and change in ten steps."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig
from surgvivqa.data.packing import pack_training
from surgvivqa.model.freezing import set_modes
from surgvivqa.training.initial_model import build_for_training
from tests.helpers.parts import add_decoder, config, make_parts

LORA = r"llm\..*\.lora_[AB]\."
BLIP = r"text_encoder\.(embeddings|encoder)\."
LAST_BLIP = r"text_encoder\.encoder\.layer\.1\."
GPT2 = r"llm\.(?!.*lora_)"
PATCHES = r"visual_encoder\.(embeddings\.patch_embeddings|layernorm)\."
VIDEO = r"visual_encoder\."
PROJECTION = r"text_projection\."

TABLE = [
    ({}, [LORA]),
    ({"lora_r": 2}, [LORA]),
    ({"train_blip": True}, [LORA, BLIP]),
    ({"unfreeze_blip_last_n": 1}, [LORA, LAST_BLIP]),
    ({"train_gpt2_full": True}, [LORA, GPT2]),
    ({"full_finetune": True}, [GPT2]),
    ({"full_finetune": True, "train_gpt2_full": True}, [GPT2]),  # the published recipe's second command
    ({"train_video": "patch-embed"}, [LORA, PATCHES]),
    ({"train_video": "full"}, [LORA, VIDEO]),
    ({"lora_r": 0, "unfreeze_blip_last_n": 1}, [LAST_BLIP]),
    ({"full_finetune": True, "train_blip": True, "train_video": "full"}, [GPT2, BLIP, VIDEO]),
    ({"decoder": "qwen3"}, [LORA, PROJECTION]),
    ({"decoder": "qwen3", "full_finetune": True}, [GPT2, PROJECTION]),
    (
        {"decoder": "llama", "full_finetune": True},
        [r"llm\.(?!model\.embed_tokens)", PROJECTION],
    ),  # embed_tokens is not used
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_parts(tmp_path_factory.mktemp("parts"))
    for kind in ("llama", "qwen3"):
        add_decoder(root, kind)
    return root


def is_named(name: str, patterns: list[str]) -> bool:
    return any(re.match(p, name) for p in patterns)


def format_flags(row: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in row[0].items()) or "default"


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "patterns"), TABLE, ids=[format_flags(row) for row in TABLE])
def test_exactly_the_expected_parameters_train(
    parts: Path, data_flags: list[str], flags: dict[str, object], patterns: list[str], tmp_path: Path
) -> None:
    run = config(parts, **flags)  # type: ignore[arg-type]
    before = build_for_training(run)
    model = before.model
    tied = set(model.all_tied_weights_keys)
    expected = {n for n in model.state_dict() if is_named(n, patterns) and n not in tied}
    assert expected and {n for n, p in model.named_parameters() if p.requires_grad} == expected
    start = {n: t.clone() for n, t in model.state_dict().items()}

    # One backward pass: exactly the expected parameters have gradients.
    set_modes(model)
    prompts = before.prompt_tokenizer()
    clips = torch.randn(1, 4, 3, 32, 32)
    packed = pack_training([[prompts.prompt_ids("How many?")]], [[prompts.label_ids[30]]], "prefix")
    model(packed, pixel_values=clips).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == expected

    # Ten steps of the command: exactly those tensors change.
    decoder = flags.get("decoder", "gpt2")
    command_flags = [f"--{n}-model={parts / folder}" for n, folder in (("video", "video"), ("text", "text"))]
    command_flags += [f"--decoder-model={parts / str(decoder)}", "--num-frames=4", "--max-length=400"]
    for name, value in flags.items():
        if name != "decoder":
            flag = f"--{name.replace('_', '-')}"
            command_flags.append(flag if value is True else f"{flag}={value}")
    command_flags += [
        "--max-steps=10",
        "--batch-size=4",
        "--lr=1e-2",
        "--warmup-steps=0",
        "--eval-every-steps=0",
        "--workers=0",
    ]
    command_flags += ["--val-max-samples=5", f"--checkpoint-dir={tmp_path / 'run'}"]
    assert main(["train", *data_flags, *command_flags]) == 0
    after = load_checkpoint(tmp_path / "run", ModelConfig()).model.state_dict()
    assert after.keys() == start.keys()
    changed = {n for n, tensor in start.items() if not torch.equal(tensor, after[n])} - tied
    assert changed == expected
    # The checkpoint holds exactly the trained tensors.
    written = torch.load(tmp_path / "run" / "best_model.pth", weights_only=True)
    assert len(written) == len(expected)
