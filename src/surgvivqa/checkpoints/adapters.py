"""LoRA adapters put on a bundle's decoder, merged into it, and kept in PEFT's own folder format."""

import dataclasses
import re
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
OLD_ADAPTER_WEIGHTS = "adapter_model.bin"  # of older versions of PEFT: a pickle, read for its tensors alone
OTHER_WEIGHTS = "other_trained.safetensors"  # what was trained beside the adapters, which PEFT knows nothing of
_PARTS = ("visual_encoder", "text_encoder", "video_projection", "text_projection")
# What a configuration may say without changing what its tensors mean; all else must be as PEFT has it by default.
_PLAIN = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "peft_type", "task_type", "auto_mapping"),
    *("peft_version", "base_model_name_or_path", "revision", "inference_mode", "eva_config", "runtime_config"),
)
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # the others change the decoder's own weights


def with_adapters(bundle: ModelBundle, lora: dict[str, float]) -> ModelBundle:
    """The same weights with fresh adapters on the decoder. The bundle given is used up: parts are shared."""
    return _rebuilt(bundle, bundle.model.llm, lora)


def merged(bundle: ModelBundle) -> ModelBundle:
    """The same function without adapters: they are added into the decoder's own weights. The bundle given is used up.

    What the adapters changed now belongs to the checkpoint (``own``) under the decoder's own names.
    """
    if not bundle.model.config.lora:
        return bundle
    return _rebuilt(bundle, bundle.model.llm.merge_and_unload(), None)


def _rebuilt(bundle: ModelBundle, llm: Any, lora: dict[str, float] | None) -> ModelBundle:
    model = bundle.model
    parts = {name: part for name in _PARTS if (part := model._modules.get(name)) is not None}
    config = SurgViVQAConfig.from_dict({**model.config.to_dict(), "lora": lora})
    for name in ("video_config", "text_config", "decoder_config"):  # those that the parts themselves hold
        setattr(config, name, getattr(model.config, name))
    new = SurgViVQAModel(config, {**parts, "llm": llm})
    own = {_renamed(name, new) for name in bundle.own}
    return dataclasses.replace(bundle, model=new, own=own & set(new.state_dict()))


def _renamed(name: str, model: SurgViVQAModel) -> str:
    """A tensor's name after PEFT has wrapped the decoder, or has unwrapped it."""
    if not name.startswith("llm."):
        return name
    plain = name.replace("llm.base_model.model.", "llm.", 1).replace(".base_layer.", ".")
    plain = re.sub(r"\.lora_[AB]\.\w+\.weight$", ".weight", plain)  # what an adapter changed when it was merged
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
        bundle: with adapters.
        folder: there already.
        base_name: what the configuration says the adapters belong to.
        unchanged: tensors of the base that the folder need not hold, as the loader has them already; others that were
            trained beside the adapters go to ``other_trained.safetensors``.

    Returns:
        The names of those others.

    Raises:
        InputError: there are no adapters.
    """
    model = bundle.model
    if not model.config.lora:
        raise InputError("This checkpoint has no LoRA adapters, so there is nothing to write in PEFT's format.")
    model.llm.peft_config["default"].base_model_name_or_path = base_name
    # "auto" would look the base up on the hub, to see whether its vocabulary was resized; ours never is.
    model.llm.save_pretrained(folder, save_embedding_layers=False)
    (folder / ADAPTER_WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card
    known = unchanged or {}
    rest = {
        name: tensor.cpu()
        for name, tensor in saved_tensors(bundle).items()
        if "lora_" not in name and not (name in known and known[name].equal(tensor.cpu()))
    }
    if rest:
        save_file(rest, folder / OTHER_WEIGHTS, {"format": "pt"})
    return sorted(rest)


def weights_file(folder: Path) -> Path:
    """The file of a PEFT folder's adapters."""
    old = folder / OLD_ADAPTER_WEIGHTS
    return old if old.is_file() and not (folder / ADAPTER_WEIGHTS).is_file() else folder / ADAPTER_WEIGHTS


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``{"r", "alpha", "dropout"}``, ``targets`` and ``base`` (what they say they belong to) of a PEFT folder.

    Raises:
        InputError: it is not a LoRA configuration, or one of a kind that this model cannot take.
    """
    path = folder / ADAPTER_CONFIG
    try:
        saved = dict(read_json(path))
        settings = validate_lora({"r": saved["r"], "alpha": saved["lora_alpha"], "dropout": saved["lora_dropout"]})
        targets = saved["target_modules"]
        targets = [targets] if isinstance(targets, str) else sorted(validate_names(targets))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a LoRA configuration that can be read ({error!r}).") from error
    odd = _odd_settings(saved)
    if saved.get("peft_type") != "LORA" or odd:
        what = ", ".join(odd) or f"type {str(saved.get('peft_type'))[:40]}"
        raise InputError(f"{path} asks for adapters of a kind that is not supported here ({what}); use plain LoRA.")
    base = saved.get("base_model_name_or_path")
    return {**settings, "targets": targets, "base": base if isinstance(base, str) else ""}


def _odd_settings(saved: dict[str, Any]) -> list[str]:
    """The settings by which adapters would be something else than ``alpha / r * B A`` on the decoder's own weights."""
    usual = LoraConfig().to_dict()
    odd = [name for name in usual if name not in _PLAIN and saved.get(name) and saved[name] != usual[name]]
    # Of a newer PEFT: a number may be some setting's default, a switch or a mapping is none.
    odd += [name for name in saved if name not in usual and isinstance(saved[name], bool | dict | list) and saved[name]]
    start = saved.get("init_lora_weights", True)
    if any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        odd = [name for name in odd if name != "init_lora_weights"]
    return [str(name)[:40] for name in odd if str(name).isprintable()]
