"""The temperature that ``eval --fit-temperature`` stores beside a checkpoint, and ``eval`` and ``predict`` read.

It is ``temperature.json`` in the folder of the weights: a run's ``best/``, or a folder in Hugging Face's or PEFT's
format. That of a lone file ``NAME.pth`` is ``NAME.temperature.json`` beside it. A checksum of the loaded tensors ties
it to the weights, so that it stays valid in every form of one checkpoint, and never applies to others.
"""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import torch
from pydantic import TypeAdapter

from surgvivqa.checkpoints.loading import is_on_hub
from surgvivqa.evaluation.temperature import Temperature
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import read_json

TEMPERATURE_FILE = "temperature.json"
_SETTINGS = ("mask", "prompt_mode", "frame_fit", "clip_mode", "clip_stride", "num_frames", "video_pool")
log = logging.getLogger("surgvivqa")


def hash_weights(model: SurgViVQAModel) -> str:
    """SHA-256 (hex) of the names, dtypes, shapes and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def score_settings(bundle: ModelBundle, score_norm: str) -> dict[str, str | int]:
    """What scores depend on besides the weights, by name."""
    settings = vars(bundle.settings) | {"num_frames": bundle.model.config.video_config.num_frames}
    return {"score_norm": score_norm, **{name: settings[name] for name in _SETTINGS}}


def temperature_file(checkpoint: Path) -> Path:
    """Where the temperature of a checkpoint's folder or file is stored."""
    if checkpoint.is_dir():
        return checkpoint / TEMPERATURE_FILE
    return checkpoint.with_name(f"{checkpoint.stem}.{TEMPERATURE_FILE}")


def find_place(checkpoint: Path, bundle: ModelBundle) -> Path:
    """Where a temperature of a loaded checkpoint can be stored.

    Raises:
        InputError: the checkpoint is the packaged base or on the hub, or its folder cannot be written.
    """
    if bundle.source is None or is_on_hub(checkpoint):
        kind = "the packaged base" if bundle.source is None else "on the hub"
        raise InputError(
            f"--fit-temperature stores the temperature beside the checkpoint, but {checkpoint} is {kind}; write it "
            f"into a folder with surgvivqa convert, and evaluate that."
        )
    path = temperature_file(bundle.source)
    try:
        (probe := path.with_name(f".{path.name}.probe")).touch()
        probe.unlink(missing_ok=True)  # another process of the run checks the same folder
    except OSError as error:
        raise InputError(
            f"--fit-temperature cannot write {path} ({error.strerror}); copy the checkpoint to a folder that you can "
            f"write."
        ) from None
    return path


def write_temperature(path: Path, temperature: Temperature) -> None:
    """Writes a temperature, atomically.

    Raises:
        RunError: it cannot be written.
    """
    write_text(path, json.dumps(dataclasses.asdict(temperature), indent=2) + "\n")


def read_temperature(bundle: ModelBundle, score_norm: str) -> Temperature | None:
    """Reads the temperature that is stored beside a loaded checkpoint, if it belongs to these scores.

    One that is damaged, or of other weights or settings, is ignored with a warning.

    Args:
        bundle: the loaded checkpoint, before its weights are moved or cast.
        score_norm: the scores that it must belong to, ``sum`` or ``mean``.
    """
    temperature = _read_of_weights(bundle, "is ignored")
    if temperature is None:
        return None
    for name, value in score_settings(bundle, score_norm).items():
        if temperature.settings.get(name) != value:
            fitted = temperature.settings.get(name)
            log.warning("%s is ignored: it was fitted with %s %s, not %s.", TEMPERATURE_FILE, name, fitted, value)
            return None
    return temperature


def carry_temperature(bundle: ModelBundle, output: Path) -> Path | None:
    """Stores a checkpoint's temperature beside another form of the same weights.

    Args:
        bundle: the loaded checkpoint.
        output: the folder or file that was written from it.

    Returns:
        The file that was written; None if there is no temperature.
    """
    temperature = _read_of_weights(bundle, "is not carried along")
    if temperature is None:
        return None
    write_temperature(temperature_file(output), temperature)
    return temperature_file(output)


def _read_of_weights(bundle: ModelBundle, otherwise: str) -> Temperature | None:
    """The temperature beside a loaded checkpoint; None without one, and with a warning for one of other weights."""
    path = None if bundle.source is None else temperature_file(bundle.source)
    if path is None or not path.exists():
        return None
    try:
        temperature: Temperature = TypeAdapter(Temperature).validate_python(read_json(path))
    except (OSError, ValueError) as error:
        log.warning("%s %s: it is not a temperature of eval (%s).", path, otherwise, first_line(error))
        return None
    if temperature.weights == hash_weights(bundle.model):
        return temperature
    log.warning("%s %s: it is of other weights. Fit it again with eval --fit-temperature.", path, otherwise)
    return None
