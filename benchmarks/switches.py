"""Switches that turn one optimization of the project off, in this process alone."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.activations import NewGELUActivation

from surgvivqa.data.packing import PackedStream, PaddedLayout, pack_stream
from surgvivqa.model import attention, scoring
from surgvivqa.model.attention import CrossAttentionCache
from surgvivqa.model.dropout import LaneDropout
from surgvivqa.model.modeling import SurgViVQAModel

TRAINING = ("train", "train_cached", "train_text")


@contextlib.contextmanager
def patched(target: Any, name: str, value: Any) -> Iterator[None]:
    """Replaces an attribute while the context is open."""
    missing = object()
    before = vars(target).get(name, missing)
    setattr(target, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(target, name)
        else:
            setattr(target, name, before)


def _eager(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    weights = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (weights if attn_mask is None else weights + attn_mask).softmax(dim=-1) @ value


def without_dropout(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """PyTorch's dropout in the adapters."""
    return patched(LaneDropout, "forward", nn.Dropout.forward)


@contextlib.contextmanager
def without_activation(model: SurgViVQAModel) -> Iterator[None]:
    """Transformers' unfused activation in GPT-2: eight operations."""
    layers = [layer.mlp for layer in model.decoder.transformer.h]
    before = [layer.act for layer in layers]
    for layer in layers:
        layer.act = NewGELUActivation()
    try:
        yield
    finally:
        for layer, act in zip(layers, before, strict=True):
            layer.act = act


def without_blip_sdpa(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Eager attention in BLIP, as in Transformers: products, masks and softmax as separate operations."""
    stock = model.text_states

    def text_states(*args: Any) -> Tensor:
        with patched(attention, "scaled_dot_product_attention", lambda *a, dropout_p=0.0, **k: _eager(*a, **k)):
            return stock(*args)

    assert vars(attention)["scaled_dot_product_attention"] is scaled_dot_product_attention
    return patched(model, "text_states", text_states)


def without_shared_keys(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Cross-attention keys and values computed for each question separately (one frame per step)."""
    stock = model.text_states

    def text_states(packed: PackedStream, video: CrossAttentionCache, layout: Any) -> Tensor:
        each = CrossAttentionCache(video.tokens.expand(packed.sequences.num_groups, -1, -1))
        return stock(dataclasses.replace(packed, frames=packed.sequences), each, layout)

    return patched(model, "text_states", text_states)


def without_gather(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Logits and log-softmax at all positions."""

    def log_probs_at(packed: PackedStream, hidden: Tensor) -> Tensor:
        logs = model.decoder.lm_head(hidden).log_softmax(dim=-1)
        return logs[packed.target_positions, packed.target_ids]

    return patched(model, "log_probs_at", log_probs_at)


def without_packing(model: SurgViVQAModel) -> contextlib.AbstractContextManager[None]:
    """Every question padded to the longest of the step, in the linear layers too (one frame per step)."""

    def pack_padded(*args: Any, **kwargs: Any) -> PackedStream:
        packed = pack_stream(*args, **kwargs)
        sequences, places = packed.sequences, torch.arange(len(packed.sequences.source))
        return dataclasses.replace(
            packed,
            input_ids=packed.input_ids[sequences.source],
            position_ids=packed.position_ids[sequences.source],
            sequences=PaddedLayout(places, places, sequences.num_groups),
            frames=PaddedLayout(places, places, packed.frames.num_groups),
            output_positions=sequences.slots[packed.output_positions],
        )

    return patched(scoring, "pack_stream", pack_padded)


WITHOUT: dict[str, Callable[[SurgViVQAModel], contextlib.AbstractContextManager[None]]] = {
    "packing": without_packing,
    "gather": without_gather,
    "shared-keys": without_shared_keys,
    "blip-sdpa": without_blip_sdpa,
    "activation": without_activation,
    "dropout": without_dropout,
}


def has_effect(name: str, stage: str) -> bool:
    """Whether a switch has an effect in a stage."""
    if name == "dropout":
        return stage in TRAINING
    return not (stage == "train_text" and name in ("shared-keys", "blip-sdpa"))


@contextlib.contextmanager
def without(names: Sequence[str], model: SurgViVQAModel) -> Iterator[None]:
    """Turns several optimizations off."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(WITHOUT[name](model))
        yield
