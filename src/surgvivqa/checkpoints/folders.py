"""Reads checkpoint folders.

A checkpoint folder holds::

    config.json                 the architecture (SurgViVQAConfig)
    surgvivqa.json              settings, the run's flags, checksums, and ``holds``: all, trained or adapters
    model.safetensors           all tensors (or shards with an index), or the trained tensors only
    adapter_config.json         instead of model.safetensors, for ``adapters``: PEFT's format
    adapter_model.safetensors
    other_trained.safetensors   trained tensors that are not adapters
    processor_config.json       frame fit, clip and prompt, for SurgViVQAProcessor
    tokenizer.json ...          the tokenizer

``all`` needs nothing else. ``trained`` and ``adapters`` are loaded onto the published parts, or onto the packaged base.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from surgvivqa.checkpoints import adapters
from surgvivqa.checkpoints.backbones import assemble
from surgvivqa.checkpoints.checksums import compute_checksums, verify_checksums
from surgvivqa.checkpoints.published import (
    all_tensor_names,
    load_safetensors,
    load_tensors,
    new_tensor_names,
    normalize_names,
)
from surgvivqa.checkpoints.settings import (
    SETTINGS_FILE,
    damaged_checkpoint,
    read_config,
    read_settings,
    use_local_parts,
)
from surgvivqa.checkpoints.validation import (
    check_model_size,
    is_plain_name,
    validate_lora,
    validate_names,
)
from surgvivqa.config import ModelConfig
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_folder(
    folder: Path, num_frames: int | None = None, parts: ModelConfig | None = None, *, verify: bool = True
) -> ModelBundle:
    """Loads the model of a checkpoint folder.

    Args:
        folder: a folder with the files listed at the top of this module.
        num_frames: frames per clip; None keeps the checkpoint's.
        parts: flags that name folders for published parts that are missing on this machine.
        verify: verify the checksums first.

    Raises:
        InputError: a file is damaged or missing.
    """
    config, saved = read_config(folder)
    if verify:
        verify_checksums(folder, saved.checksums)
    tokenizer = _read_tokenizer(folder)
    weights = read_weights(folder)
    _check_model(folder, config, weights, saved.holds)
    names = normalize_names(weights)  # Hugging Face's save_pretrained writes older ones
    tensors = {names[name]: tensor for name, tensor in weights.items()}
    if saved.holds == "all":
        config.video_config.num_frames = num_frames or config.video_config.num_frames
        try:
            model = SurgViVQAModel(config)
        except Exception as error:  # impossible numbers raise errors of many kinds
            raise damaged_checkpoint(folder, error) from error
    else:
        use_local_parts(saved.model, parts or saved.model)
        model = assemble(saved.model, config.lora).model
        model.config.label_set = config.label_set
    required = all_tensor_names(model) if saved.holds == "all" else new_tensor_names(model) | set(saved.tensors)
    report = load_tensors(model, tensors, folder, required)
    return ModelBundle(model, tokenizer, saved.model, saved.run, set(report.loaded))


def _check_model(folder: Path, config: SurgViVQAConfig, tensors: dict[str, Tensor], holds: str) -> None:
    """Raises InputError if the configuration asks for more than the weights can be."""
    try:
        if config.lora:
            check_rank(int(validate_lora(config.lora)["r"]), tensors)
        if holds == "all":
            check_model_size(config, tensors)
    except (ValueError, TypeError) as error:
        raise damaged_checkpoint(folder, error) from error


def check_rank(rank: int, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError if the adapters among ``tensors`` do not have this rank, before adapters are allocated."""
    ranks = {len(t) if t.ndim else 0 for n, t in tensors.items() if ".lora_A." in n}
    if ranks - {rank}:
        raise ValueError(f"its adapters have rank {min(ranks - {rank})}, but its settings say {rank}")
    if not ranks:
        raise ValueError("its settings ask for adapters, but it holds none")


def holds_all_tensors(folder: Path) -> bool:
    """Whether a folder holds all of a model's tensors, so that Hugging Face's loader can read it."""
    if (folder / SETTINGS_FILE).is_file():
        return read_settings(folder).holds == "all"
    return (folder / "config.json").is_file() and not (folder / adapters.ADAPTER_CONFIG).is_file()


def is_surgvivqa_folder(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is a SurgViVQA model's."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == SurgViVQAConfig.model_type


def mark_complete(folder: Path) -> None:
    """Updates or removes the files of an earlier checkpoint in a folder that now holds all tensors."""
    if (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        # When one save is in shards and the other is not, Hugging Face clears old shards but not the old single file
        # or index.
        shards = set(read_json(folder / INDEX)["weight_map"].values())
        (folder / (WEIGHTS if all((folder / name).is_file() for name in shards) else INDEX)).unlink()
    for name in (adapters.ADAPTER_CONFIG, adapters.ADAPTER_WEIGHTS, adapters.OTHER_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if (folder / SETTINGS_FILE).is_file():
        update_settings(folder, holds="all", tensors=[])


def update_settings(folder: Path, **values: Any) -> None:
    """Changes entries of a folder's ``surgvivqa.json``, and renews the checksums of its weights."""
    content = dict(read_json(folder / SETTINGS_FILE)) | values | {"sha256": compute_checksums(folder)}
    write_text(folder / SETTINGS_FILE, json.dumps(content, indent=2))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, from one file or from shards.

    Raises:
        InputError: a file is missing or damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return load_safetensors(folder / WEIGHTS)
    try:
        files = sorted(set(validate_names(list(read_json(index)["weight_map"].values()))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_checkpoint(folder, error) from error
    if any(not is_plain_name(name) for name in files):
        raise InputError(f"{index} names a file outside its folder ({files[0]}), which is not read.")
    if (folder / WEIGHTS).is_file():  # Hugging Face prefers it too
        return load_safetensors(folder / WEIGHTS)
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            raise InputError(
                f"Checkpoint {folder} lacks {name}, one of its {len(files)} files of weights; copy it again."
            )
        tensors |= load_safetensors(folder / name)
    return tensors


def _read_tokenizer(folder: Path) -> Any:
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # tokenizers has its own exceptions
        raise damaged_checkpoint(folder, error) from error
