"""Reads files in the form in which SurgViVQA's checkpoints are passed around: a ``torch.save`` of a state dict.

The state dict is at the top or under a key, with or without LoRA, with the names of older or newer versions of
Transformers and PEFT, with or without the prefixes of DataParallel and ``torch.compile``. Only tensors are read; code
in a file is never executed.
"""

import pickle  # only for its exception
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from surgvivqa.checkpoints.checksums import check_archive
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.embeddings import resize_rows
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import check_regular_file

Names = Literal["transformers4", "transformers5"]
SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
WORDS = "text_encoder.embeddings.word_embeddings.weight"
_PARTS = ("visual_encoder", "text_encoder", "video_projection", "text_projection", "llm")
_PREFIX = re.compile(r"^(?:\w+\.)+?(?=(?:" + "|".join(_PARTS) + r")\.)")  # what a wrapper put before a part
_INNER_PREFIX = re.compile(r"(?<=\.)(?:module|_orig_mod)\.")  # and inside one
_KEYS = ("state_dict", "model_state_dict", "model")  # under which training scripts save a state dict
# Buffers that older versions saved and newer ones compute.
_COMPUTED = (".position_ids", ".position_embeddings", ".attn.bias", ".attn.masked_bias", ".inv_freq")
# VideoMAE's query and value biases: (Transformers 4's name, Transformers 5's).
_RENAMED = (
    ("attention.attention.q_bias", "attention.attention.query.bias"),
    ("attention.attention.v_bias", "attention.attention.value.bias"),
)
_OLD_NORM = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))
_ADAPTER = re.compile(r"\.(lora_[AB])(?:\.\w+)?\.weight$")
_BASE = "llm.base_model.model."
# Smaller types are quantized, and mean nothing without their scales.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_NAME_LENGTH = 500
_MAX_VIEW_BYTES = 1_000_000  # an expanded buffer (positions) may be larger than its storage, up to this size


@dataclass
class LoadReport:
    """What was loaded from a file.

    Attributes:
        where: the file or folder.
        loaded: names of the tensors that were loaded.
        changed: those of ``loaded`` whose values differ from what the model had.
        kept: names of the model's tensors that the file does not hold and that keep their values.
        ignored: names of the file's tensors that newer versions compute.
        notes: further sentences for the log.
    """

    where: Path
    loaded: list[str]
    changed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def by_part(names: list[str]) -> str:
            counts = Counter(_part(n) for n in names)
            return ", ".join(f"{part} {count}" for part, count in counts.items()) or "none"

        lines = [f"{self.where}: {len(self.loaded)} tensors loaded ({by_part(self.loaded)})"]
        if self.kept:
            lines.append(f"  not in the file, taken from the published parts: {len(self.kept)} ({by_part(self.kept)})")
        if self.ignored:
            lines.append(f"  in the file, but computed by this version: {len(self.ignored)} (first: {self.ignored[0]})")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def read_tensors(path: Path, *, verify: bool = True) -> dict[str, Tensor]:
    """Reads the tensors of a file, by their names in this model.

    Args:
        path: the file.
        verify: verify the checksums of a ``torch.save`` file first; PyTorch does not.

    Raises:
        InputError: the file is damaged or cut off, holds anything but tensors, or holds two tensors for one name.
    """
    if verify and path.suffix != ".safetensors":
        check_archive(path)
    saved = load_safetensors(path) if path.suffix == ".safetensors" else _load_pth(path)
    _check_names(path, saved)
    tensors: dict[str, Tensor] = {}
    for old, new in normalize_names(saved).items():
        if new in tensors and not torch.equal(tensors[new], saved[old]):
            raise InputError(f"{path} holds two different tensors for {new}; it is not clear which one is meant.")
        tensors[new] = saved[old]
    return tensors


def _check_names(path: Path, names: Collection[str]) -> None:
    """Raises InputError if a name could forge or flood lines of the log."""
    if any(len(name) > _MAX_NAME_LENGTH or not name.isprintable() for name in names):
        raise InputError(f"{path} has tensors with invalid names (too long, or with control characters).")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file by name.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        check_regular_file(path)
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist, so the checkpoint is incomplete; copy it again.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or cut off ({first_line(error)}); copy it again.") from error
    _check_names(path, tensors)
    return tensors


