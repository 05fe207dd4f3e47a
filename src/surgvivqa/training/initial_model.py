"""Builds the model that a training run starts from, from the run's flags."""

import dataclasses

import torch

from surgvivqa.checkpoints.adapters import add_adapters, merge_adapters
from surgvivqa.checkpoints.backbones import assemble
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.config import MODEL_FLAGS, ModelConfig, TrainConfig, clip_length, flags_of, option
from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.model.freezing import (
    apply_freezing,
    check_cache_flags,
    check_text_cache,
    checkpoint_activations,
    lora_settings,
)
from surgvivqa.utils.errors import InputError


def build_for_training(config: TrainConfig, label_set: LabelSet = SSG_QA) -> ModelBundle:
    """Builds the model that a training run starts from, with its freezing applied.

    It comes from ``--pretrained-ckpt``, from the packaged base (``--preset tiny``), or from the pretrained parts. The
    record of its run has the videos that the checkpoint was trained on, as far as they are recorded.

    Args:
        config: the run's flags.
        label_set: the labels of the data that it trains on, whatever a checkpoint learned before.

    Raises:
        InputError: a pretrained part is missing or would stay random, or nothing would be trained.
    """
    check_cache_flags(config)
    clip_length(config)  # validates --num-frames
    settings = ModelConfig(**{name: getattr(config, name) for name in MODEL_FLAGS})
    torch.manual_seed(config.seed)
    if config.pretrained_ckpt is not None:
        start = load_checkpoint(config.pretrained_ckpt, settings, "--pretrained-ckpt", verify=config.verify)
        bundle = _adopt_checkpoint(
            start, settings, lora_settings(config), f"--pretrained-ckpt {config.pretrained_ckpt}"
        )
    elif config.preset == "tiny":
        start = load_folder(PACKAGED_BASE, config.num_frames)
        bundle = _adopt_checkpoint(start, settings, lora_settings(config), "--preset tiny")
    else:
        bundle = assemble(settings, lora_settings(config))
    bundle.use_labels(label_set)
    check_text_cache(bundle.model, config)
    apply_freezing(bundle.model, config)
    if config.gradient_checkpointing:
        checkpoint_activations(bundle.model)
    return bundle


def _adopt_checkpoint(
    start: ModelBundle, settings: ModelConfig, lora: dict[str, float] | None, source: str
) -> ModelBundle:
    """A checkpoint's weights under this run's settings; settings that the weights decide come from the checkpoint.

    Adapters are added if the run asks for some and the checkpoint has none, and merged if it has some and the run asks
    for none (``--full-finetune``).

    Raises:
        InputError: a flag contradicts the checkpoint.
    """
    has_adapters = bool(start.model.config.lora)
    start.settings.num_frames = start.model.config.video_config.num_frames
    fixed_by = ("weights", "adapters") if has_adapters and lora is not None else ("weights",)
    defaults = ModelConfig()
    for name, flag in flags_of(ModelConfig).items():
        if flag.fixed_by not in fixed_by:
            continue
        asked, has = getattr(settings, name), getattr(start.settings, name)
        if asked not in (has, getattr(defaults, name)):
            raise InputError(f"{option(name)} {asked} contradicts {source}, which has {has}; leave the flag out.")
        setattr(settings, name, has)
    if has_adapters and lora is None:
        start = merge_adapters(start)
    elif lora is not None and not has_adapters:
        start = add_adapters(start, lora)
    return dataclasses.replace(start, settings=settings, run=RunRecord(train_videos=start.run.train_videos))
