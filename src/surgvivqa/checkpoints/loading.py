"""Loads checkpoints of every form. ``folders`` lists what a checkpoint folder holds, ``saving`` writes it."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from surgvivqa.checkpoints import adapters
from surgvivqa.checkpoints.backbones import assemble
from surgvivqa.checkpoints.folders import check_rank, holds_all_tensors, is_surgvivqa_folder, load_folder
from surgvivqa.checkpoints.hub import fetch, is_name
from surgvivqa.checkpoints.packaged import PACKAGED, PACKAGED_BASE
from surgvivqa.checkpoints.published import (
    SUFFIXES,
    WORDS,
    adapter_rank,
    all_tensor_names,
    load_safetensors,
    load_tensors,
    new_tensor_names,
    normalize_names,
    read_tensors,
    trained_tensor_names,
)
from surgvivqa.checkpoints.settings import (
    SETTINGS_FILE,
    Saved,
    damaged_checkpoint,
    parse_run,
    parse_settings,
    read_settings,
    use_local_parts,
)
from surgvivqa.config import MODEL_FLAGS, ModelConfig, TrainConfig, read_yaml
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.decoders import lora_targets
from surgvivqa.model.freezing import frozen_as, lora_settings
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.atomic_files import surviving_folder
from surgvivqa.utils.errors import InputError, first_line

log = logging.getLogger("surgvivqa")


def load_checkpoint(path: Path, fallback: ModelConfig, flag: str = "--checkpoint") -> ModelBundle:
    """Loads a model in eval mode from a checkpoint of any form.

    A checkpoint is a run folder, its ``best/``, a folder in Hugging Face's or PEFT's format, a file in the published
    form, a hub name (``user/model``), or ``tiny``, the packaged base.

    Args:
        path: the checkpoint.
        fallback: the settings of a checkpoint that does not bring its own; a file with a ``config.yaml`` beside it
            takes those.
        flag: what named it, for messages.

    Raises:
        InputError: there is no checkpoint, it is damaged, or its tensors do not belong to the model.
    """
    path = Path(path)
    if str(path) == PACKAGED:
        if any((folder / SETTINGS_FILE).is_file() for folder in (path, path / "best")):
            raise InputError(f"{PACKAGED!r} is the packaged base, but also a run folder here; give its full path.")
        bundle = load_folder(PACKAGED_BASE, fallback.num_frames)
    elif path.suffix in SUFFIXES and _is_of_its_folder(path):  # which says what they are
        bundle = _load_any_folder(path.parent, fallback, flag)
    elif path.suffix in SUFFIXES:
        bundle = _load_file(path, fallback, flag)
    else:
        # A name of the hub's looks like a path; it is one where nothing on disk could be meant.
        first = path.parts[0] if path.parts else ""
        on_hub = is_name(str(path)) and not path.exists() and not Path(first).exists()
        bundle = _load_any_folder(fetch(str(path), flag) if on_hub else path, fallback, flag)
    bundle.model.eval().requires_grad_(False)  # a training run decides what is trainable
    if bundle.report:
        log.info("%s", bundle.report)
    return bundle


def _is_of_its_folder(path: Path) -> bool:
    """Whether a file is a checkpoint folder's weights, or a part of them.

    Raises:
        InputError: it lies in such a folder and is none of its files, so it is not clear which settings are its own.
    """
    folder, name = path.parent, path.name
    if (folder / adapters.ADAPTER_CONFIG).is_file():
        known = name in (adapters.ADAPTER_WEIGHTS, adapters.OLD_ADAPTER_WEIGHTS, adapters.OTHER_WEIGHTS)
    elif (folder / SETTINGS_FILE).is_file() or is_surgvivqa_folder(folder):
        known = re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", name) is not None
    else:
        return False
    if path.exists() and not known:
        raise InputError(
            f"{path} lies in a checkpoint folder and is none of its files; give the folder {folder}, or move the file "
            f"to a folder of its own."
        )
    return known


def _load_any_folder(path: Path, fallback: ModelConfig, flag: str) -> ModelBundle:
    for folder in map(surviving_folder, (path, path / "best")):
        if (folder / adapters.ADAPTER_CONFIG).is_file():
            return _load_adapters(folder, fallback)
        if (folder / SETTINGS_FILE).is_file() or holds_all_tensors(folder):
            return load_folder(folder, parts=fallback)
    raise InputError(
        f"{flag} {path} holds no checkpoint: expected a run folder with best/, a folder with config.json or "
        f"{adapters.ADAPTER_CONFIG}, or a file that ends in {', '.join(SUFFIXES)}."
    )


def _load_adapters(folder: Path, fallback: ModelConfig) -> ModelBundle:
    """Adapters in PEFT's format, on the parts that ``surgvivqa.json`` beside them names, or else the flags do."""
    lora = adapters.read_adapter_config(folder)
    targets, base = lora.pop("targets"), lora.pop("base")
    known = (folder / SETTINGS_FILE).is_file()
    saved = read_settings(folder) if known else Saved(dataclasses.replace(fallback))
    settings, run = saved.settings, saved.run
    settings.lora_r, settings.lora_alpha, settings.lora_dropout = lora["r"], lora["alpha"], lora["dropout"]
    found = read_tensors(adapters.weights_file(folder))
    try:
        check_rank(lora["r"], found)
    except ValueError as error:
        raise damaged_checkpoint(folder, error) from error
    if settings.preset == "tiny":
        bundle = adapters.with_adapters(load_folder(PACKAGED_BASE, settings.num_frames), lora)
        bundle = dataclasses.replace(bundle, settings=settings, run=run)
    else:
        use_local_parts(settings, fallback)
        bundle = dataclasses.replace(assemble(settings, lora), run=run)
    if targets != sorted(lora_targets(bundle.model.decoder)):
        raise InputError(
            f"{folder} adapts {', '.join(targets)}, but this model's adapters are on "
            f"{', '.join(lora_targets(bundle.model.decoder))}; they are of another decoder or another LoRA setting."
        )
    names = normalize_names([f"llm.{name}" for name in found])
    tensors = {names[f"llm.{name}"]: tensor for name, tensor in found.items()}
    if (folder / adapters.OTHER_WEIGHTS).is_file():
        tensors |= load_safetensors(folder / adapters.OTHER_WEIGHTS)
    report = load_tensors(bundle.model, tensors, folder, new_tensor_names(bundle.model) | set(saved.tensors))
    if not known and base and Path(base).name != Path(settings.decoder_model).name:
        report.notes.append(f"they say that they belong to {base[:100]}, and were put on {settings.decoder_model}")
    return dataclasses.replace(bundle, own=bundle.own | set(report.loaded), report=str(report))


