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
from surgvivqa.checkpoints.checksums import compute_checksums
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.hub_names import without_revision
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.public_settings import part_name
from surgvivqa.checkpoints.published import WORDS, Names, published_name, saved_tensors
from surgvivqa.checkpoints.settings import FORMAT, SETTINGS_FILE, Holds
from surgvivqa.config import ModelConfig
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.atomic_files import write_file, write_folder


def save_checkpoint(
    bundle: ModelBundle,
    folder: Path,
    *,
    everything: bool = False,
    max_shard_size: str = "5GB",
    write_extra: Callable[[Path], None] | None = None,
) -> None:
    """Writes a checkpoint folder (see ``checkpoints/folders.py``), atomically.

    Args:
        bundle: what to write.
        folder: the folder; an existing one is replaced.
        everything: write all tensors, so that the folder needs no published part; otherwise those of ``saved_tensors``.
        max_shard_size: larger weights are split into several files with an index, as Hugging Face does.
        write_extra: writes further files into the folder before it is moved into place.

    Raises:
        RunError: the disk is full, or the folder cannot be written; an existing folder stays as it was.
    """

    def write(temporary: Path) -> None:
        tensors = saved_tensors(bundle, everything=everything)
        is_complete = everything or bundle.settings.preset == "tiny"
        holds: Holds = "all" if is_complete else "trained"
        on_cpu = {k: v.cpu() for k, v in tensors.items()}
        save_torch_state_dict(on_cpu, temporary, max_shard_size=max_shard_size, metadata={"format": "pt"})
        for file in temporary.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors makes it readable by its owner only
        _write_settings(bundle, temporary, holds, [] if is_complete else sorted(tensors))
        if write_extra is not None:
            write_extra(temporary)

    write_folder(folder, write)


def save_adapters(bundle: ModelBundle, folder: Path) -> None:
    """Writes a folder in PEFT's format, with the further files that ``load_checkpoint`` needs to restore the model.

    Raises:
        InputError: the model has no adapters.
    """

    def write(temporary: Path) -> None:
        unchanged = {}
        if bundle.settings.preset == "tiny":
            base = adapters.add_adapters(load_folder(PACKAGED_BASE), bundle.model.config.lora)
            unchanged = base.model.state_dict()
        others = adapters.save_adapters(bundle, temporary, _base_name(bundle.settings), unchanged)
        _write_settings(bundle, temporary, "adapters", others)
        (temporary / "config.json").unlink()  # PEFT's tools would read it as a base model's

    write_folder(folder, write)


def _base_name(settings: ModelConfig) -> str:
    """The base model's name in a PEFT configuration; for a local folder its last name, without the path."""
    if settings.preset == "tiny":
        return "surgvivqa-tiny-base"
    return without_revision(part_name(settings.decoder_model))


def _write_settings(bundle: ModelBundle, folder: Path, holds: Holds, tensors: Sequence[str] = ()) -> None:
    """Writes the files beside the weights, which are there already."""
    bundle.model.config.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    bundle.processor().save_pretrained(folder)
    settings = dataclasses.asdict(bundle.settings)
    saved = {
        "format": FORMAT,
        "holds": holds,
        "tensors": list(tensors),
        "sha256": compute_checksums(folder),
        "settings": settings,
        "run": bundle.run.to_dict(),
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(saved, indent=2, default=str), encoding="utf-8")


def export_pth(bundle: ModelBundle, path: Path, *, everything: bool = False, names: Names = "transformers4") -> None:
    """Writes a state dict in the published form with ``torch.save``.

    Args:
        bundle: what to write.
        path: the file.
        everything: write the whole state dict, with tied weights. Otherwise write the trained tensors; published
            loaders are not strict and load them over the published parts. ``aligned`` word embeddings are always
            written, since no published loader makes them.
        names: the Transformers version whose parameter names of VideoMAE are used.
    """
    tensors = bundle.model.state_dict() if everything else saved_tensors(bundle)
    if bundle.settings.text_embeddings == "aligned":
        tensors.setdefault(WORDS, bundle.model.state_dict()[WORDS])
    state = {published_name(k, names): v.detach().cpu() for k, v in tensors.items()}
    write_file(path, lambda temporary: torch.save(state, temporary))
