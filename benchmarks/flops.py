"""Operations of the project's matrix products, counted from shapes: a lower bound ("floor") of a stage's time.

All counts are floating-point operations, two per multiply-add. Norms, softmax, activations, dropout, memory traffic and
Python are excluded: they are the distance from the floor.
"""

from typing import Any

from torch import Tensor

from surgvivqa.data.packing import PackedStream
from surgvivqa.model.configuration import SurgViVQAConfig

PARTS = ("VideoMAE", "cross keys+values", "BLIP", "GPT-2 forward", "GPT-2 backward", "output layer")


def linear(rows: int, wide: int, out: int) -> int:
    """A product ``[rows, wide] x [wide, out]``."""
    return 2 * rows * wide * out


def attention(groups: int, queries: int, keys: int, hidden: int) -> int:
    """Queries times keys, and weights times values, of all heads."""
    return 2 * linear(groups * queries, hidden, keys)


def masked_attention(mask: Tensor, hidden: int) -> int:
    """``attention`` under a mask ``[groups, queries, keys]``."""
    groups, queries, keys = mask.shape
    return attention(groups, queries, keys, hidden)


def video_tokens(config: Any) -> int:
    """Tokens of a clip in VideoMAE."""
    return config.num_frames // config.tubelet_size * (config.image_size // config.patch_size) ** 2


def video_encoder(config: Any, frames: int) -> int:
    """VideoMAE on ``frames`` clips."""
    tokens, hidden = video_tokens(config), config.hidden_size
    rows = frames * tokens
    patch = config.num_channels * config.tubelet_size * config.patch_size**2
    layer = linear(rows, hidden, 4 * hidden) + 2 * linear(rows, hidden, config.intermediate_size)
    layer += attention(frames, tokens, tokens, hidden)
    return linear(rows, patch, hidden) + config.num_hidden_layers * layer


def cross_keys_values(config: Any, frames: int, tokens: int) -> int:
    """The text encoder's cross-attention keys and values of ``tokens`` video tokens per frame."""
    one = linear(frames * tokens, config.encoder_hidden_size, config.hidden_size)
    return config.num_hidden_layers * 2 * one


def text_encoder(config: Any, packed: PackedStream, tokens: int) -> int:
    """BLIP on a packed stream, without its cross-attention's keys and values."""
    rows, hidden = len(packed.input_ids), config.hidden_size
    longest = len(packed.frames.source) // packed.frames.num_groups
    layer = linear(rows, hidden, 6 * hidden) + 2 * linear(rows, hidden, config.intermediate_size)
    layer += masked_attention(packed.text_mask, hidden) + attention(packed.frames.num_groups, longest, tokens, hidden)
    return config.num_hidden_layers * layer


def decoder(config: Any, packed: PackedStream, rank: int) -> tuple[int, int]:
    """GPT-2 with adapters: the forward pass, and the backward pass to the adapters.

    A frozen matrix needs the gradient of its input (one product), an adapter its own gradient too (two products per
    matrix). Nothing below the first layer's ``c_attn`` needs a gradient.
    """
    rows, hidden = len(packed.input_ids), config.n_embd
    inner = config.n_inner or 4 * hidden
    frozen = linear(rows, hidden, 4 * hidden) + 2 * linear(rows, hidden, inner)
    wide, out = hidden + hidden + inner, 3 * hidden + hidden + hidden  # c_attn, c_proj, the MLP's c_proj
    adapters = linear(rows, rank, wide + out)
    attended = masked_attention(packed.decoder_mask, hidden)
    forward = config.n_layer * (frozen + adapters + attended)
    backward = config.n_layer * (frozen + 2 * adapters + 2 * attended)
    backward -= linear(rows, hidden, 3 * hidden) + linear(rows, rank, hidden)
    return forward, backward


def breakdown(
    config: SurgViVQAConfig, packed: PackedStream, *, video: bool = True, text: bool = True, train: bool = False
) -> dict[str, int]:
    """Operations of one pass of the project by part.

    Args:
        config: the model's configuration.
        packed: the packed stream.
        video: whether clips are encoded; False if their tokens are cached.
        text: whether the text encoder runs; False if its outputs are cached.
        train: whether the adapters' gradients are computed.
    """
    frames, tokens = packed.frames.num_groups, video_tokens(config.video_config)
    forward, backward = decoder(config.decoder_config, packed, int(config.lora["r"]) if config.lora else 0)
    output = linear(
        len(packed.target_positions.unique()), config.decoder_config.n_embd, config.decoder_config.vocab_size
    )
    return {
        "VideoMAE": video_encoder(config.video_config, frames) if video else 0,
        "cross keys+values": cross_keys_values(config.text_config, frames, tokens) if text else 0,
        "BLIP": text_encoder(config.text_config, packed, tokens) if text else 0,
        "GPT-2 forward": forward,
        "GPT-2 backward": backward if train else 0,
        "output layer": output * (2 if train else 1),
    }


def add_nodes(config: SurgViVQAConfig, parts: dict[str, int], nodes: int, prompt: float) -> dict[str, int]:
    """Adds ``nodes`` answer tokens after prompts of ``prompt`` tokens on average (branch and bound)."""
    text, gpt, keys = config.text_config, config.decoder_config, round(prompt) + 1
    hidden, wide = text.hidden_size, gpt.n_embd
    inner, rank = gpt.n_inner or 4 * wide, int(config.lora["r"]) if config.lora else 0
    blip = linear(nodes, hidden, 6 * hidden) + 2 * linear(nodes, hidden, text.intermediate_size)
    blip += attention(1, nodes, keys, hidden) + attention(1, nodes, video_tokens(config.video_config), hidden)
    layer = linear(nodes, wide, 4 * wide) + 2 * linear(nodes, wide, inner) + attention(1, nodes, keys, wide)
    layer += linear(nodes, rank, 7 * wide + inner)
    return parts | {
        "BLIP": parts["BLIP"] + text.num_hidden_layers * blip,
        "GPT-2 forward": parts["GPT-2 forward"] + gpt.n_layer * layer,
        "output layer": parts["output layer"] + linear(nodes, wide, gpt.vocab_size),
    }
