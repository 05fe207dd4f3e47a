"""Which parameters train: the seed's freezing flags, and the table that shows what they come to."""

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
    """The adapters a run asks for, or None."""
    if config.full_finetune or config.lora_r == 0:
        return None
    return {"r": config.lora_r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}


def check_cache_flags(config: TrainConfig) -> None:
    """Raises InputError where ``--cache`` is asked for and the video encoder trains, or ``--cache-text`` and BLIP
    trains: outputs of what trains change every step. ``--cache-text`` needs ``--cache`` and a mask without a leak."""
    if config.cache_text:
        _refuse_cache_of_text(config)
    if config.cache is None:
        return
    if config.train_video != "none":
        raise InputError(
            f"--cache needs a frozen video encoder; leave out --cache, or --train-video {config.train_video}."
        )


def _refuse_cache_of_text(config: TrainConfig) -> None:
    if config.cache is None:
        raise InputError("--cache-text keeps text states in the cache's folder; name it with --cache DIR.")
    if config.mask == "bidirectional":
        raise InputError(
            "--cache-text needs a mask under which a prompt's text states do not depend on its answer; leave out "
            "--cache-text, or --mask bidirectional."
        )
    if config.train_blip or config.unfreeze_blip_last_n:
        flag = "--train-blip" if config.train_blip else f"--unfreeze-blip-last-n {config.unfreeze_blip_last_n}"
        raise InputError(f"--cache-text needs a frozen text encoder; leave out --cache-text, or {flag}.")


def check_text_cache(model: SurgViVQAModel, config: TrainConfig) -> None:
    """Raises InputError where ``--cache-text`` is asked for and the text encoder sees frames through a projection that
    trains, so that its outputs change."""
    if config.cache_text and model.video_projection is not None:
        raise InputError(
            "--cache-text needs a text encoder whose outputs do not change, but it sees the frames through a "
            "projection that trains; leave out --cache-text, or take a --video-model of the text encoder's width."
        )


def apply_freezing(model: SurgViVQAModel, config: TrainConfig) -> None:
    """Sets ``requires_grad`` of every parameter from the flags.

    Default: the LoRA adapters alone, and the projections between parts of different widths, which are new.
    ``--full-finetune`` and ``--train-gpt2-full`` add the decoder's own weights, ``--train-blip`` and
    ``--unfreeze-blip-last-n`` the text encoder's, ``--train-video`` the video encoder's. BLIP's pooler is never
    trained, since nothing reads it.

    Raises:
        InputError: nothing would be trained, or more BLIP layers are asked for than there are.
    """
    model.requires_grad_(False)
    if config.train_video == "full":
        model.visual_encoder.requires_grad_(True)
    elif config.train_video == "patch-embed":
        model.visual_encoder.embeddings.patch_embeddings.requires_grad_(True)
        # A VideoMAE configured for mean pooling (Transformers' default) has no LayerNorm after its last layer.
        last = model.visual_encoder.layernorm or model.visual_encoder.encoder.layer[-1].layernorm_after
        last.requires_grad_(True)
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
    if config.full_finetune or config.train_gpt2_full:
        model.llm.requires_grad_(True)
        # The text encoder's output enters the decoder as inputs_embeds, so its word embedding trains only where it is
        # the output layer as well, as in GPT-2.
        words = model.decoder.get_input_embeddings().weight
        words.requires_grad_(words is output_layer(model.decoder).weight)
    for projection in (model.video_projection, model.text_projection):
        if projection is not None:
            projection.requires_grad_(True)
    for name, parameter in model.llm.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("Nothing would be trained: --lora-r is 0 and no flag unfreezes a part.")


@contextlib.contextmanager
def frozen_as(model: SurgViVQAModel, config: TrainConfig) -> Iterator[None]:
    """Within it the model is frozen as a run's flags say, and afterwards as it was.

    Raises:
        InputError: as ``apply_freezing``.
    """
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        apply_freezing(model, config)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def set_modes(model: SurgViVQAModel) -> None:
    """Training mode for what trains; eval mode for what is frozen, so that its output is an exact function."""
    model.train()
    for part in (model.visual_encoder, model.text_encoder):
        if not any(p.requires_grad for p in part.parameters()):
            part.eval()
    if not any(p.requires_grad for n, p in model.llm.named_parameters() if "lora_" not in n):
        # A frozen base keeps its own dropout off; the adapters' dropout belongs to the adapters and stays on.
        model.llm.eval()
        for name, module in model.llm.named_modules():
            if "lora_dropout" in name:
                module.train()
        block: Any
        for block in decoder_layers(model.decoder):
            # The block alone, not what is in it: a layer recomputes its activations only in training mode.
            block.training = block.gradient_checkpointing


def checkpoint_activations(model: SurgViVQAModel) -> None:
    """Makes every layer of the three parts recompute its activations in the backward pass.

    Transformers offers no switch for BLIP's text model, though its layers can do it; so the layers are set one by one.
    """
    recompute = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    for layer in _layers(model):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = recompute


def _layers(model: SurgViVQAModel) -> list[Any]:
    encoders = (model.visual_encoder.encoder.layer, model.text_encoder.encoder.layer)
    return [layer for layers in (*encoders, decoder_layers(model.decoder)) for layer in layers]


def trainable_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Rows (part, trainable parameters, all parameters) for the video encoder, the text encoder, the projections,
    if any, the decoder and LoRA."""
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
    """Trainable over all parameters."""
    table = trainable_table(model)
    return sum(row[1] for row in table) / max(1, sum(row[2] for row in table))


def format_trainable_table(model: Any) -> str:
    """The trainable table as text, with exact counts."""
    lines = [f"{'part':<16}{'trainable':>14}{'all':>14}"]
    rows = trainable_table(model)
    for part, trained, total in [*rows, ("in all", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
        lines.append(f"{part:<16}{trained:>14,}{total:>14,}  {100 * trained / max(1, total):8.4f}%")
    return "\n".join(lines)
