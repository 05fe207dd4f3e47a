"""Applies the freezing flags, and counts the trainable parameters."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from surgvivqa.config import TrainConfig
from surgvivqa.model.decoders import decoder_layers, output_layer
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.errors import InputError

PARTS = ("visual_encoder", "text_encoder", "projections", "llm base", "llm LoRA")


def lora_settings(config: TrainConfig) -> dict[str, float] | None:
    """The settings of a run's LoRA adapters; None for no adapters."""
    if config.full_finetune or config.lora_r == 0:
        return None
    return {"r": config.lora_r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}


def check_cache_flags(config: TrainConfig) -> None:
    """Checks that the features that a run caches do not change while it trains.

    Raises:
        InputError: ``--cache`` is set and the video encoder trains; or ``--cache-text`` is set and BLIP trains, the
            mask is ``bidirectional``, or ``--cache`` is not set.
    """
    if config.cache_text:
        _check_text_cache_flags(config)
    if config.cache is not None and config.train_video != "none":
        raise InputError(
            f"--cache needs a frozen video encoder; leave out --cache, or --train-video {config.train_video}."
        )


def _check_text_cache_flags(config: TrainConfig) -> None:
    if config.cache is None:
        raise InputError("--cache-text stores text states in the cache folder; give it with --cache DIR.")
    if config.mask == "bidirectional":
        raise InputError(
            "--cache-text needs a mask with which a prompt's text states do not depend on its answer; leave out "
            "--cache-text, or --mask bidirectional."
        )
    if config.train_blip or config.unfreeze_blip_last_n:
        flag = "--train-blip" if config.train_blip else f"--unfreeze-blip-last-n {config.unfreeze_blip_last_n}"
        raise InputError(f"--cache-text needs a frozen text encoder; leave out --cache-text, or {flag}.")


def check_text_cache(model: SurgViVQAModel, config: TrainConfig) -> None:
    """Checks that no trainable projection precedes a text encoder whose states are cached.

    Raises:
        InputError: ``--cache-text`` is set and the model has a ``video_projection``.
    """
    if config.cache_text and model.video_projection is not None:
        raise InputError(
            "--cache-text needs a text encoder whose outputs do not change, but its video tokens pass through a "
            "trainable projection; leave out --cache-text, or take a --video-model of the text encoder's width."
        )


def apply_freezing(model: SurgViVQAModel, config: TrainConfig) -> None:
    """Sets ``requires_grad`` of every parameter from the flags.

    By default only the LoRA adapters and the projections between parts of different widths train. ``--full-finetune``
    and ``--train-gpt2-full`` add the decoder's own weights, ``--train-blip`` and ``--unfreeze-blip-last-n`` the text
    encoder's, ``--train-video`` the video encoder's. BLIP's pooler never trains, since its output is not used.

    Raises:
        InputError: nothing would train, or ``--unfreeze-blip-last-n`` exceeds the text encoder's layers.
    """
    model.requires_grad_(False)
    _unfreeze_video_encoder(model, config)
    _unfreeze_text_encoder(model, config)
    _unfreeze_decoder(model, config)
    for projection in (model.video_projection, model.text_projection):
        if projection is not None:
            projection.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("Nothing would be trained: --lora-r is 0 and no flag unfreezes a part.")


def _unfreeze_video_encoder(model: SurgViVQAModel, config: TrainConfig) -> None:
    if config.train_video == "full":
        model.visual_encoder.requires_grad_(True)
    elif config.train_video == "patch-embed":
        model.visual_encoder.embeddings.patch_embeddings.requires_grad_(True)
        # A VideoMAE configured for mean pooling (Transformers' default) has no LayerNorm after its last layer.
        last = model.visual_encoder.layernorm or model.visual_encoder.encoder.layer[-1].layernorm_after
        last.requires_grad_(True)


