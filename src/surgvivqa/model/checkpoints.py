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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from surgvivqa.atomic import in_place, write_file, write_folder
from surgvivqa.config import ModelConfig, TrainConfig, read_yaml
from surgvivqa.errors import InputError, first_line
from surgvivqa.hub import fetch
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
    load_safetensors,
    present_names,
    published_name,
    put,
    read_tensors,
)

PACKAGED = "tiny"  # what --checkpoint calls the packaged base
PACKAGED_BASE = Path(__file__).parents[1] / "base"  # the tiny preset's weights, made by `surgvivqa build-base`
SETTINGS_FILE, WEIGHTS, INDEX = "surgvivqa.json", "model.safetensors", "model.safetensors.index.json"
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
        _write_settings(bundle, temporary, holds="all" if whole else "trained")
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
        _write_settings(bundle, temporary, holds="adapters")
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
    return Path(settings.decoder_model).name if Path(settings.decoder_model).is_dir() else settings.decoder_model


def _write_settings(bundle: Bundle, folder: Path, holds: str) -> None:
    bundle.model.config.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    SurgViVQAProcessor.of(bundle).save_pretrained(folder)
    saved = {"holds": holds, "settings": dataclasses.asdict(bundle.settings), "run": bundle.run}
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
    elif path.suffix in SUFFIXES:
        bundle = _load_file(path, fallback, flag)
    else:
        # A name of the hub's looks like a path; it is one where nothing on disk could be meant.
        on_hub = len(path.parts) == 2 and not path.is_absolute() and not path.parent.exists()
        bundle = _load_any_folder(fetch(str(path), flag) if on_hub else path, fallback, flag)
    bundle.model.eval().requires_grad_(False)  # what trains is a run's business
    return bundle


def _load_any_folder(path: Path, fallback: ModelConfig, flag: str) -> Bundle:
    for folder in map(in_place, (path, path / "best")):
        if (folder / adapters.ADAPTER_CONFIG).is_file():
            return _load_adapters(folder, fallback)
        if (folder / SETTINGS_FILE).is_file():
            return load_folder(folder)
    raise InputError(
        f"{flag} {path} holds no checkpoint: expected a run folder with best/, a folder with {SETTINGS_FILE} or "
        f"{adapters.ADAPTER_CONFIG}, or a file that ends in {', '.join(SUFFIXES)}."
    )


def is_whole(folder: Path) -> bool:
    """Whether a folder holds all of a model's tensors, so that Hugging Face's loader can read it."""
    if not (folder / SETTINGS_FILE).is_file():
        return (folder / "config.json").is_file() and not (folder / adapters.ADAPTER_CONFIG).is_file()
    return _read_settings(folder)[2] == "all"


def load_folder(folder: Path, num_frames: int | None = None) -> Bundle:
    """A checkpoint folder's model; ``num_frames`` gives it clips of another length.

    Raises:
        InputError: something in it is damaged or missing.
    """
    settings, run, holds = _read_settings(folder)
    tokenizer = _read_tokenizer(folder)
    try:
        config = SurgViVQAConfig.from_pretrained(folder)
    except Exception as error:  # Transformers raises several kinds
        raise _damaged(folder, error) from error
    tensors = read_weights(folder)
    if holds == "all":
        config.video_config.num_frames = num_frames or config.video_config.num_frames
        model = SurgViVQAModel(config)
    else:
        model = assemble(settings, config.lora).model
    report = put(model, tensors, folder, needs="all" if holds == "all" else "some")
    return Bundle(model, tokenizer, settings, run, set(report.loaded))


def _load_adapters(folder: Path, fallback: ModelConfig) -> Bundle:
    """Adapters in PEFT's format, on the parts that ``surgvivqa.json`` beside them names, or else the flags do."""
    lora = adapters.read_adapter_config(folder)
    targets = lora.pop("targets")
    known = (folder / SETTINGS_FILE).is_file()
    settings, run, _ = _read_settings(folder) if known else (dataclasses.replace(fallback), {}, "")
    settings.lora_r, settings.lora_alpha, settings.lora_dropout = lora["r"], lora["alpha"], lora["dropout"]
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
    found = load_safetensors(folder / adapters.ADAPTER_WEIGHTS)
    names = present_names([f"llm.{name}" for name in found])
    tensors = {names[f"llm.{name}"]: tensor for name, tensor in found.items()}
    if (folder / adapters.OTHER_WEIGHTS).is_file():
        tensors |= load_safetensors(folder / adapters.OTHER_WEIGHTS)
    report = put(bundle.model, tensors, folder, needs="decoder")
    return dataclasses.replace(bundle, own=bundle.own | set(report.loaded), report=str(report))


def _load_file(path: Path, fallback: ModelConfig, flag: str) -> Bundle:
    """A file in the published form."""
    if not path.is_file():
        raise InputError(f"{flag} {path} does not exist.")
    tensors = read_tensors(path)
    beside = path.parent / "config.yaml"
    run = read_yaml(beside, TrainConfig) if beside.is_file() else {}
    settings = ModelConfig(**({k: v for k, v in run.items() if k in MODEL_FIELDS} if run else vars(fallback)))
    if settings.preset == "tiny":
        folder = path.parent / "best"
        if not (folder / SETTINGS_FILE).is_file():
            raise InputError(f"{path} is of the tiny preset, whose tokenizer is in best/ beside it; that is missing.")
        bundle, needs = load_folder(folder), "all"
    else:
        rank = adapter_rank(tensors)
        if rank is not None and not run:
            settings.lora_r = rank
        lora = {"r": settings.lora_r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout}
        bundle = assemble(settings, lora if rank is not None else None)
        # A run that froze the decoder saved nothing of it.
        frozen = bool(run) and not any((run.get("lora_r", 8), run.get("full_finetune"), run.get("train_gpt2_full")))
        needs = "some" if frozen else "decoder"
    report = put(bundle.model, tensors, path, needs=needs)
    if bundle.model.config.lora and not run:
        report.notes.append(
            f"adapters of rank {settings.lora_r}; their alpha is not in the file, taken as {settings.lora_alpha}"
        )
    return Bundle(bundle.model, bundle.tokenizer, bundle.settings, run, set(report.loaded), str(report))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, from one file or from shards.

    Raises:
        InputError: a file is missing or damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return load_safetensors(folder / WEIGHTS)
    try:
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(name) for name in where.values()})
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, error) from error
    if any(Path(name).name != name for name in files):
        raise InputError(f"{index} names a file outside its folder ({files[0]}), which is not read.")
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            raise InputError(
                f"Checkpoint {folder} lacks {name}, one of its {len(files)} files of weights; copy it there again."
            )
        tensors |= load_safetensors(folder / name)
    return tensors


def _read_settings(folder: Path) -> tuple[ModelConfig, dict[str, Any], str]:
    try:
        saved = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        settings = ModelConfig(**saved["settings"])
        return settings, saved.get("run", {}), saved.get("holds", "all" if settings.preset == "tiny" else "trained")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, error) from error


def _read_tokenizer(folder: Path) -> Any:
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # tokenizers raises its own kinds
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> InputError:
    return InputError(f"Checkpoint {folder} is damaged or incomplete ({first_line(error)}).")
