"""Reads and validates the settings of a checkpoint folder into ``Saved``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa.checkpoints.validation import validate_flags, validate_lora, validate_names
from surgvivqa.config import MODEL_FLAGS, PART_FLAGS, ModelConfig, TrainConfig, check_ranges, clip_length, flag_names
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import read_json

SETTINGS_FILE = "surgvivqa.json"
_FRACTIONS = flag_names(ModelConfig, lambda flag: flag.accepts_fraction)
log = logging.getLogger("surgvivqa")


@dataclass
class Saved:
    """The validated content of ``surgvivqa.json``."""

    settings: ModelConfig
    run: dict[str, Any] = field(default_factory=dict)
    holds: str = "all"
    tensors: Sequence[str] = ()


def read_settings(folder: Path) -> Saved:
    """Reads a folder's ``surgvivqa.json``.

    Raises:
        InputError: the file cannot be read, or a value is invalid.
    """
    try:
        saved = read_json(folder / SETTINGS_FILE)
        settings = parse_settings(saved["settings"])
        holds = saved.get("holds", "all" if settings.preset == "tiny" else "trained")
        if holds not in ("all", "trained", "adapters"):
            raise ValueError("its holds is not all, trained or adapters")
        return Saved(settings, parse_run(saved.get("run", {})), holds, validate_names(saved.get("tensors", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_checkpoint(folder, error) from error


def read_hugging_face(folder: Path) -> Saved:
    """Reads the settings of a ``save_pretrained`` folder from config.json and processor_config.json."""
    try:
        config = read_json(folder / "config.json")
        if config.get("model_type") != SurgViVQAConfig.model_type:
            raise InputError(f"{folder} holds a {config.get('model_type')} model, not a SurgViVQA model.")
        path = folder / "processor_config.json"
        processor = read_json(path) if path.is_file() else {}
        known = {name: value for name, value in (config | processor).items() if name in MODEL_FLAGS}
        lora = validate_lora(config["lora"]) if config.get("lora") else {"r": 0}
        known |= {f"lora_{name}": value for name, value in lora.items()}
        return Saved(parse_settings(known))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise damaged_checkpoint(folder, error) from error


def parse_settings(values: Any) -> ModelConfig:
    """Validates the model settings of a checkpoint.

    Raises:
        ValueError: a setting is unknown, or its value has the wrong type.
        InputError: a number is out of its range.
    """
    if unknown := set(values) - set(MODEL_FLAGS):
        raise ValueError(f"it has the unknown setting {min(map(str, unknown))[:60]}")
    settings = ModelConfig(**validate_flags(ModelConfig, values, _FRACTIONS))
    check_ranges(settings)
    clip_length(settings)  # refuses odd ones and long ones
    return settings


def parse_run(values: Any) -> dict[str, Any]:
    """Validates the flags of the run that wrote a checkpoint; entries that are not flags are kept.

    Raises:
        ValueError: a flag's value has the wrong type.
    """
    validate_flags(TrainConfig, values, _FRACTIONS)
    validate_names(values.get("train_videos") or ())
    return dict(values)


def use_local_parts(settings: ModelConfig, flags: ModelConfig) -> None:
    """Replaces model parts that are not on this machine with the folders that the flags name.

    The settings of a checkpoint name the folders of the machine that wrote it, or hub names.

    Args:
        settings: the settings of a checkpoint, changed in place.
        flags: the flags of the command that reads it.
    """
    for name in PART_FLAGS:
        said, given = getattr(settings, name), getattr(flags, name)
        if given != said and not Path(said).is_dir() and Path(given).is_dir():
            log.info("--%s: %s, where the checkpoint says %s", name.replace("_", "-"), given, said)
            setattr(settings, name, given)


def damaged_checkpoint(folder: Path, error: Exception) -> InputError:
    """The sentence about a folder that cannot be read."""
    return InputError(f"Checkpoint {folder} is damaged or incomplete ({first_line(error)}).")
