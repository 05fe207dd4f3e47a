"""Folders of small random weights, laid out as the published parts, and decoders of several kinds."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM as CausalLM
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    BlipTextConfig,
    BlipVisionConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    VideoMAEConfig,
    VideoMAEForPreTraining,
)

from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.data.labels import LABELS
from surgvivqa.synthetic.tokenizer import train_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LLAMA = {**SIZES, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
KINDS = ("gpt2", "llama", "qwen3", "split")
"""Decoders that ``add_decoder`` makes; ``split`` is a Llama whose tokenizer splits numbers, so labels begin labels."""


def make_parts(root: Path, video_hidden: int = 32, num_frames: int = 4) -> Path:
    """Folders ``video``, ``text`` (in the layout of blip-vqa-base) and ``gpt2`` with small random weights."""
    torch.manual_seed(0)
    sizes = {**SIZES, "hidden_size": video_hidden}
    video = VideoMAEConfig(**sizes, image_size=32, num_frames=num_frames, use_mean_pooling=False,
                           decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
                           decoder_intermediate_size=32, initializer_range=0.1)  # fmt: skip
    VideoMAEForPreTraining(video).save_pretrained(root / "video")
    blip = BlipConfig(
        text_config=BlipTextConfig(
            **SIZES, vocab_size=300, encoder_hidden_size=32, projection_dim=32, initializer_range=0.1
        ).to_dict(),
        vision_config=BlipVisionConfig(**SIZES, image_size=32).to_dict(),
    )
    BlipForQuestionAnswering(blip).save_pretrained(root / "text")
    add_decoder(root, "gpt2")
    return root


def add_decoder(root: Path, kind: str) -> Path:
    """A folder named for the kind with a small random decoder and its tokenizer."""
    tokenizer: Any = (
        llama_tokenizer() if kind != "gpt2" else train_tokenizer(["How many tools are there?"], vocab_size=400)
    )
    if kind == "split":
        tokenizer = splitting_tokenizer()
    rows = len(tokenizer) + 5  # vocabularies are often padded
    config: Any = {
        "gpt2": lambda: GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.1),
        "llama": lambda: LlamaConfig(vocab_size=rows, **LLAMA),
        "split": lambda: LlamaConfig(vocab_size=rows, **LLAMA, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(vocab_size=rows, **LLAMA, head_dim=12, tie_word_embeddings=True),
    }[kind]()
    torch.manual_seed(1)
    CausalLM.from_config(config).save_pretrained(root / kind)
    tokenizer.save_pretrained(root / kind)
    return root / kind


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer that marks spaces as sentencepiece does, also before a text's first word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def splitting_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that makes every digit a token, as Qwen's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def _texts() -> list[str]:
    return [f"Question: How many tools of {label} are there?\nAnswer: {label}" for label in LABELS]


def config(parts: Path, decoder: str = "gpt2", **flags: object) -> TrainConfig:
    """The configuration of a training run on such folders."""
    names = {
        "video_model": str(parts / "video"),
        "text_model": str(parts / "text"),
        "decoder_model": str(parts / decoder),
        "num_frames": 4,
    }
    return TrainConfig(**{**names, **flags})  # type: ignore[arg-type]


def settings(parts: Path, decoder: str = "gpt2", **flags: object) -> ModelConfig:
    """The model settings of such a run."""
    run = config(parts, decoder, **flags)
    return ModelConfig(**{name: getattr(run, name) for name in vars(ModelConfig())})


def randomize_trainable(model: torch.nn.Module, std: float = 0.1) -> None:
    """Gives all trainable parameters random values, as after training."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=std)
