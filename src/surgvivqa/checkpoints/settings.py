"""Reads and validates the JSON files of a checkpoint folder into ``CheckpointSettings``."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from surgvivqa.checkpoints.validation import (
    check_no_remote_code,
    is_plain_name,
    validate_flags,
    validate_lora,
    validate_names,
)
from surgvivqa.config import MODEL_FLAGS, PART_FLAGS, ModelConfig, TrainConfig, check_ranges, clip_length, option
from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.model.bundle import RunRecord
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.utils.errors import InputError, first_line, one_line
from surgvivqa.utils.safe_json import read_json

SETTINGS_FILE = "surgvivqa.json"
CONFIG_FILE = "config.json"
FORMAT = 1  # of surgvivqa.json; raise it when older programs would misread the file
_FIELDS = ("format", "holds", "tensors", "sha256", "settings", "run")
_HUGGING_FACE_FIELDS = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")
_LABEL_FIELDS = ("labels", "label_set_name")  # of config.json; absent for SSG-QA's labels
Holds = Literal["all", "trained", "adapters"]
log = logging.getLogger("surgvivqa")


@dataclass
class CheckpointSettings:
    """The validated settings of a checkpoint folder.

    Attributes:
        model: the model's settings.
        run: the run that wrote the checkpoint, as far as it is recorded.
        holds: which tensors the folder holds.
        tensors: names of the tensors that it must hold besides adapters and projections; empty for ``all``.
        checksums: SHA-256 (hex) of the files with weights, by name; empty if not recorded.
    """

    model: ModelConfig
    run: RunRecord = RunRecord()
    holds: Holds = "all"
    tensors: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)


def read_settings(folder: Path) -> CheckpointSettings:
    """Reads a folder's ``surgvivqa.json``.

    Raises:
        InputError: the file cannot be read, or a value is invalid.
    """
    try:
        content = read_json(folder / SETTINGS_FILE)
        version = content.get("format", FORMAT)
        if not isinstance(version, int) or version > FORMAT:
            raise InputError(
                f"Checkpoint {folder} has format {version!r}, but this version of surgvivqa reads formats up to "
                f"{FORMAT}; update surgvivqa."
            )
        _warn_of_unknown(folder / SETTINGS_FILE, content, _FIELDS)
        settings = parse_settings(content["settings"])
        holds = content.get("holds", "all" if settings.preset == "tiny" else "trained")
        if holds not in get_args(Holds):
            raise ValueError(f"its holds is not one of {', '.join(get_args(Holds))}")
        tensors = tuple(validate_names(content.get("tensors", ())))
        checksums = content.get("sha256", {})
        names = validate_names([*checksums, *checksums.values()])
        if not all(is_plain_name(name) for name in names):
            raise ValueError("its checksums are of files outside the folder")
        return CheckpointSettings(settings, parse_run(content.get("run", {})), holds, tensors, checksums)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_checkpoint(folder, error) from error


def read_config(folder: Path) -> tuple[SurgViVQAConfig, CheckpointSettings]:
    """Reads a folder's ``config.json`` and its settings.

    A folder that Hugging Face's ``save_pretrained`` wrote has no ``surgvivqa.json``; its settings are in
    ``config.json`` and ``processor_config.json``.

    Raises:
        InputError: a file cannot be read, a value is invalid, or the configuration asks for code from the hub.
    """
    try:
        content = read_json(folder / CONFIG_FILE)
        check_no_remote_code(content)
        LabelSet.of_labels(*(content.get(name) for name in _LABEL_FIELDS))
        _warn_of_unknown(
            folder / CONFIG_FILE, content, (*SurgViVQAConfig().to_dict(), *_LABEL_FIELDS, *_HUGGING_FACE_FIELDS)
        )
        if (folder / SETTINGS_FILE).is_file():
            settings = read_settings(folder)
        elif content.get("model_type") == SurgViVQAConfig.model_type:
            settings = _settings_of(content, folder / "processor_config.json")
        else:
            raise InputError(f"{folder} holds a {content.get('model_type')} model, not a SurgViVQA model.")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise damaged_checkpoint(folder, error) from error
    try:
        return SurgViVQAConfig.from_dict(content), settings
    except Exception as error:  # Transformers raises several kinds
        raise damaged_checkpoint(folder, error) from error


def read_labels(folder: Path) -> LabelSet:
    """The labels of a folder's model: of its ``config.json``, or of the processor's file in a folder without one.

    Raises:
        InputError: a file cannot be read, or the labels are invalid.
    """
    for name in (CONFIG_FILE, "processor_config.json"):
        if (folder / name).is_file():
            try:
                content = read_json(folder / name)
                return LabelSet.of_labels(*(content.get(field) for field in _LABEL_FIELDS))
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise damaged_checkpoint(folder, error) from error
    return SSG_QA


def _warn_of_unknown(path: Path, content: Mapping[str, Any], known: Collection[str]) -> None:
    if unknown := sorted(str(name) for name in content if name not in known):
        log.warning("%s has unknown fields, which are ignored: %s", path, one_line(", ".join(unknown)[:200]))


def _settings_of(config: dict[str, Any], processor_file: Path) -> CheckpointSettings:
    processor = read_json(processor_file) if processor_file.is_file() else {}
    values = {name: value for name, value in (config | processor).items() if name in MODEL_FLAGS}
    lora = validate_lora(config["lora"]) if config.get("lora") else {"r": 0}
    return CheckpointSettings(parse_settings(values | {f"lora_{name}": value for name, value in lora.items()}))


def parse_settings(values: Any) -> ModelConfig:
    """Validates the model settings of a checkpoint.

    Raises:
        ValueError: a setting is unknown, or its value has the wrong type.
        InputError: a number is out of its range.
    """
    if unknown := set(values) - set(MODEL_FLAGS):
        raise ValueError(f"it has the unknown setting {min(map(str, unknown))[:60]}")
    settings = ModelConfig(**validate_flags(ModelConfig, values))
    check_ranges(settings)
    clip_length(settings)  # validates num_frames
    return settings


def parse_run(values: Any) -> RunRecord:
    """Validates what a checkpoint records about the run that wrote it. Entries of other versions are left out.

    Raises:
        ValueError: a value has the wrong type.
    """
    flags = validate_flags(TrainConfig, values)
    synthetic = values.get("synthetic")
    videos = tuple(validate_names(values.get("train_videos") or ()))
    return RunRecord(flags, videos, synthetic if isinstance(synthetic, bool) else None)


def use_local_parts(settings: ModelConfig, flags: ModelConfig) -> None:
    """Replaces model parts that are not on this machine with the folders that the flags name.

    The settings of a checkpoint name the folders of the machine that wrote it, or hub names.

    Args:
        settings: the settings of a checkpoint, changed in place.
        flags: the flags of the command that reads it.
    """
    for name in PART_FLAGS:
        recorded, given = getattr(settings, name), getattr(flags, name)
        if given != recorded and not Path(recorded).is_dir() and Path(given).is_dir():
            log.info("%s: %s is used instead of the checkpoint's %s", option(name), given, recorded)
            setattr(settings, name, given)


def damaged_checkpoint(folder: Path, error: Exception) -> InputError:
    """The error about a folder that cannot be read."""
    return InputError(f"Checkpoint {folder} is damaged or incomplete ({first_line(error)}).")
