"""The published parts: loaded from folders of random weights in small, whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BlipTextConfig,
    GPT2Config,
    VideoMAEConfig,
)

from surgvivqa.checkpoints.backbones import load_text_encoder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.saving import export_pth, save_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.text_states import build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.freezing import apply_freezing, trainable_table
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from tests.helpers.parts import config, make_parts, randomize_trainable, settings

PARTS = (("video", "video"), ("text", "text"), ("decoder", "gpt2"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``video``, ``text`` (in the layout of blip-vqa-base) and ``gpt2`` with small random weights."""
    return make_parts(tmp_path_factory.mktemp("parts"))


def test_the_question_answering_layout_of_blip_is_loaded_tensor_for_tensor(parts: Path) -> None:
    saved = load_file(parts / "text" / "model.safetensors")
    loaded = load_text_encoder(str(parts / "text")).state_dict()
    named = [k for k in saved if k.startswith("text_encoder.")]
    assert len(named) > 20
    for name in named:
        assert torch.equal(saved[name], loaded[name.removeprefix("text_encoder.")]), name


@pytest.mark.parametrize(
    ("part", "prefix"), [("text", "text_encoder."), ("video", "videomae."), ("gpt2", "transformer.h.0")]
)
def test_a_part_left_at_random_is_an_error_that_names_it(parts: Path, part: str, prefix: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(parts, tmp_path / "p")
    file = tmp_path / "p" / part / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if not k.startswith(prefix)}, file, {"format": "pt"})
    with pytest.raises(InputError, match="would stay partly random"):
        build_for_training(config(tmp_path / "p"))


def test_lora_alone_is_trained_and_saved_and_restores_the_model(parts: Path, tmp_path: Path) -> None:
    bundle = build_for_training(config(parts))
    table = {name: (trained, total) for name, trained, total in trainable_table(bundle.model)}
    assert [name for name, (trained, _) in table.items() if trained] == ["llm LoRA"]
    for name, parameter in bundle.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_checkpoint(bundle, tmp_path / "best")
    export_pth(bundle, tmp_path / "lone.pth")
    assert all("lora_" in k for k in load_file(tmp_path / "best" / "model.safetensors"))
    for path in (tmp_path / "best", tmp_path / "lone.pth"):
        again = load_checkpoint(path, settings(parts)).model.state_dict()
        for name, tensor in bundle.model.state_dict().items():
            assert torch.equal(tensor, again[name]), (path.name, name)


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ({}, {"llm LoRA"}),
        ({"train_blip": True}, {"text_encoder", "llm LoRA"}),
        ({"unfreeze_blip_last_n": 1}, {"text_encoder", "llm LoRA"}),
        ({"train_gpt2_full": True}, {"llm base", "llm LoRA"}),
        ({"full_finetune": True}, {"llm base"}),
        ({"train_video": "patch-embed"}, {"visual_encoder", "llm LoRA"}),
        ({"train_video": "full"}, {"visual_encoder", "llm LoRA"}),
    ],
)
def test_each_flag_trains_its_part(parts: Path, flags: dict[str, Any], trained: set[str]) -> None:
    model = build_for_training(config(parts, **flags)).model
    assert {name for name, count, _ in trainable_table(model) if count} == trained


def test_at_full_size_lora_is_811008_of_364480512_parameters() -> None:
    with torch.device("meta"):
        blip = BlipTextConfig(vocab_size=50257, encoder_hidden_size=768, num_attention_heads=12)
        sizes = SurgViVQAConfig(VideoMAEConfig(), blip, GPT2Config(), lora={"r": 8, "alpha": 32, "dropout": 0.1})
        model = SurgViVQAModel(sizes)
    apply_freezing(model, TrainConfig())
    table = trainable_table(model)
    assert sum(row[1] for row in table) == 811_008
    assert sum(row[2] for row in table) == 364_480_512


def test_nothing_to_train_is_an_error(parts: Path) -> None:
    with pytest.raises(InputError, match="Nothing would be trained"):
        build_for_training(config(parts, lora_r=0))


