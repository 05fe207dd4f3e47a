"""The three published parts, each loaded whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BlipForQuestionAnswering,
    BlipTextModel,
    GPT2LMHeadModel,
    VideoMAEModel,
)

from surgvivqa.errors import InputError
from surgvivqa.model.vocabulary import ADDED_ROWS_SEED


def load_video_encoder(name: str, num_frames: int) -> VideoMAEModel:
    """VideoMAE from a hub name or folder, for clips of ``num_frames`` (its positions are fixed sinusoids)."""
    with _clear_errors("--video-model", name):
        config = AutoConfig.from_pretrained(name)
        _refuse_kind("--video-model", name, config, "videomae")
        config.num_frames = num_frames
        model, info = VideoMAEModel.from_pretrained(name, config=config, output_loading_info=True)
    _refuse_random("video encoder", "--video-model", name, info["missing_keys"])
    return model


def load_text_encoder(name: str) -> BlipTextModel:
    """BLIP's text encoder with cross-attention, from a question-answering checkpoint or a bare text model.

    ``Salesforce/blip-vqa-base`` is a question-answering model that keeps its text encoder under ``text_encoder.``;
    ``BlipTextModel.from_pretrained`` on it loads none of its tensors and only warns. It has no pooler, and published
    SurgViVQA checkpoints do: one is added, unused, from a fixed seed.
    """
    with _clear_errors("--text-model", name):
        config = AutoConfig.from_pretrained(name)
        _refuse_kind("--text-model", name, config, "blip", "blip_text_model")
        if config.model_type == "blip":
            whole, info = BlipForQuestionAnswering.from_pretrained(name, output_loading_info=True)
            missing = [k for k in info["missing_keys"] if k.startswith("text_encoder.")]
            source = whole.text_encoder
        else:
            source, info = BlipTextModel.from_pretrained(name, output_loading_info=True)
            missing = list(info["missing_keys"])
    missing = [k for k in missing if "pooler." not in k and not k.endswith("position_ids")]
    _refuse_random("text encoder", "--text-model", name, missing)
    if not source.config.is_decoder:
        raise InputError(
            f"The text encoder {name} has no cross-attention (is_decoder is false); it cannot see a frame."
        )
    if source.pooler is not None:
        return source
    source.config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ADDED_ROWS_SEED)
        model = BlipTextModel(source.config, add_pooling_layer=True)
    model.load_state_dict(source.state_dict(), strict=False)
    return model


def load_decoder(name: str) -> tuple[GPT2LMHeadModel, Any]:
    """GPT-2 and its tokenizer."""
    with _clear_errors("--decoder-model", name):
        _refuse_kind("--decoder-model", name, AutoConfig.from_pretrained(name), "gpt2")
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = GPT2LMHeadModel.from_pretrained(name, output_loading_info=True)
    missing = [k for k in info["missing_keys"] if k != "lm_head.weight"]  # tied to wte
    _refuse_random("decoder", "--decoder-model", name, missing)
    return model, tokenizer


@contextlib.contextmanager
def _clear_errors(flag: str, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if Path(name).is_dir():
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{flag} {name} is a folder that cannot be loaded ({reason[:200]}).") from error
        raise InputError(
            f"{flag} {name} is no local folder, and the model hub cannot be reached or does not have it; download the "
            f"model where there is a network and give its folder with {flag} (in eval and predict "
            f"--model.{flag[2:]}), or use --preset tiny, which needs none."
        ) from error


def _refuse_kind(flag: str, name: str, config: Any, *kinds: str) -> None:
    if config.model_type not in kinds:
        raise InputError(f"{flag} {name} is a {config.model_type} model; it must be of kind {' or '.join(kinds)}.")


def _refuse_random(part: str, flag: str, name: str, missing: Any) -> None:
    missing = sorted(missing)
    if missing:
        raise InputError(
            f"The {part} from {flag} {name} would stay partly random: {len(missing)} of its tensors are not in the "
            f"checkpoint (first: {missing[0]}); give a checkpoint that holds them."
        )
