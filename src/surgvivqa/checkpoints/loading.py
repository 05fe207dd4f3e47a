"""Loads checkpoints of every form. ``folders`` lists what a checkpoint folder holds, ``saving`` writes it."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from surgvivqa.checkpoints import adapters
from surgvivqa.checkpoints.backbones import assemble
from surgvivqa.checkpoints.checksums import verify_checksums
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
    CheckpointSettings,
    damaged_checkpoint,
    parse_run,
    parse_settings,
    read_labels,
    read_settings,
    use_local_parts,
)
from surgvivqa.config import MODEL_FLAGS, ModelConfig, TrainConfig, read_yaml
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.model.decoders import lora_targets
from surgvivqa.model.freezing import frozen_as, lora_settings
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.atomic_files import surviving_folder
from surgvivqa.utils.errors import InputError, first_line

log = logging.getLogger("surgvivqa")


def load_checkpoint(
    path: Path, fallback: ModelConfig, flag: str = "--checkpoint", *, verify: bool = True
) -> ModelBundle:
    """Loads a model in eval mode from a checkpoint of any form.

    A checkpoint is a run folder, its ``best/``, a folder in Hugging Face's or PEFT's format, a file in the published
    form, a hub name (``user/model``), or ``tiny``, the packaged base.

    Args:
        path: the checkpoint.
        fallback: the settings of a checkpoint without settings of its own. A file takes those of the ``config.yaml`` in
            its folder, if there is one.
        flag: the flag that named the checkpoint, for messages.
        verify: verify the checksums of a folder before it is used.

    Raises:
        InputError: there is no checkpoint, it is damaged, or its tensors do not belong to the model.
    """
    path = Path(path)
    if str(path) == PACKAGED:
        if any((folder / SETTINGS_FILE).is_file() for folder in (path, path / "best")):
            raise InputError(f"{PACKAGED!r} is the packaged base, but also a run folder here; give its full path.")
        bundle = load_folder(PACKAGED_BASE, fallback.num_frames)
    elif path.suffix in SUFFIXES:
        in_folder = _belongs_to_its_folder(path)
        bundle = (
            _load_any_folder(path.parent, fallback, flag, verify)
            if in_folder
            else _load_file(path, fallback, flag, verify)
        )
    else:
        folder = fetch(str(path), flag) if is_on_hub(path) else path
        bundle = _load_any_folder(folder, fallback, flag, verify)
    bundle.model.eval().requires_grad_(False)  # a training run decides what is trainable
    if bundle.report:
        log.info("%s", bundle.report)
    return bundle


def is_on_hub(checkpoint: Path) -> bool:
    """Whether a checkpoint is a name on the hub, which looks like a path: nothing on disk has that name."""
    return is_name(str(checkpoint)) and not checkpoint.exists() and not Path(checkpoint.parts[0]).exists()


def _belongs_to_its_folder(path: Path) -> bool:
    """Whether a file holds the weights of the checkpoint folder it is in, or a part of them.

    Raises:
        InputError: it is in a checkpoint folder, but is none of that checkpoint's files.
    """
    folder, name = path.parent, path.name
    if (folder / adapters.ADAPTER_CONFIG).is_file():
        belongs = name in (adapters.ADAPTER_WEIGHTS, adapters.OLD_ADAPTER_WEIGHTS, adapters.OTHER_WEIGHTS)
    elif (folder / SETTINGS_FILE).is_file() or is_surgvivqa_folder(folder):
        belongs = re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", name) is not None
    else:
        return False
    if path.exists() and not belongs:
        raise InputError(
            f"{path} is in a checkpoint folder, but is not one of its files; give the folder {folder}, or move the "
            f"file to another folder."
        )
    return belongs


def _load_any_folder(path: Path, fallback: ModelConfig, flag: str, verify: bool) -> ModelBundle:
    for folder in map(surviving_folder, (path, path / "best")):
        if (folder / adapters.ADAPTER_CONFIG).is_file():
            return dataclasses.replace(_load_adapters(folder, fallback, verify), source=folder)
        if (folder / SETTINGS_FILE).is_file() or holds_all_tensors(folder):
            return dataclasses.replace(load_folder(folder, parts=fallback, verify=verify), source=folder)
    raise InputError(
        f"{flag} {path} holds no checkpoint: expected a run folder with best/, a folder with config.json or "
        f"{adapters.ADAPTER_CONFIG}, or a file that ends in {', '.join(SUFFIXES)}."
    )


def _load_adapters(folder: Path, fallback: ModelConfig, verify: bool) -> ModelBundle:
    """Loads a PEFT folder's adapters onto the parts that its ``surgvivqa.json`` names, or else the flags."""
    config = adapters.read_adapter_config(folder)
    has_settings = (folder / SETTINGS_FILE).is_file()
    saved = read_settings(folder) if has_settings else CheckpointSettings(dataclasses.replace(fallback))
    if verify:
        verify_checksums(folder, saved.checksums)
    lora: dict[str, Any] = {f"lora_{name}": value for name, value in config.lora.items()}
    settings = dataclasses.replace(saved.model, **lora)
    weights = read_tensors(adapters.weights_file(folder))
    try:
        check_rank(config.rank, weights)
    except ValueError as error:
        raise damaged_checkpoint(folder, error) from error
    if settings.preset == "tiny":
        bundle = adapters.add_adapters(load_folder(PACKAGED_BASE, settings.num_frames), config.lora)
    else:
        use_local_parts(settings, fallback)
        bundle = assemble(settings, config.lora)
    bundle = dataclasses.replace(bundle, settings=settings, run=saved.run)
    bundle.use_labels(read_labels(folder))
    targets = sorted(lora_targets(bundle.model.decoder))
    if config.targets != targets:
        raise InputError(
            f"{folder} adapts {', '.join(config.targets)}, but this model's adapters are on {', '.join(targets)}; they "
            f"are of another decoder or another LoRA setting."
        )
    names = normalize_names([f"llm.{name}" for name in weights])
    tensors = {names[f"llm.{name}"]: tensor for name, tensor in weights.items()}
    if (folder / adapters.OTHER_WEIGHTS).is_file():
        tensors |= load_safetensors(folder / adapters.OTHER_WEIGHTS)
    report = load_tensors(bundle.model, tensors, folder, new_tensor_names(bundle.model) | set(saved.tensors))
    if not has_settings and config.base and Path(config.base).name != Path(settings.decoder_model).name:
        report.notes.append(f"made for {config.base[:100]}, loaded onto {settings.decoder_model}")
    from_checkpoint = bundle.checkpoint_tensors | set(report.loaded)
    return dataclasses.replace(bundle, checkpoint_tensors=from_checkpoint, report=str(report))


