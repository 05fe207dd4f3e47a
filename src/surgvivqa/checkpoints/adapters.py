"""Adds LoRA adapters to a model's decoder, merges them, and reads and writes them in PEFT's format."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save_file

from surgvivqa.checkpoints.published import saved_tensors
from surgvivqa.checkpoints.validation import validate_lora, validate_names
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.configuration import SurgViVQAConfig
from surgvivqa.model.decoders import lora_targets
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OLD_ADAPTER_WEIGHTS = "adapter_model.bin"  # of older versions of PEFT: a pickle, of which only tensors are read
OTHER_WEIGHTS = "other_trained.safetensors"  # trained tensors outside the adapters; PEFT does not read it
_PARTS = ("visual_encoder", "text_encoder", "video_projection", "text_projection")
# Settings that do not change what the tensors mean; all others must have PEFT's default.
_HARMLESS = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "peft_type", "task_type", "auto_mapping"),
    *("peft_version", "base_model_name_or_path", "revision", "inference_mode", "eva_config", "runtime_config"),
)
_HARMLESS_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the decoder's own weights


@dataclass(frozen=True)
class AdapterConfig:
    """The validated content of ``adapter_config.json``.

    Attributes:
        rank: the adapters' rank.
        alpha: their scale is ``alpha / rank``.
        dropout: the dropout in front of them.
        targets: names of the adapted layers, sorted.
        base: the model that the adapters were made for; empty if not recorded.
    """

    rank: int
    alpha: float
    dropout: float
    targets: list[str]
    base: str

    @property
    def lora(self) -> dict[str, float]:
        """The adapters as ``SurgViVQAConfig.lora`` has them."""
        return {"r": self.rank, "alpha": self.alpha, "dropout": self.dropout}


def add_adapters(bundle: ModelBundle, lora: dict[str, float]) -> ModelBundle:
    """The same weights with new adapters on the decoder. Do not use ``bundle`` afterwards: they share modules."""
    return _rebuild(bundle, bundle.model.llm, lora)


def merge_adapters(bundle: ModelBundle) -> ModelBundle:
    """The same model with the adapters merged into the decoder's weights. Do not use ``bundle`` afterwards.

    The decoder's weights that change become ``checkpoint_tensors``.
    """
    if not bundle.model.config.lora:
        return bundle
    return _rebuild(bundle, bundle.model.llm.merge_and_unload(), None)


def _rebuild(bundle: ModelBundle, llm: Any, lora: dict[str, float] | None) -> ModelBundle:
    model = bundle.model
    parts = {name: part for name in _PARTS if (part := model._modules.get(name)) is not None}
    config = SurgViVQAConfig.from_dict({**model.config.to_dict(), "lora": lora})
    for name in ("video_config", "text_config", "decoder_config"):  # the parts hold references to these
        setattr(config, name, getattr(model.config, name))
    new = SurgViVQAModel(config, {**parts, "llm": llm})
    names = {_rename(name, new) for name in bundle.checkpoint_tensors} & set(new.state_dict())
    return dataclasses.replace(bundle, model=new, checkpoint_tensors=names)


def _rename(name: str, model: SurgViVQAModel) -> str:
    """A tensor's name after PEFT has wrapped or unwrapped the decoder."""
    if not name.startswith("llm."):
        return name
    plain = name.replace("llm.base_model.model.", "llm.", 1).replace(".base_layer.", ".")
    plain = re.sub(r"\.lora_[AB]\.\w+\.weight$", ".weight", plain)  # the weight that a merged adapter changed
    if not model.config.lora:
        return plain
    module, _, kind = plain.removeprefix("llm.").rpartition(".")
    inner = ".base_layer" if module.rpartition(".")[2] in lora_targets(model.decoder) else ""
    wrapped = f"llm.base_model.model.{module}{inner}.{kind}"
    return wrapped if wrapped in model.state_dict() else f"llm.base_model.model.{module}.{kind}"


def save_adapters(
    bundle: ModelBundle, folder: Path, base_name: str, unchanged: dict[str, Any] | None = None
) -> list[str]:
    """Writes the adapters as PEFT does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        bundle: a model with adapters.
        folder: an existing folder.
        base_name: the base model's name in the configuration.
        unchanged: tensors that the loader has already. Trained tensors outside the adapters that differ from these go
            to ``other_trained.safetensors``.

    Returns:
        The names of the tensors in ``other_trained.safetensors``.

    Raises:
        InputError: the model has no adapters.
    """
    model = bundle.model
    if not model.config.lora:
        raise InputError("This checkpoint has no LoRA adapters, so there is nothing to write in PEFT's format.")
    model.llm.peft_config["default"].base_model_name_or_path = base_name
    # The default would look up the base on the hub, to see whether its vocabulary was resized; ours never is.
    model.llm.save_pretrained(folder, save_embedding_layers=False)
    (folder / ADAPTER_WEIGHTS).chmod(0o644)  # safetensors makes it readable by its owner only
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card
    unchanged = unchanged or {}
    others = {
        name: tensor.cpu()
        for name, tensor in saved_tensors(bundle).items()
        if "lora_" not in name and not (name in unchanged and unchanged[name].equal(tensor.cpu()))
    }
    if others:
        save_file(others, folder / OTHER_WEIGHTS, {"format": "pt"})
    return sorted(others)


def weights_file(folder: Path) -> Path:
    """The weights file of a PEFT folder."""
    old = folder / OLD_ADAPTER_WEIGHTS
    return old if old.is_file() and not (folder / ADAPTER_WEIGHTS).is_file() else folder / ADAPTER_WEIGHTS


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Reads and validates the ``adapter_config.json`` of a PEFT folder.

    Raises:
        InputError: it is not a LoRA configuration, or one that this model does not support.
    """
    path = folder / ADAPTER_CONFIG
    try:
        saved = dict(read_json(path))
        lora = validate_lora({"r": saved["r"], "alpha": saved["lora_alpha"], "dropout": saved["lora_dropout"]})
        targets = saved["target_modules"]
        targets = [targets] if isinstance(targets, str) else sorted(validate_names(targets))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a LoRA configuration that can be read ({error!r}).") from error
    unsupported = _unsupported_settings(saved)
    if saved.get("peft_type") != "LORA" or unsupported:
        what = ", ".join(unsupported) or f"type {str(saved.get('peft_type'))[:40]}"
        raise InputError(f"{path} asks for adapters of a kind that is not supported here ({what}); use plain LoRA.")
    base = saved.get("base_model_name_or_path")
    return AdapterConfig(lora["r"], lora["alpha"], lora["dropout"], targets, base if isinstance(base, str) else "")


def _unsupported_settings(saved: dict[str, Any]) -> list[str]:
    """The settings under which adapters are more than ``alpha / r * B A`` added to the decoder's own weights."""
    defaults = LoraConfig().to_dict()
    names = [n for n in defaults if n not in _HARMLESS and saved.get(n) and saved[n] != defaults[n]]
    # Settings of a newer PEFT: a number may be a default, but a switch, list or mapping is not.
    names += [n for n in saved if n not in defaults and isinstance(saved[n], bool | dict | list) and saved[n]]
    init = saved.get("init_lora_weights", True)
    if any(init is harmless or (isinstance(init, str) and init == harmless) for harmless in _HARMLESS_INITS):
        names = [n for n in names if n != "init_lora_weights"]
    return [str(n)[:40] for n in names if str(n).isprintable()]
