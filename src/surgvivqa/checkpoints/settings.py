"""What a checkpoint folder says about itself: the settings beside its weights, and where its parts lie by now."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgvivqa.config import MODEL_FLAGS, PART_FLAGS, ModelConfig, TrainConfig, check_ranges, clip_length, flag_names
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.untrusted import lora_of, names_of, read_json, typed_values

SETTINGS_FILE = "surgvivqa.json"
_FRACTIONS = flag_names(ModelConfig, lambda flag: flag.accepts_fraction)
log = logging.getLogger("surgvivqa")


@dataclass
class Saved:
    """What ``surgvivqa.json`` says."""

    settings: ModelConfig
    run: dict[str, Any] = field(default_factory=dict)
    holds: str = "all"
    tensors: Sequence[str] = ()


def read_settings(folder: Path) -> Saved:
    """What a folder's ``surgvivqa.json`` says.

    Raises:
        InputError: it cannot be read, or says what no run of ours would.
    """
    try:
        saved = read_json(folder / SETTINGS_FILE)
        settings = settings_of(saved["settings"])
        holds = saved.get("holds", "all" if settings.preset == "tiny" else "trained")
        if holds not in ("all", "trained", "adapters"):
            raise ValueError("it does not say what it holds")
        return Saved(settings, run_of(saved.get("run", {})), holds, names_of(saved.get("tensors", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, error) from error


def read_hugging_face(folder: Path) -> Saved:
    """The settings of a folder that ``save_pretrained`` of model and processor made: what these two say."""
    try:
        config = read_json(folder / "config.json")
        if config.get("model_type") != SurgViVQAConfig.model_type:
            raise InputError(f"{folder} holds a {config.get('model_type')} model, not a SurgViVQA model.")
        path = folder / "processor_config.json"
        processor = read_json(path) if path.is_file() else {}
        known = {name: value for name, value in (config | processor).items() if name in MODEL_FLAGS}
        lora = lora_of(config["lora"]) if config.get("lora") else {"r": 0}
        known |= {f"lora_{name}": value for name, value in lora.items()}
        return Saved(settings_of(known))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise damaged(folder, error) from error


def settings_of(values: Any) -> ModelConfig:
    """Raises ValueError or InputError where a value is none of its flag's."""
    if unknown := set(values) - set(MODEL_FLAGS):
        raise ValueError(f"it has the unknown setting {min(map(str, unknown))[:60]}")
    settings = ModelConfig(**typed_values(ModelConfig, values, _FRACTIONS))
    check_ranges(settings)
    clip_length(settings)  # refuses odd ones and long ones
    return settings


def run_of(values: Any) -> dict[str, Any]:
    """Raises ValueError where a value is none of its flag's."""
    typed_values(TrainConfig, values, _FRACTIONS)
    names_of(values.get("train_videos") or ())
    return dict(values)


def find_parts(settings: ModelConfig, flags: ModelConfig) -> None:
    """Takes the places of the published parts from the flags that name a folder, where a checkpoint's own are not here:
    a run of another machine says where the parts lay there, or a name of the hub's.

    Args:
        settings: a checkpoint's; changed in place.
        flags: of the command that reads it.
    """
    for name in PART_FLAGS:
        said, given = getattr(settings, name), getattr(flags, name)
        if given != said and not Path(said).is_dir() and Path(given).is_dir():
            log.info("--%s: %s, where the checkpoint says %s", name.replace("_", "-"), given, said)
            setattr(settings, name, given)


def damaged(folder: Path, error: Exception) -> InputError:
    """The sentence about a folder that cannot be read."""
    return InputError(f"Checkpoint {folder} is damaged or incomplete ({first_line(error)}).")