def _load_file(path: Path, fallback: ModelConfig, flag: str, verify: bool) -> ModelBundle:
    """Loads a file in the published form."""
    if not path.is_file():
        raise InputError(f"{flag} {path} does not exist.")
    tensors = read_tensors(path, verify=verify)
    settings, run = _settings_of_file(path, fallback)
    use_local_parts(settings, fallback)
    rank = adapter_rank(tensors)
    if not run.flags:
        settings.lora_r = rank or 0
    elif rank and rank != settings.lora_r:
        raise InputError(
            f"{path} has adapters of rank {rank}, but the config.yaml in its folder says {settings.lora_r}; one is "
            f"wrong."
        )
    lora = {"r": settings.lora_r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout} if rank else None
    if settings.preset == "tiny":
        best = path.parent / "best"
        bundle = load_folder(best if (best / SETTINGS_FILE).is_file() else PACKAGED_BASE, settings.num_frames)
        bundle = dataclasses.replace(bundle, settings=settings)
        if lora and not bundle.model.config.lora:
            bundle = adapters.add_adapters(bundle, lora)
        required = all_tensor_names(bundle.model)
    else:
        bundle = assemble(settings, lora)
        bundle.use_labels(read_labels(path.parent / "best"))
        required = _required_tensors(run, bundle.model, tensors)
        rows = len(tensors.get(WORDS, bundle.model.state_dict()[WORDS]))
        if settings.text_embeddings == "aligned" and rows < bundle.model.config.text_config.vocab_size:
            raise InputError(
                f"{path} has BLIP's own word embedding of {rows} rows, which does not fit --text-embeddings aligned; "
                f"give --text-embeddings published."
            )
    report = load_tensors(bundle.model, tensors, path, required)
    if bundle.model.config.lora and not run.flags:
        report.notes.append(f"adapters of rank {settings.lora_r}; the file does not say their alpha, taken as "
                            f"{settings.lora_alpha}")  # fmt: skip
    from_checkpoint = set(report.changed) | (new_tensor_names(bundle.model) & set(report.loaded))
    return ModelBundle(bundle.model, bundle.tokenizer, bundle.settings, run, from_checkpoint, str(report), path)


def _settings_of_file(path: Path, fallback: ModelConfig) -> tuple[ModelConfig, RunRecord]:
    """The settings and the run of a lone file: from the ``config.yaml`` in its folder, or else from the flags."""
    run_file = path.parent / "config.yaml"
    if not run_file.is_file():
        try:
            return parse_settings(vars(fallback)), RunRecord()
        except ValueError as error:
            raise InputError(f"The model flags are not valid ({first_line(error)}).") from error
    try:
        flags = read_yaml(run_file, TrainConfig)
        return parse_settings({k: v for k, v in flags.items() if k in MODEL_FLAGS}), parse_run(flags)
    except (InputError, ValueError) as error:
        names_file = isinstance(error, InputError)
        problem = str(error).rstrip(".") if names_file else f"Config file {run_file} is invalid ({first_line(error)})"
        raise InputError(
            f"{problem}; it is read as the settings of {path.name}, so fix it or move {path.name} to another folder."
        ) from error


def _required_tensors(run: RunRecord, model: SurgViVQAModel, given: dict[str, Tensor]) -> set[str]:
    """What a file must hold: what its run trained, or the decoder's trained part if the run is not recorded."""
    if run.flags:
        try:
            with frozen_as(model, run.config):
                trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        except InputError:  # an edited config.yaml, by which nothing would be trained
            trained = set()
        if trained and bool(lora_settings(run.config)) == bool(model.config.lora):
            return new_tensor_names(model) | trained
    return trained_tensor_names(model, given)