def _unfreeze_text_encoder(model: SurgViVQAModel, config: TrainConfig) -> None:
    layers = model.text_encoder.encoder.layer
    if config.unfreeze_blip_last_n > len(layers) or config.unfreeze_blip_last_n < 0:
        raise InputError(
            f"--unfreeze-blip-last-n {config.unfreeze_blip_last_n} asks for more layers than the text encoder has "
            f"(0 to {len(layers)})."
        )
    if config.train_blip:
        model.text_encoder.requires_grad_(True)
    elif config.unfreeze_blip_last_n:
        for layer in layers[-config.unfreeze_blip_last_n :]:
            layer.requires_grad_(True)
    if model.text_encoder.pooler is not None:
        model.text_encoder.pooler.requires_grad_(False)


def _unfreeze_decoder(model: SurgViVQAModel, config: TrainConfig) -> None:
    if config.full_finetune or config.train_gpt2_full:
        model.llm.requires_grad_(True)
        # The decoder's input is the text encoder's output, so the decoder's word embedding trains only if it is tied to
        # the output layer, as in GPT-2.
        embedding = model.decoder.get_input_embeddings().weight
        embedding.requires_grad_(embedding is output_layer(model.decoder).weight)
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def frozen_as(model: SurgViVQAModel, config: TrainConfig) -> Iterator[None]:
    """Context manager that freezes the model as a run does, and restores ``requires_grad`` afterwards.

    Raises:
        InputError: the flags are invalid (``apply_freezing``).
    """
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        apply_freezing(model, config)
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


def set_modes(model: SurgViVQAModel) -> None:
    """Sets training mode for the parts that train and eval mode for frozen parts, so that their dropout is off."""
    model.train()
    for part in (model.visual_encoder, model.text_encoder):
        if not any(p.requires_grad for p in part.parameters()):
            part.eval()
    if not any(p.requires_grad for n, p in model.llm.named_parameters() if "lora_" not in n):
        # The dropout of a frozen decoder is off; the dropout of its adapters is on.
        model.llm.eval()
        for name, module in model.llm.named_modules():
            if "lora_dropout" in name:
                module.train()
        layer: Any
        for layer in decoder_layers(model.decoder):
            # Only the layer and not its modules: activation checkpointing needs training mode.
            layer.training = layer.gradient_checkpointing


def checkpoint_activations(model: SurgViVQAModel) -> None:
    """Enables activation checkpointing: every layer recomputes its activations in the backward pass.

    The layers are set one by one, because Transformers has no switch for BLIP's text model, although its layers support
    it.
    """
    recompute = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    for layer in _layers(model):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = recompute


def _layers(model: SurgViVQAModel) -> list[Any]:
    encoders = (model.visual_encoder.encoder.layer, model.text_encoder.encoder.layer)
    return [layer for layers in (*encoders, decoder_layers(model.decoder)) for layer in layers]


def trainable_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Counts the parameters of each part of the model.

    Returns:
        Rows (part, trainable parameters, all parameters) for ``PARTS``; projections are left out if there are none.
    """
    counts: dict[str, list[int]] = {part: [0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        if part == "llm":
            part = "llm LoRA" if "lora_" in name else "llm base"
        elif part.endswith("_projection"):
            part = "projections"
        counts[part][0] += parameter.numel() if parameter.requires_grad else 0
        counts[part][1] += parameter.numel()
    return [(part, trained, total) for part, (trained, total) in counts.items() if total or part != "projections"]


def trainable_fraction(model: nn.Module) -> float:
    """The trainable fraction of all parameters, between 0 and 1."""
    table = trainable_table(model)
    return sum(row[1] for row in table) / max(1, sum(row[2] for row in table))


def format_trainable_table(model: nn.Module) -> str:
    """Formats ``trainable_table`` as text with a total."""
    lines = [f"{'part':<16}{'trainable':>14}{'all':>14}"]
    rows = trainable_table(model)
    for part, trained, total in [*rows, ("total", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
        lines.append(f"{part:<16}{trained:>14,}{total:>14,}  {100 * trained / max(1, total):8.4f}%")
    return "\n".join(lines)