def test_a_published_file_with_the_old_names_is_read_and_written(parts: Path, tmp_path: Path) -> None:
    bundle = build_for_training(config(parts, train_video="full"))
    randomize_trainable(bundle.model)
    export_pth(bundle, tmp_path / "whole.pth")
    names = set(torch.load(tmp_path / "whole.pth", weights_only=True))
    assert "visual_encoder.encoder.layer.0.attention.attention.q_bias" in names
    assert "visual_encoder.encoder.layer.1.attention.attention.v_bias" in names
    assert not any(name.endswith("query.bias") for name in names if name.startswith("visual_encoder"))
    again = load_checkpoint(tmp_path / "whole.pth", settings(parts)).model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"full_finetune": True}, {}),
        ({"train_blip": True}, {}),
        ({}, {"train_blip": True}),
        ({}, {"full_finetune": True}),
        ({}, {"lora_r": 0, "train_blip": True}),
        ({"train_gpt2_full": True}, {"full_finetune": True}),
    ],
)
def test_a_second_run_saves_the_tensors_that_the_first_one_trained(
    parts: Path, tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    start = build_for_training(config(parts, **first))
    randomize_trainable(start.model)
    save_checkpoint(start, tmp_path / "first")
    bundle = build_for_training(config(parts, **second, pretrained_ckpt=tmp_path / "first"))
    randomize_trainable(bundle.model)
    bundle.model.eval()
    save_checkpoint(bundle, tmp_path / "second")
    again = load_checkpoint(tmp_path / "second", ModelConfig()).model.state_dict()
    assert again.keys() == bundle.model.state_dict().keys()
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_merging_the_adapters_changes_no_output(parts: Path, tmp_path: Path) -> None:
    start = build_for_training(config(parts))
    randomize_trainable(start.model)
    save_checkpoint(start, tmp_path / "first")
    merged = build_for_training(config(parts, full_finetune=True, pretrained_ckpt=tmp_path / "first")).model
    assert merged.config.lora is None
    ids = torch.tensor([[1, 2, 3]])
    start.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            start.model.decoder(input_ids=ids).logits, merged.eval().decoder(input_ids=ids).logits, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("flags", [{"lora_r": 4}, {"lora_alpha": 8}, {"video_model": "elsewhere"}])
def test_a_flag_that_contradicts_the_checkpoint_is_refused(parts: Path, tmp_path: Path, flags: dict[str, Any]) -> None:
    save_checkpoint(build_for_training(config(parts)), tmp_path / "first")
    with pytest.raises(InputError, match="contradicts --pretrained-ckpt"):
        build_for_training(TrainConfig(pretrained_ckpt=tmp_path / "first", **flags))


def test_a_checkpoint_records_its_model_parts(parts: Path, tmp_path: Path) -> None:
    save_checkpoint(build_for_training(config(parts, lora_r=4)), tmp_path / "first")
    found = build_for_training(TrainConfig(pretrained_ckpt=tmp_path / "first")).settings
    assert (found.lora_r, found.num_frames, found.video_model) == (4, 4, str(parts / "video"))


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [("video_model", "gpt2", "is a gpt2 model"), ("decoder_model", "video", "is a videomae model")],
)
def test_parts_that_do_not_belong_together(parts: Path, flag: str, value: str, message: str) -> None:
    run = config(parts)
    setattr(run, flag, str(parts / value))
    with pytest.raises(InputError, match=message):
        build_for_training(run)


@pytest.mark.parametrize("pool", ["none", "temporal"])
def test_the_cache_of_a_published_encoder_is_the_one_that_training_reads(
    parts: Path, data_flags: list[str], synthetic_set: Path, tmp_path: Path, pool: str
) -> None:
    flags = [*data_flags, f"--video-model={parts / 'video'}", "--num-frames=4", f"--video-pool={pool}"]
    assert main(["cache", *flags, f"--cache={tmp_path}", "--splits=train", "--workers=0"]) == 0
    bundle = build_for_training(config(parts, video_pool=pool))
    tokens = build_video_token_source(bundle, bundle.frame_store(synthetic_set / "frames"), tmp_path)
    numbers = [int(path.stem) for path in (synthetic_set / "ssg-qa" / "VID04").iterdir()]
    inputs = tokens.reader.read([FrameQuestions("VID04", number, ()) for number in numbers])
    assert all(inputs.cached)
    assert inputs.tokens is not None
    assert inputs.tokens.shape == (4, 4 if pool == "temporal" else 8, 32)


def test_the_cache_of_text_of_published_parts_is_the_one_that_training_reads(
    parts: Path, data_flags: list[str], synthetic_set: Path, tmp_path: Path
) -> None:
    names = [f"--{part}-model={parts / folder}" for part, folder in PARTS]
    flags = [*data_flags, *names, "--num-frames=4", "--max-length=640", f"--cache={tmp_path}", "--workers=0"]
    assert main(["cache", *flags, "--splits=train", "--cache-text"]) == 0
    # Other seeds and adapters: the published text encoder has no pooler, so that one's weights are drawn.
    bundle = build_for_training(config(parts, max_length=640, seed=7, lora_r=2))
    video = build_video_token_source(bundle, bundle.frame_store(synthetic_set / "frames"), tmp_path)
    text = build_text_state_source(bundle, video, bundle.prompt_tokenizer(), tmp_path, "fp16")
    frames = list(open_questions(synthetic_set / "ssg-qa", ["VID04"])[0])
    inputs = text.reader.read_requests([(frame, [0]) for frame in frames])
    assert inputs.uncached == (None,) * 4
    assert inputs.states is not None
    assert inputs.states.shape == (sum(end - start for ((start, end),) in inputs.token_ranges), 32)
