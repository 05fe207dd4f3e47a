"""Flags whose default depends on the machine: a run that resumes keeps the values that it began with."""

import dataclasses
from typing import Any

import torch
import yaml

from surgvivqa.config import TrainConfig, clip_length
from surgvivqa.utils.safe_yaml import plain_yaml

_TOKENS_PER_QUESTION = {"simple": 32, "choices": 400}  # upper bounds with GPT-2's tokenizer
_FRAMES_AHEAD = 64
_MAX_BATCHES_AHEAD = 256
_QUESTIONS_PER_FRAME = 60  # more than most frames of SSG-QA have
_FRAMES_PER_PASS = {"cpu": 1, "cuda": 16}  # on a CPU more frames at a time are no faster
_HIDDEN, _VIDEO_TOKENS, _FRAME_VALUES = 768, 1568, 3 * 224 * 224  # the published parts'


def resolve_machine_defaults(config: TrainConfig) -> TrainConfig:
    """The config with ``bf16`` and ``encode_ahead`` set where they are not given.

    bfloat16 is on where a GPU supports it natively and ``--fp16`` is not given. The number of micro-batches that are
    encoded ahead is ``choose_batches_ahead``'s.
    """
    saved = {} if config.overwrite else _saved_flags(config)
    bf16, ahead = config.bf16, config.encode_ahead
    if bf16 is None:
        bf16 = saved.get("bf16")
    if bf16 is None:
        bf16 = not config.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if ahead is None:
        ahead = saved.get("encode_ahead")
    if ahead is None and not saved:  # a run of a version without the flag resumes without it
        ahead = choose_batches_ahead(config, gpu_memory())
    return dataclasses.replace(config, bf16=bf16, encode_ahead=ahead)


def gpu_memory() -> int | None:
    """Memory of the first GPU in bytes; None without a GPU."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def choose_batches_ahead(config: TrainConfig, gpu_memory: int | None) -> int:
    """The number of micro-batches whose frozen encoders run together.

    On a GPU a window has about 64 frames, or those that a sixteenth of its memory holds. With ``--shuffle-frames`` it
    has the frames that are shuffled together. Otherwise a CPU gains nothing from a window. The number is 1 if the video
    encoder trains.

    Args:
        config: the flags.
        gpu_memory: memory of the GPU in bytes; None without a GPU.
    """
    if config.train_video != "none":
        return 1
    if config.shuffle_frames is not None:
        batches = -(-config.shuffle_frames * _QUESTIONS_PER_FRAME // config.batch_size)
    elif gpu_memory is not None:
        batches = _FRAMES_AHEAD // -(-config.batch_size // config.questions_per_frame)
    else:
        return 1
    if gpu_memory is not None:
        frames = gpu_memory // 16 // _bytes_per_frame(config)
        batches = min(batches, frames // -(-config.batch_size // config.questions_per_frame))
    return int(max(1, min(_MAX_BATCHES_AHEAD, batches)))


def frames_per_pass(device: torch.device) -> int:
    """The number of frames that an encoder takes at a time; fixed, because it changes the last bits of the results."""
    return _FRAMES_PER_PASS.get(device.type, _FRAMES_PER_PASS["cuda"])


def _bytes_per_frame(config: TrainConfig) -> int:
    """Upper bound of the memory of a window's frame, in bytes: its clip, its video tokens and its text states."""
    images = 1 if config.clip_mode == "repeat" else clip_length(config)
    questions = min(config.batch_size, config.questions_per_frame)
    values = images * _FRAME_VALUES + _VIDEO_TOKENS * _HIDDEN
    values += questions * _TOKENS_PER_QUESTION[config.prompt_mode] * _HIDDEN
    return 4 * values


def _saved_flags(config: TrainConfig) -> dict[str, Any]:
    """The flags of the run in the run folder; empty if there is none."""
    path = config.checkpoint_dir / "config.yaml"
    try:
        saved = plain_yaml(path) if path.is_file() else {}
        types = {"bf16": bool, "encode_ahead": int}
        return {name: value for name, value in saved.items() if isinstance(value, types.get(name, object))}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}  # opening the run folder reports it


def autocast_arguments(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """The arguments of ``torch.autocast`` for the precision of a run.

    Autocast keeps no casts: a CUDA graph could not replay a cast that it did not record.
    """
    return {
        "device_type": device.type,
        "dtype": torch.float16 if config.fp16 else torch.bfloat16,
        "enabled": bool(config.fp16 or config.bf16),
        "cache_enabled": False,
    }


def parts_in_16_bits(config: TrainConfig) -> list[str]:
    """The parts of the model that never run in float32 in a run of 16 bits: a cache is filled in float32."""
    parts = ["llm"]
    if config.cache is None:
        parts.append("visual_encoder")
    if not config.cache_text:
        parts.append("text_encoder")
    return parts


def limit_for_debug(config: TrainConfig) -> TrainConfig:
    """``config`` within the limits of ``--debug``: a few steps on a few questions, logged one by one."""
    return dataclasses.replace(
        config,
        max_steps=min(config.max_steps or 10, 10),
        max_train_samples=min(config.max_train_samples or 64, 64),
        val_max_samples=64,
        log_interval=1,
        workers=0,
    )
