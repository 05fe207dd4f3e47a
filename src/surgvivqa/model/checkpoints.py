"""Checkpoint folders and files: read, whatever form they have, and written, whole or not at all.

A checkpoint folder holds::

    config.json             the architecture (SurgViVQAConfig)
    surgvivqa.json          the settings it was trained with, the run's flags, and what the weights are (``holds``)
    model.safetensors       ``all`` tensors (or shards with an index), or those that were ``trained``
    adapter_model.safetensors, adapter_config.json     in the place of it: PEFT's format, ``adapters`` alone
    processor_config.json   frame fit, clip and prompt, for SurgViVQAProcessor
    tokenizer.json ...      the tokenizer

``all`` needs nothing else; the others are put on the published parts, or on the packaged base.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from surgvivqa.atomic import in_place, write_file, write_folder, write_text
from surgvivqa.config import ModelConfig, TrainConfig, clip_length, read_yaml, refuse_numbers
from surgvivqa.errors import InputError, first_line
from surgvivqa.hub import fetch, is_name
from surgvivqa.model import adapters
from surgvivqa.model.bundle import Bundle, saved_tensors
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.decoders import lora_targets
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.pretrained import assemble
from surgvivqa.model.processing import SurgViVQAProcessor
from surgvivqa.model.published import (
    SUFFIXES,
    Names,
    adapter_rank,
    all_of,
    load_safetensors,
    new_of,
    present_names,
    published_name,
    put,
    read_tensors,
    trained_of,
)
from surgvivqa.privacy import part_name
from surgvivqa.strangers import flags_of, is_plain_name, lora_of, names_of, read_json, refuse_code, refuse_size

PACKAGED = "tiny"  # what --checkpoint calls the packaged base
PACKAGED_BASE = Path(__file__).parents[1] / "base"  # the tiny preset's weights, made by `surgvivqa build-base`
SETTINGS_FILE, WEIGHTS, INDEX = "surgvivqa.json", "model.safetensors", "model.safetensors.index.json"
log = logging.getLogger("surgvivqa")
MODEL_FIELDS = tuple(f.name for f in dataclasses.fields(ModelConfig))


def save_checkpoint(
    bundle: Bundle,
    folder: Path,
    *,
    everything: bool = False,
    max_shard_size: str = "5GB",
    also: Callable[[Path], None] | None = None,
) -> None:
    """Writes a checkpoint folder (drawn at the top of this file), whole or not at all.

    Args:
        bundle: what to write.
        folder: replaced if it is there.
        everything: all tensors, so that the folder needs no published part; else those that ``saved_tensors`` names.
        max_shard_size: larger weights are written in several files with an index, as Hugging Face does.
        also: adds files of its own to the folder before it is put in place.

    Raises:
        RunError: the disk is full, or the folder cannot be written; what was there stays.
    """

    def write(temporary: Path) -> None:
        tensors = saved_tensors(bundle, everything=everything)
        whole = everything or bundle.settings.preset == "tiny"
        _write_settings(bundle, temporary, "all" if whole else "trained", [] if whole else sorted(tensors))
        here = {k: v.cpu() for k, v in tensors.items()}
        save_torch_state_dict(here, temporary, max_shard_size=max_shard_size, metadata={"format": "pt"})
        for file in temporary.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors leaves it to its owner alone
        if also is not None:
            also(temporary)

    write_folder(folder, write)


def save_adapters(bundle: Bundle, folder: Path) -> None:
    """Writes a folder in PEFT's format, with the files by which ``load_checkpoint`` makes the whole model again.

    Raises:
        InputError: the model has no adapters.
    """

    def write(temporary: Path) -> None:
        _write_settings(bundle, temporary, "adapters")
        (temporary / "config.json").unlink()  # PEFT's tools take it for a base model's
        known = {}
        if bundle.settings.preset == "tiny":
            base = adapters.with_adapters(load_folder(PACKAGED_BASE), bundle.model.config.lora)
            known = base.model.state_dict()
        adapters.save_adapters(bundle, temporary, _base_name(bundle.settings), known)

    write_folder(folder, write)


def _base_name(settings: ModelConfig) -> str:
    """What a PEFT configuration says the adapters belong to; of a local folder its own name, not where it lies."""
    if settings.preset == "tiny":
        return "surgvivqa-tiny-base"
    return part_name(settings.decoder_model)


def _write_settings(bundle: Bundle, folder: Path, holds: str, tensors: Sequence[str] = ()) -> None:
    bundle.model.config.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    SurgViVQAProcessor.of(bundle).save_pretrained(folder)
    settings = dataclasses.asdict(bundle.settings)
    saved = {"holds": holds, "tensors": list(tensors), "settings": settings, "run": bundle.run}
    (folder / SETTINGS_FILE).write_text(json.dumps(saved, indent=2, default=str), encoding="utf-8")


def export_pth(bundle: Bundle, path: Path, *, everything: bool = False, names: Names = "transformers4") -> None:
    """Writes tensors in the published form: a ``torch.save`` of names and tensors, nothing else in it.

    Args:
        bundle: what to write.
        path: the file.
        everything: the whole state dict, tied weights too; else what was trained, which published loaders, not being
            strict, put on the published parts.
        names: VideoMAE's, of the Transformers version that will read it.
    """
    tensors = bundle.model.state_dict() if everything else saved_tensors(bundle)
    state = {published_name(k, names): v.detach().cpu() for k, v in tensors.items()}
    write_file(path, lambda aside: torch.save(state, aside))


def load_checkpoint(path: Path, fallback: ModelConfig, flag: str = "--checkpoint") -> Bundle:
    """A model in eval mode from a run folder, its ``best/``, a folder in Hugging Face's or PEFT's format, a file in the
    published form, a name on the hub (``user/model``), or ``tiny``, the packaged base.

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
    elif path.suffix in SUFFIXES and not (path.parent / SETTINGS_FILE).is_file():
        bundle = _load_file(path, fallback, flag)
    elif path.suffix in SUFFIXES:  # the weights of a folder, which says what they are
        bundle = _load_any_folder(path.parent, fallback, flag)
    else:
        # A name of the hub's looks like a path; it is one where nothing on disk could be meant.
        first = path.parts[0] if path.parts else ""
        on_hub = is_name(str(path)) and not path.exists() and not Path(first).exists()
        bundle = _load_any_folder(fetch(str(path), flag) if on_hub else path, fallback, flag)
    bundle.model.eval().requires_grad_(False)  # what trains is a run's business
    if bundle.report:
        log.info("%s", bundle.report)
    return bundle


