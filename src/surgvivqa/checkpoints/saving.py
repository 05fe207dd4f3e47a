"""Writes checkpoints: folders (``folders`` lists their files), adapters in PEFT's format, and the published form.

Each appears complete or not at all.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict

from surgvivqa.checkpoints import adapters
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.public_settings import part_name
from surgvivqa.checkpoints.published import (
    WORDS,
    Names,
    published_name,
    saved_tensors,
)
from surgvivqa.checkpoints.settings import (
    SETTINGS_FILE,
)
from surgvivqa.config import ModelConfig
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.atomic_files import write_file, write_folder


def save_checkpoint(
    bundle: ModelBundle,
    folder: Path,
    *,
    everything: bool = False,
    max_shard_size: str = "5GB",
    also: Callable[[Path], None] | None = None,
) -> None:
    """Writes a checkpoint folder (see ``checkpoints/folders.py``), atomically.

    Args:
        bundle: what to write.
        folder: replaced if it is there.
        everything: all tensors, so that the folder needs no published part; else those that ``saved_tensors`` names.
        max_shard_size: larger weights are written in several files with an index, as Hugging Face does.
        also: adds files of its own to the folder before it is moved into place.

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


def save_adapters(bundle: ModelBundle, folder: Path) -> None:
    """Writes a folder in PEFT's format, with the files by which ``load_checkpoint`` makes the whole model again.

    Raises:
        InputError: the model has no adapters.
    """

    def write(temporary: Path) -> None:
        known = {}
        if bundle.settings.preset == "tiny":
            base = adapters.with_adapters(load_folder(PACKAGED_BASE), bundle.model.config.lora)
            known = base.model.state_dict()
        others = adapters.save_adapters(bundle, temporary, _base_name(bundle.settings), known)
        _write_settings(bundle, temporary, "adapters", others)
        (temporary / "config.json").unlink()  # PEFT's tools take it for a base model's

    write_folder(folder, write)


def _base_name(settings: ModelConfig) -> str:
    """What a PEFT configuration says the adapters belong to; of a local folder its own name, not where it lies."""
    if settings.preset == "tiny":
        return "surgvivqa-tiny-base"
    return part_name(settings.decoder_model)


def _write_settings(bundle: ModelBundle, folder: Path, holds: str, tensors: Sequence[str] = ()) -> None:
    bundle.model.config.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    bundle.processor().save_pretrained(folder)
    settings = dataclasses.asdict(bundle.settings)
    saved = {"holds": holds, "tensors": list(tensors), "settings": settings, "run": bundle.run}
    (folder / SETTINGS_FILE).write_text(json.dumps(saved, indent=2, default=str), encoding="utf-8")


def export_pth(bundle: ModelBundle, path: Path, *, everything: bool = False, names: Names = "transformers4") -> None:
    """Writes tensors in the published form: a ``torch.save`` of names and tensors, nothing else in it.

    Args:
        bundle: what to write.
        path: the file.
        everything: write the whole state dict, tied weights included. Otherwise write what was trained; published
            loaders are not strict and load it over the published parts. ``aligned`` word embeddings are always written,
            since no published loader makes them.
        names: the Transformers version whose parameter names of VideoMAE are used.
    """
    tensors = bundle.model.state_dict() if everything else saved_tensors(bundle)
    if bundle.settings.text_embeddings == "aligned":
        tensors.setdefault(WORDS, bundle.model.state_dict()[WORDS])
    state = {published_name(k, names): v.detach().cpu() for k, v in tensors.items()}
    write_file(path, lambda aside: torch.save(state, aside))