def _load_pth(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects beside tensors, or is not a state dict at all; such objects are never "
            f"executed here, so save it again as a state dict of tensors alone."
        ) from error
    except Exception as error:  # torch.load raises several kinds
        raise InputError(
            f"{path} is damaged, cut off, or not a state dict ({first_line(error)}); copy it again."
        ) from error
    for key in _KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{path} is not a state dict: it must map parameter names to tensors, at the top or under state_dict."
        )
    # An expanded view of one number would fill the memory when it is copied.
    unusable = [k for k, v in content.items() if _is_unusable(v)]
    if unusable:
        raise InputError(
            f"{path} is not a state dict: {str(unusable[0])[:80]} is not a plain tensor, or declares more numbers than "
            f"the file holds; save it again as plain tensors."
        )
    return {str(k): v for k, v in content.items()}


def _is_unusable(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        return True
    size = tensor.numel() * tensor.element_size()
    return size > max(tensor.untyped_storage().nbytes(), _MAX_VIEW_BYTES)


def normalize_names(names: Iterable[str]) -> dict[str, str]:
    """Maps the tensor names of a file to the names of this model.

    Prefixes of wrappers are removed and old names replaced. If the file has adapters, the decoder's names are PEFT's.
    """
    result = {name: _INNER_PREFIX.sub("", _PREFIX.sub("", name)) for name in names}
    adapted = any(_ADAPTER.search(name) for name in result.values())
    targets = {_ADAPTER.sub("", n) for n in result.values() if _ADAPTER.search(n)}
    for old, name in result.items():
        for before, after in (*_RENAMED, *_OLD_NORM):
            if name.endswith(before):
                name = name.removesuffix(before) + after
        name = _ADAPTER.sub(r".\1.default.weight", name)
        if name.startswith("llm.") and not adapted:
            name = name.replace(_BASE, "llm.", 1).replace(".base_layer.", ".")
        elif name.startswith(_BASE):
            module, _, kind = name.rpartition(".")
            if module in targets and kind in ("weight", "bias"):  # PEFT before 0.6 named the base layer so
                name = f"{module}.base_layer.{kind}"
        result[old] = name
    return result


def published_name(name: str, names: Names) -> str:
    """A tensor's name in files written with a version of Transformers."""
    if names == "transformers4" and name.startswith("visual_encoder."):
        for old, new in _RENAMED:
            if name.endswith(new):
                return name.removesuffix(new) + old
    return name


def adapter_rank(tensors: dict[str, Tensor]) -> int | None:
    """The rank of a file's adapters, or None if it has none."""
    ranks = [len(t) for n, t in tensors.items() if n.endswith(".lora_A.default.weight") and t.ndim]
    return ranks[0] if ranks else None


def load_tensors(
    model: SurgViVQAModel, tensors: dict[str, Tensor], where: Path, required: Collection[str]
) -> LoadReport:
    """Copies tensors into the model by name.

    Args:
        model: the model to load into.
        tensors: by this model's names. The text encoder's word embedding may have fewer rows than the model's; it then
            grows as in the published code.
        where: the file or folder that they come from, for messages.
        required: names of tensors that must be present.

    Raises:
        InputError: a name, shape or dtype does not fit, or a required tensor is missing.
    """
    state = model.state_dict()
    report = LoadReport(where, [])
    report.ignored = [n for n in tensors if n not in state and n.endswith(_COMPUTED)]
    given = _without_tied(model, {n: t for n, t in tensors.items() if n not in set(report.ignored)}, where)
    words = given.get(WORDS)
    if words is not None and WORDS in state and len(words) < len(state[WORDS]):
        given[WORDS] = resize_rows(words, len(state[WORDS]))
        report.notes.append(
            f"BLIP's word embedding grew from {len(words)} to {len(state[WORDS])} rows, as published resizing does it"
        )
    report.kept = [n for n in state if n not in given and n not in model.all_tied_weights_keys]
    _check_tensors_fit(state, given, where, [n for n in report.kept if n in set(required)])
    report.loaded = list(given)
    report.changed = [n for n, t in given.items() if not torch.equal(state[n], t.to(state[n]))]
    model.load_state_dict(given, strict=False)
    return report


def _without_tied(model: SurgViVQAModel, tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The tensors without those that the model ties to others, such as GPT-2's output layer.

    Raises:
        InputError: a tied tensor differs from the one it is tied to.
    """
    tied: dict[str, str] = model.all_tied_weights_keys
    result = {name: tensor for name, tensor in tensors.items() if name not in tied}
    for name in [name for name in tensors if name in tied]:
        source = result.setdefault(tied[name], tensors[name])
        if not torch.equal(source, tensors[name]):
            raise InputError(
                f"{where} holds an output layer ({name}) that differs from the word embedding it is tied to in this "
                f"model; it is of another architecture."
            )
    return result


def _check_tensors_fit(state: dict[str, Tensor], given: dict[str, Tensor], where: Path, missing: Sequence[str]) -> None:
    """Raises InputError if a tensor does not fit the model's ``state``, or one is missing."""
    foreign = [n for n in given if n not in state]
    reshaped = [n for n, t in given.items() if n in state and state[n].shape != t.shape]
    for problem, names in (("does not know", foreign), ("has another shape for", reshaped)):
        if names:
            raise InputError(
                f"{where} does not fit the model: the model {problem} {len(names)} of its {len(given)} tensors "
                f"(first: {names[0]}); give the parts and settings it was made with."
            )
    if missing or not given:
        raise InputError(
            f"{where} does not fit the model: it lacks {len(missing)} required tensors"
            f"{f' (first: {missing[0]})' if missing else ' and holds none'}; it is incomplete, or of another model."
        )
    quantized = [n for n, t in given.items() if state[n].is_floating_point() and t.dtype not in _FLOATS]
    if quantized:
        raise InputError(
            f"{where} holds {given[quantized[0]].dtype} where the model has weights (first: {quantized[0]}); it is "
            f"quantized or not a checkpoint. Save it with weights in float32, float16 or bfloat16."
        )
    if all(not t.any() for t in given.values()):
        raise InputError(f"{where} holds only zeros, as after a copy that was cut short; copy it again.")
    not_finite = [n for n, t in given.items() if t.is_floating_point() and not t.isfinite().all()]
    if not_finite:
        raise InputError(f"{where} holds values that are not finite (first: {not_finite[0]}); its run had failed.")


def all_tensor_names(model: SurgViVQAModel) -> set[str]:
    """The names of all tensors except tied ones."""
    return set(model.state_dict()) - set(model.all_tied_weights_keys)


def new_tensor_names(model: SurgViVQAModel) -> set[str]:
    """The names of adapters and projections, which no published part has, so that a checkpoint must hold them."""
    return {n for n in all_tensor_names(model) if "lora_" in n or "_projection." in n}


def saved_tensors(bundle: ModelBundle, *, everything: bool = False) -> dict[str, Tensor]:
    """The tensors that a checkpoint must hold, without tied ones such as GPT-2's output layer.

    These are the tensors that train and those that came from an earlier checkpoint; or all of them, if ``everything``
    is True or the model has no published parts.
    """
    model = bundle.model
    complete = everything or bundle.settings.preset == "tiny"
    trained = {name for name, p in model.named_parameters() if p.requires_grad} | bundle.checkpoint_tensors
    return {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if (complete or name in trained) and name not in model.all_tied_weights_keys
    }


def trained_tensor_names(model: SurgViVQAModel, given: Collection[str]) -> set[str]:
    """The tensors that a file of unknown origin must hold to be the trained model.

    These are the adapters and projections, and the whole decoder if it has no adapters or if the file holds part of it.
    """
    words = model.decoder.get_input_embeddings().weight
    tied = model.all_tied_weights_keys
    unread = {n for n, p in model.named_parameters() if p is words and n not in tied.values()}
    base = {n for n in all_tensor_names(model) if n.startswith("llm.") and "lora_" not in n} - unread
    adapted = bool(model.config.lora)
    return new_tensor_names(model) | (base if not adapted or any(n in base for n in given) else set())


def _part(name: str) -> str:
    return "adapters" if "lora_" in name else name.split(".", 1)[0]
