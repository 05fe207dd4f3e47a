"""Loads the published parts of the model: VideoMAE, BLIP's text encoder, and a causal language model."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BlipForQuestionAnswering,
    BlipTextModel,
    VideoMAEModel,
)

from surgvivqa.checkpoints.hub_files import Kind
from surgvivqa.checkpoints.hub_models import locate_model
from surgvivqa.checkpoints.hub_names import parse_hub_name, without_revision
from surgvivqa.checkpoints.hub_stores import read_fetched
from surgvivqa.checkpoints.validation import check_model_folder, check_no_remote_code
from surgvivqa.config import ModelConfig, clip_length
from surgvivqa.model.attention import install_packed_attention
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.decoders import check_packing, reference_logits
from surgvivqa.model.embeddings import ADDED_ROWS_SEED, fit_vocabulary
from surgvivqa.model.modeling import SurgViVQAModel, projections
from surgvivqa.model.positions import set_position_embeddings
from surgvivqa.utils.errors import InputError, SurgViVQAError, first_line

log = logging.getLogger("surgvivqa")


def load_video_encoder(name: str, num_frames: int) -> VideoMAEModel:
    """Loads VideoMAE from a hub name or a folder, for clips of ``num_frames``.

    The clip length of its pretraining is kept in the configuration as ``position_frames``
    (``positions.set_position_embeddings``).
    """
    with _clear_errors("--video-model", name):
        folder = locate_part(name, "video")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_type("--video-model", name, config, "videomae")
        trained, config.num_frames = config.num_frames, num_frames
        model, info = VideoMAEModel.from_pretrained(
            folder, config=config, output_loading_info=True, dtype=torch.float32
        )
    _name(model, name)
    _check_no_missing_tensors("video encoder", "--video-model", name, info["missing_keys"])
    model.config.position_frames = trained
    set_position_embeddings(model, trained)
    return model


def load_text_encoder(name: str) -> BlipTextModel:
    """Loads BLIP's text encoder with cross-attention, from a question-answering checkpoint or a text model.

    ``Salesforce/blip-vqa-base`` is a question-answering model with its text encoder under ``text_encoder.``;
    ``BlipTextModel.from_pretrained`` on it loads none of its tensors and only warns. It has no pooler, but published
    SurgViVQA checkpoints have one, so an unused one is added from a fixed seed.
    """
    with _clear_errors("--text-model", name):
        folder = locate_part(name, "text")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_type("--text-model", name, config, "blip", "blip_text_model")
        if config.model_type == "blip":
            whole, info = BlipForQuestionAnswering.from_pretrained(
                folder, output_loading_info=True, dtype=torch.float32
            )
            missing = [k for k in info["missing_keys"] if k.startswith("text_encoder.")]
            source = whole.text_encoder
        else:
            source, info = BlipTextModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
            missing = list(info["missing_keys"])
    missing = [k for k in missing if "pooler." not in k and not k.endswith("position_ids")]
    _check_no_missing_tensors("text encoder", "--text-model", name, missing)
    _name(source, name)
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


def load_decoder(name: str) -> tuple[Any, Any]:
    """Loads a causal language model of Transformers in float32, and its tokenizer."""
    with _clear_errors("--decoder-model", name):
        folder = locate_part(name, "decoder")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_no_remote_code({"attn_implementation": config._attn_implementation})
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise InputError(
                f"--decoder-model {name} is a {config.model_type} model, not a causal language model; give one such as "
                f"gpt2, Llama or Qwen3."
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
    _name(model, name)
    tokenizer.name_or_path = without_revision(name)
    tied = set(model.all_tied_weights_keys)
    _check_no_missing_tensors("decoder", "--decoder-model", name, [k for k in info["missing_keys"] if k not in tied])
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"--decoder-model {name} has {model.config.vocab_size} word embeddings, but its tokenizer has "
            f"{len(tokenizer)} tokens; give a folder whose tokenizer belongs to its weights."
        )
    return model, tokenizer


def assemble(settings: ModelConfig, lora: dict[str, float] | None) -> ModelBundle:
    """Builds a model from the published parts that ``settings`` names.

    Parts of different widths are joined by a linear projection. It is initialised from a fixed seed, at the scale that
    the next part expects, and has to be trained.

    Args:
        settings: the model's settings.
        lora: the adapters to add to the decoder (``SurgViVQAConfig.lora``), or None.

    Raises:
        InputError: a part cannot be loaded, or the decoder does not support packed streams.
    """
    video = load_video_encoder(settings.video_model, clip_length(settings))
    text = load_text_encoder(settings.text_model)
    decoder, tokenizer = load_decoder(settings.decoder_model)
    if settings.text_embeddings == "aligned":  # reads BLIP's tokenizer too
        in_folder = dataclasses.replace(settings, text_model=str(locate_part(settings.text_model, "text")))
        fit_vocabulary(text, in_folder, decoder, tokenizer)
    else:
        fit_vocabulary(text, settings, decoder, tokenizer)
    frames = video.config.position_frames
    config = SurgViVQAConfig(video.config, text.config, decoder.config, lora=lora, position_frames=frames)
    parts: dict[str, Any] = {"visual_encoder": video, "text_encoder": text, "llm": decoder}
    is_tested = decoder.config.model_type == "gpt2"  # the tests compare its packed streams with a reference
    reference = None if is_tested else reference_logits(decoder, settings.decoder_model)
    install_packed_attention(text, decoder)
    if reference is not None:
        check_packing(decoder, settings.decoder_model, settings.max_length or config.max_tokens, reference)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ADDED_ROWS_SEED)
        for name, from_width, to_width in projections(config):
            parts[name] = layer = nn.Linear(from_width, to_width)
            # BLIP's states have a standard deviation near 1; the decoder expects that of its word embedding.
            target_std = decoder.get_input_embeddings().weight.std() if name == "text_projection" else torch.tensor(1.0)
            nn.init.normal_(layer.weight, std=float(target_std.detach()) * from_width**-0.5)
            nn.init.zeros_(layer.bias)
    return ModelBundle(SurgViVQAModel(config, parts), tokenizer, settings)


@contextlib.contextmanager
def _clear_errors(flag: str, name: str) -> Iterator[None]:
    try:
        yield
    except SurgViVQAError:
        raise
    except Exception as error:  # an invalid folder makes Transformers and PyTorch raise errors of many kinds
        if type(error).__name__ == "UnpicklingError":
            raise InputError(
                f"{flag} {name} holds a pickle with Python objects; such objects are never executed, so give "
                f"a folder with safetensors."
            ) from error
        if Path(name).is_dir():
            raise InputError(f"{flag} {name} is a folder that cannot be loaded ({first_line(error, 200)}).") from error
        raise InputError(f"{flag} {name} is on the hub, but cannot be loaded ({first_line(error, 200)}).") from error


def locate_part(name: str, kind: Kind) -> Path:
    """The folder of a published part: the given one, or that of a hub name in the hub's cache.

    A hub name's missing files are fetched.

    Args:
        name: a folder, or a hub name with or without ``@revision``. A folder of that name comes first.
        kind: the part.

    Raises:
        InputError: there is neither a folder nor a hub name, or ``locate_model`` fails.
        ValueError: the folder names files outside itself or code on the hub, or holds adapters.
    """
    flag = f"--{kind}-model"
    folder = Path(name)
    if folder.is_dir():
        fetched = read_fetched(folder)
        if fetched is not None and not fetched.complete:
            raise InputError(
                f"{flag} {name} holds only a part of {fetched.name.repo}; run the same `surgvivqa fetch` again to "
                f"complete it."
            )
        if fetched is not None:
            log.info("%s %s is %s.", flag, name, fetched.pinned)
    else:
        on_hub = parse_hub_name(name)
        if on_hub is None:
            raise InputError(
                f"{flag} {name} is not a folder here, and has not the form of a model's name on the hub; give its "
                f"folder with {flag}, or fetch the part with `surgvivqa fetch --to DIR`."
            )
        folder = locate_model(on_hub, kind, flag)
    _check_folder(folder)
    return folder


def _check_folder(folder: Path) -> None:
    """Raises ValueError if a folder names files outside itself or code on the hub, or holds adapters."""
    if (folder / "adapter_config.json").is_file():  # Transformers would load the model that the file names instead
        raise ValueError("it holds adapters, not a model; merge them into their model first")
    check_model_folder(folder)


def _name(model: Any, name: str) -> None:
    """Notes the part's name, not its folder in the hub's cache, where Transformers writes it into ``config.json``."""
    model.config._name_or_path = model.name_or_path = without_revision(name)


def _check_type(flag: str, name: str, config: Any, *kinds: str) -> None:
    check_no_remote_code({"attn_implementation": config._attn_implementation})
    if config.model_type not in kinds:
        raise InputError(f"{flag} {name} is a {config.model_type} model; it must be of kind {' or '.join(kinds)}.")


def _check_no_missing_tensors(part: str, flag: str, name: str, missing: Any) -> None:
    missing = sorted(missing)
    if missing:
        raise InputError(
            f"The {part} from {flag} {name} would stay partly random: {len(missing)} of its tensors are not in the "
            f"checkpoint (first: {missing[0]}); give a checkpoint that holds them."
        )