def _load_any_folder(path: Path, fallback: ModelConfig, flag: str) -> Bundle:
    for folder in map(in_place, (path, path / "best")):
        if (folder / adapters.ADAPTER_CONFIG).is_file():
            return _load_adapters(folder, fallback)
        if (folder / SETTINGS_FILE).is_file() or is_whole(folder):
            return load_folder(folder)
    raise InputError(
        f"{flag} {path} holds no checkpoint: expected a run folder with best/, a folder with config.json or "
        f"{adapters.ADAPTER_CONFIG}, or a file that ends in {', '.join(SUFFIXES)}."
    )


def is_whole(folder: Path) -> bool:
    """Whether a folder holds all of a model's tensors, so that Hugging Face's loader can read it."""
    if (folder / SETTINGS_FILE).is_file():
        return _read_settings(folder).holds == "all"
    return (folder / "config.json").is_file() and not (folder / adapters.ADAPTER_CONFIG).is_file()


def now_whole(folder: Path) -> None:
    """Makes the files beside a whole model's weights say so, where they are an older checkpoint's."""
    for name in (adapters.ADAPTER_CONFIG, adapters.ADAPTER_WEIGHTS, adapters.OTHER_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    path = folder / SETTINGS_FILE
    if path.is_file():
        content = dict(read_json(path)) | {"holds": "all", "tensors": []}
        write_text(path, json.dumps(content, indent=2))


def load_folder(folder: Path, num_frames: int | None = None) -> Bundle:
    """A checkpoint folder's model; ``num_frames`` gives it clips of another length.

    Raises:
        InputError: something in it is damaged or missing.
    """
    saved = _read_settings(folder) if (folder / SETTINGS_FILE).is_file() else _read_hugging_face(folder)
    try:
        refuse_code(read_json(folder / "config.json"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    tokenizer = _read_tokenizer(folder)
    try:
        config = SurgViVQAConfig.from_pretrained(folder)
    except Exception as error:  # Transformers raises several kinds
        raise _damaged(folder, error) from error
    found = read_weights(folder)
    _refuse_model(folder, config, found, saved.holds)
    names = present_names(found)  # Hugging Face's save_pretrained writes older ones
    tensors = {names[name]: tensor for name, tensor in found.items()}
    if saved.holds == "all":
        config.video_config.num_frames = num_frames or config.video_config.num_frames
        try:
            model = SurgViVQAModel(config)
        except Exception as error:  # impossible numbers: Transformers raises whatever they lead to
            raise _damaged(folder, error) from error
    else:
        model = assemble(saved.settings, config.lora).model
    required = all_of(model) if saved.holds == "all" else new_of(model) | set(saved.tensors)
    report = put(model, tensors, folder, required)
    return Bundle(model, tokenizer, saved.settings, saved.run, set(report.loaded))


def _refuse_model(folder: Path, config: SurgViVQAConfig, tensors: dict[str, Tensor], holds: str) -> None:
    """Raises InputError where the configuration asks for more than the weights can be."""
    try:
        if config.lora:
            _refuse_rank(int(lora_of(config.lora)["r"]), tensors)
        if holds == "all":
            refuse_size(config, tensors)
    except (ValueError, TypeError) as error:
        raise _damaged(folder, error) from error


def _refuse_rank(rank: int, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError where a rank is not that of the adapters in a file: they are made before they are filled."""
    ranks = {len(t) if t.ndim else 0 for n, t in tensors.items() if ".lora_A." in n}
    if ranks - {rank}:
        raise ValueError(f"its adapters have another shape: rank {min(ranks - {rank})}, where its settings say {rank}")
    if not ranks:
        raise ValueError("its settings ask for adapters, and it holds none")


def _load_adapters(folder: Path, fallback: ModelConfig) -> Bundle:
    """Adapters in PEFT's format, on the parts that ``surgvivqa.json`` beside them names, or else the flags do."""
    lora = adapters.read_adapter_config(folder)
    targets = lora.pop("targets")
    known = (folder / SETTINGS_FILE).is_file()
    saved = _read_settings(folder) if known else Saved(dataclasses.replace(fallback))
    settings, run = saved.settings, saved.run
    settings.lora_r, settings.lora_alpha, settings.lora_dropout = lora["r"], lora["alpha"], lora["dropout"]
    found = load_safetensors(folder / adapters.ADAPTER_WEIGHTS)
    try:
        _refuse_rank(lora["r"], found)
    except ValueError as error:
        raise _damaged(folder, error) from error
    if settings.preset == "tiny":
        bundle = adapters.with_adapters(load_folder(PACKAGED_BASE, settings.num_frames), lora)
        bundle = dataclasses.replace(bundle, settings=settings, run=run)
    else:
        bundle = dataclasses.replace(assemble(settings, lora), run=run)
    if targets != sorted(lora_targets(bundle.model.decoder)):
        raise InputError(
            f"{folder} adapts {', '.join(targets)}, but this model's adapters are on "
            f"{', '.join(lora_targets(bundle.model.decoder))}; they are of another decoder or another LoRA setting."
        )
    names = present_names([f"llm.{name}" for name in found])
    tensors = {names[f"llm.{name}"]: tensor for name, tensor in found.items()}
    if (folder / adapters.OTHER_WEIGHTS).is_file():
        tensors |= load_safetensors(folder / adapters.OTHER_WEIGHTS)
    report = put(bundle.model, tensors, folder, new_of(bundle.model))
    return dataclasses.replace(bundle, own=bundle.own | set(report.loaded), report=str(report))


def _load_file(path: Path, fallback: ModelConfig, flag: str) -> Bundle:
    """A file in the published form."""
    if not path.is_file():
        raise InputError(f"{flag} {path} does not exist.")
    tensors = read_tensors(path)
    beside = path.parent / "config.yaml"
    run = read_yaml(beside, TrainConfig) if beside.is_file() else {}
    try:
        settings = _settings({k: v for k, v in run.items() if k in MODEL_FIELDS} if run else vars(fallback))
        run = _run(run)
    except ValueError as error:
        raise InputError(f"Config file {beside} does not fit ({first_line(error)}).") from error
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
        required = all_of(bundle.model)
    else:
        bundle = assemble(settings, lora)
        # What a run of ours saved is what it trained; a file of unknown making must hold the decoder's trained part.
        required = new_of(bundle.model) if run else trained_of(bundle.model, tensors)
    report = put(bundle.model, tensors, path, required)
    if bundle.model.config.lora and not run:
        report.notes.append(
            f"adapters of rank {settings.lora_r}; their alpha is not in the file, taken as {settings.lora_alpha}"
        )
    own = set(report.changed) | (new_of(bundle.model) & set(report.loaded))
    return Bundle(bundle.model, bundle.tokenizer, bundle.settings, run, own, str(report))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, from one file or from shards.

    Raises:
        InputError: a file is missing or damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return load_safetensors(folder / WEIGHTS)
    try:
        where = read_json(index)["weight_map"]
        files = sorted(set(names_of(list(where.values()))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error
    if any(not is_plain_name(name) for name in files):
        raise InputError(f"{index} names a file outside its folder ({files[0]}), which is not read.")
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            raise InputError(
                f"Checkpoint {folder} lacks {name}, one of its {len(files)} files of weights; copy it there again."
            )
        tensors |= load_safetensors(folder / name)
    return tensors


@dataclass
class Saved:
    """What ``surgvivqa.json`` says."""

    settings: ModelConfig
    run: dict[str, Any] = field(default_factory=dict)
    holds: str = "all"
    tensors: Sequence[str] = ()


def _read_settings(folder: Path) -> Saved:
    try:
        saved = read_json(folder / SETTINGS_FILE)
        settings = _settings(saved["settings"])
        holds = saved.get("holds", "all" if settings.preset == "tiny" else "trained")
        if holds not in ("all", "trained", "adapters"):
            raise ValueError("it does not say what it holds")
        return Saved(settings, _run(saved.get("run", {})), holds, names_of(saved.get("tensors", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error


def _read_hugging_face(folder: Path) -> Saved:
    """The settings of a folder that ``save_pretrained`` of model and processor made: what these two say."""
    try:
        config = read_json(folder / "config.json")
        if config.get("model_type") != SurgViVQAConfig.model_type:
            raise InputError(f"{folder} holds a {config.get('model_type')} model, not a SurgViVQA model.")
        path = folder / "processor_config.json"
        processor = read_json(path) if path.is_file() else {}
        known = {name: value for name, value in (config | processor).items() if name in MODEL_FIELDS}
        lora = lora_of(config["lora"]) if config.get("lora") else {"r": 0}
        known |= {f"lora_{name}": value for name, value in lora.items()}
        return Saved(_settings(known))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error


def _settings(values: Any) -> ModelConfig:
    """Raises ValueError or InputError where a value is none of its flag's."""
    if unknown := set(values) - set(MODEL_FIELDS):
        raise ValueError(f"it has the unknown setting {min(map(str, unknown))[:60]}")
    settings = ModelConfig(**flags_of(ModelConfig, values))
    refuse_numbers(settings)
    clip_length(settings)  # refuses odd ones and long ones
    return settings


def _run(values: Any) -> dict[str, Any]:
    """Raises ValueError where a value is none of its flag's."""
    flags_of(TrainConfig, values)
    names_of(values.get("train_videos") or ())
    return dict(values)


def _read_tokenizer(folder: Path) -> Any:
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # tokenizers raises its own kinds
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"Checkpoint {folder} is damaged or incomplete ({first_line(error)}).")