def _load_file(path: Path, fallback: ModelConfig, flag: str) -> ModelBundle:
    """A file in the published form."""
    if not path.is_file():
        raise InputError(f"{flag} {path} does not exist.")
    tensors = read_tensors(path)
    beside = path.parent / "config.yaml"
    try:
        run = read_yaml(beside, TrainConfig) if beside.is_file() else {}
        settings = parse_settings({k: v for k, v in run.items() if k in MODEL_FLAGS} if run else vars(fallback))
        run = parse_run(run)
    except (InputError, ValueError) as error:
        if not beside.is_file() and isinstance(error, InputError):  # which is about a flag
            raise
        known = isinstance(error, InputError)  # which names the file
        what = str(error).rstrip(".") if known else f"Config file {beside} does not fit ({first_line(error)})"
        raise InputError(
            f"{what}; it is read as the settings of {path.name}, so fix it or move {path.name} to a folder of its own."
        ) from error
    use_local_parts(settings, fallback)
    rank = adapter_rank(tensors)
    if not run:
        settings.lora_r = rank or 0
    elif rank and rank != settings.lora_r:
        raise InputError(
            f"{path} has adapters of rank {rank}, but the settings beside it say {settings.lora_r}; one is wrong."
        )
    lora = {"r": settings.lora_r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout} if rank else None
    if settings.preset == "tiny":
        beside = path.parent / "best"
        bundle = load_folder(beside if (beside / SETTINGS_FILE).is_file() else PACKAGED_BASE, settings.num_frames)
        bundle = dataclasses.replace(bundle, settings=settings)
        if lora and not bundle.model.config.lora:
            bundle = adapters.with_adapters(bundle, lora)
        required = all_tensor_names(bundle.model)
    else:
        bundle = assemble(settings, lora)
        required = _required_tensors(run, bundle.model, tensors)
        rows = len(tensors.get(WORDS, bundle.model.state_dict()[WORDS]))
        if settings.text_embeddings == "aligned" and rows < bundle.model.config.text_config.vocab_size:
            raise InputError(
                f"{path} has {rows} rows of words, BLIP's own, which --text-embeddings aligned would have replaced; "
                f"give published, under which they grow."
            )
    report = load_tensors(bundle.model, tensors, path, required)
    if bundle.model.config.lora and not run:
        report.notes.append(
            f"adapters of rank {settings.lora_r}; their alpha is not in the file, taken as {settings.lora_alpha}"
        )
    own = set(report.changed) | (new_tensor_names(bundle.model) & set(report.loaded))
    return ModelBundle(bundle.model, bundle.tokenizer, bundle.settings, run, own, str(report))


def _required_tensors(run: dict[str, Any], model: SurgViVQAModel, given: dict[str, Tensor]) -> set[str]:
    """What a file must hold: what its run trained, or of a run that is not known the decoder's trained part."""
    if run:
        config = TrainConfig(**run)
        try:
            with frozen_as(model, config):
                trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        except InputError:  # settings that somebody wrote, by which nothing would be trained
            trained = set()
        if trained and bool(lora_settings(config)) == bool(model.config.lora):
            return new_tensor_names(model) | trained
    return trained_tensor_names(model, given)
