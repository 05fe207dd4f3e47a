"""Configurations and weights that both implementations share, the clip they are timed on, and local model folders."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    VideoMAEConfig,
    VideoMAEModel,
)
from transformers.initialization import no_init_weights

from benchmarks.questions import SEED, VOCABULARY
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel

SIZES = ("full", "small")
LORA = {"r": 8, "alpha": 32, "dropout": 0.1}


def make_config(size: str) -> SurgViVQAConfig:
    """``full``: VideoMAE-base, BLIP-base text and GPT-2 small; ``small``: two layers of width 64 each.

    Both have GPT-2's vocabulary.
    """
    small = size == "small"
    hidden, layers, heads = (64, 2, 4) if small else (768, 12, 12)
    shape: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }
    return SurgViVQAConfig(
        video_config=VideoMAEConfig(
            image_size=32 if small else 224, num_frames=4 if small else 16, use_mean_pooling=False, **shape
        ),
        text_config=BlipTextConfig(vocab_size=VOCABULARY, encoder_hidden_size=hidden, **shape),
        decoder_config=GPT2Config(n_embd=hidden, n_layer=layers, n_head=heads),
        lora=dict(LORA),
    )


def fill_weights(model: nn.Module, seed: int = SEED) -> None:
    """Sets every parameter to values that depend on the seed and its name: models with equal names become equal.

    VideoMAE's and BLIP's matrices preserve the scale of their input, so that attention is far from uniform and a wrong
    mask shows in the losses. GPT-2's have its initial deviation (0.02 at width 768), from which adapters can be
    trained. Biases and both matrices of the adapters are small but not zero, so that every term matters.
    """

    @torch.no_grad()
    def fill_one(named: tuple[str, nn.Parameter]) -> None:
        name, parameter = named
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        matrix = parameter.ndim > 1 and "lora_" not in name
        gain = 0.55 if name.startswith("llm.") else 1.0
        if name.startswith("text_encoder.") and name.endswith("output.dense.weight"):
            gain = 0.25  # of a layer's residual; at 1.0, twelve layers leave little of the input token
        deviation = gain * min(parameter.flatten(1).shape) ** -0.5 if matrix else 0.02
        parameter.normal_(0.0, deviation, generator=generator)
        is_norm = "norm" in name.lower() or ".ln_" in name
        if is_norm and name.endswith("weight"):
            # A random output layer gives nearly uniform logits; the gain of the final norm compensates for that.
            parameter.add_(4.0 if name.endswith("ln_f.weight") else 1.0)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # PyTorch draws random numbers in one thread
        list(threads.map(fill_one, model.named_parameters()))


def freeze_all_but_lora(model: nn.Module) -> None:
    """Freezes all parameters except the adapters'."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def build_model(size: str, device: str) -> SurgViVQAModel:
    """The project's model in its training modes (frozen parts in eval mode, the adapters' dropout on)."""
    with no_init_weights():
        model = SurgViVQAModel(make_config(size))
    model.decoder.tie_weights()
    fill_weights(model)
    freeze_all_but_lora(model)
    set_modes(model)
    return model.to(device)


def make_frame(config: SurgViVQAConfig, seed: int = SEED) -> Tensor:
    """One frame ``[3, H, W]`` float32, normally distributed."""
    side = config.video_config.image_size
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))


def make_clip(config: SurgViVQAConfig) -> Tensor:
    """A clip ``[1, T, 3, H, W]`` float32: one frame repeated."""
    return make_frame(config).expand(1, config.video_config.num_frames, -1, -1, -1).contiguous()


def write_parts(size: str, out: Path) -> list[str]:
    """Writes VideoMAE, BLIP's text encoder and GPT-2 with random weights as local folders.

    The tokenizer is the packaged base's: byte-level BPE trained on the synthetic set's questions.

    Args:
        size: ``full`` or ``small``.
        out: the folder for ``video``, ``text`` and ``gpt2``.

    Returns:
        The flags of ``train`` that name them.
    """
    config = make_config(size)
    with no_init_weights():
        video = VideoMAEModel(config.video_config)
        text = BlipTextModel(config.text_config, add_pooling_layer=True)
        gpt2 = GPT2LMHeadModel(config.decoder_config)
    gpt2.tie_weights()
    fill_weights(nn.ModuleDict({"visual_encoder": video, "text_encoder": text, "llm": gpt2}))
    for part, name in ((video, "video"), (text, "text"), (gpt2, "gpt2")):
        part.save_pretrained(out / name)
    load_folder(PACKAGED_BASE).tokenizer.save_pretrained(out / "gpt2")
    return [f"--video-model={out / 'video'}", f"--text-model={out / 'text'}", f"--decoder-model={out / 'gpt2'}"]
