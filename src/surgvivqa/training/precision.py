"""The precision of a training run: what the flags say, or what the run and the GPU allow."""

import dataclasses

import torch
import yaml

from surgvivqa.config import TrainConfig, plain_yaml


def resolve_precision(config: TrainConfig) -> TrainConfig:
    """The config with ``bf16`` set where ``--bf16`` is not given.

    A run that resumes keeps the precision it began with. Otherwise bfloat16 is on where a GPU supports it natively and
    ``--fp16`` is not given.
    """
    if config.bf16 is not None:
        return config
    bf16 = None if config.overwrite else _saved_bf16(config)
    if bf16 is None:
        bf16 = not config.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return dataclasses.replace(config, bf16=bf16)


def _saved_bf16(config: TrainConfig) -> bool | None:
    path = config.checkpoint_dir / "config.yaml"
    try:
        saved = plain_yaml(path).get("bf16") if path.is_file() else None
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None  # opening the run folder reports it
    return saved if isinstance(saved, bool) else None
