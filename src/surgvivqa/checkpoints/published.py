"""Files in the form in which SurgViVQA's checkpoints are passed around: a ``torch.save`` of names and tensors.

They come bare or under a key, with and without LoRA, with the names of older and newer Transformers and PEFT, with the
marks that DataParallel and ``torch.compile`` leave. Reading never executes what a file holds: tensors alone are taken.
"""

import contextlib
import pickle  # for the name of its error alone
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from surgvivqa.model.bundle import ModelBundle
from surgvivqa.model.embeddings import resized_rows
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import check_regular_file

Names = Literal["transformers4", "transformers5"]
SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
WORDS = "text_encoder.embeddings.word_embeddings.weight"
_PARTS = ("visual_encoder", "text_encoder", "video_projection", "text_projection", "llm")
_BEFORE = re.compile(r"^(?:\w+\.)+?(?=(?:" + "|".join(_PARTS) + r")\.)")  # what a wrapper put before a part
_WITHIN = re.compile(r"(?<=\.)(?:module|_orig_mod)\.")  # and within
_KEYS = ("state_dict", "model_state_dict", "model")  # under which a training script may have put it
# What older versions saved and newer ones compute.
_COMPUTED = (".position_ids", ".position_embeddings", ".attn.bias", ".attn.masked_bias", ".inv_freq")
# VideoMAE's query and value biases: (Transformers 4's name, Transformers 5's).
_RENAMED = (
    ("attention.attention.q_bias", "attention.attention.query.bias"),
    ("attention.attention.v_bias", "attention.attention.value.bias"),
)
_OLD_NORM = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))
_ADAPTER = re.compile(r"\.(lora_[AB])(?:\.\w+)?\.weight$")
_BASE = "llm.base_model.model."
# Anything smaller is quantized, and means nothing without the scales that belong to it.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_NAME_LENGTH = 500
_MAX_VIEW_BYTES = 1_000_000  # bytes that an honest expanded buffer (positions) may have more than its storage
_MAX_PICKLE_VALUES = 10_000_000  # values in a pickle; a state dict has some twenty a tensor


@dataclass
class LoadReport:
    """What a file gave to a model.

    ``changed`` are the tensors loaded that the model did not have so already. ``kept`` are the model's tensors that the
    file does not hold and that stay as the published parts have them. ``ignored`` are the file's that newer versions
    compute.
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
            lines.append(f"  in the file but computed today: {len(self.ignored)} (first: {self.ignored[0]})")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names in this model, whatever they are called there.

    Raises:
        InputError: the file is cut off, holds anything but tensors, or names one tensor twice.
    """
    found = load_safetensors(path) if path.suffix == ".safetensors" else _load_pth(path)
    _check_names(path, found)
    present: dict[str, Tensor] = {}
    names = normalize_names(found)
    for old, new in names.items():
        if new in present and not torch.equal(present[new], found[old]):
            raise InputError(f"{path} holds two different tensors for {new}; it is not clear which one is meant.")
        present[new] = found[old]
    return present


def _check_names(path: Path, names: Collection[str]) -> None:
    """Raises InputError where a name would forge a line of the log, or fill it."""
    if any(len(name) > _MAX_NAME_LENGTH or not name.isprintable() for name in names):
        raise InputError(f"{path} has tensors with names that are none (too long, or with control characters).")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors by name.

    Raises:
        InputError: it cannot be read.
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
    _check_not_compressed(path)
    with contextlib.suppress(OSError, ValueError, LookupError, zipfile.BadZipFile):  # torch.load says what is wrong
        _check_pickle_size(path)
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects beside tensors, or is not a state dict at all; such objects are never "
            f"executed here, so save it again as a state dict of tensors alone."
        ) from error
    except Exception as error:  # a zip that is cut off, a file of another kind: torch raises several sorts
        raise InputError(
            f"{path} is damaged, cut off, or no state dict ({first_line(error)}); copy it again."
        ) from error
    for key in _KEYS:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
            break
    if not isinstance(held, dict) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise InputError(
            f"{path} is not a state dict: it must map parameter names to tensors, at the top or under state_dict."
        )
    # A view of one number may be as large as it says: it would be a hang or the end of the memory further on.
    false = [k for k, v in held.items() if _is_unusable(v)]
    if false:
        raise InputError(
            f"{path} is not a state dict: {str(false[0])[:80]} is not a plain tensor, or declares more numbers than "
            f"the file holds; save it again as plain tensors."
        )
    return {str(k): v for k, v in held.items()}


def _check_not_compressed(path: Path) -> None:
    """Raises InputError where a file would grow when it is read: ``torch.save`` never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:  # its list of contents alone; nothing is ever unpacked
            grown = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # PyTorch's older form, or none at all: torch.load says which
    if grown > path.stat().st_size:
        raise InputError(
            f"{path} is compressed ({path.stat().st_size:,} bytes for {grown:,}), which torch.save never does; it is "
            f"not read. Save the state dict again."
        )


def _check_pickle_size(path: Path) -> None:
    """Raises InputError if a few bytes of a pickle expand to far more. Nothing is executed.

    Nested tuples as dictionary keys are hashed element by element, and a ``bytearray`` may have any length.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    _check_pickle_weight(path, archive.read(name))
        return
    with path.open("rb") as file:  # PyTorch's older form: number, version, system, the state dict, its storages' keys
        for _ in range(5):
            _check_pickle_weight(path, file)


def _check_pickle_weight(path: Path, pickled: Any) -> None:
    stack: list[int] = []  # how many values each has when it is written out; -1 is a mark
    memo: dict[Any, int] = {}
    for operation, argument, _ in pickletools.genops(pickled):
        kind = operation.name
        if kind in ("PROTO", "FRAME", "STOP"):
            continue
        if kind == "MARK":
            stack.append(-1)
        elif kind in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif kind == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        else:
            taken = [item.name for item in operation.stack_before]
            weight = 1
            if "mark" in taken:
                while (top := stack.pop()) >= 0:
                    weight += top
                taken = taken[: taken.index("mark")]
            weight += sum(stack.pop() for _ in taken)
            if weight > _MAX_PICKLE_VALUES or str(argument).endswith(" bytearray"):
                raise InputError(f"{path} is not a state dict: a few bytes of it stand for far more; it is not read.")
            stack += [weight] * len(operation.stack_after)


def _is_unusable(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        return True
    size = tensor.numel() * tensor.element_size()
    return size > max(tensor.untyped_storage().nbytes(), _MAX_VIEW_BYTES)


def normalize_names(names: Any) -> dict[str, str]:
    """Maps the tensor names of a file to the names of this model.

    Prefixes of wrappers are removed and old names replaced. The decoder's names are PEFT's if the file has adapters,
    and plain ones if not.
    """
    result = {name: _WITHIN.sub("", _BEFORE.sub("", name)) for name in names}
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
    """A tensor's name as files of a Transformers version have it."""
    if names == "transformers4" and name.startswith("visual_encoder."):
        for old, new in _RENAMED:
            if name.endswith(new):
                return name.removesuffix(new) + old
    return name


def adapter_rank(tensors: dict[str, Tensor]) -> int | None:
    """The rank of a file's adapters; None where it has none."""
    ranks = [len(t) for n, t in tensors.items() if n.endswith(".lora_A.default.weight") and t.ndim]
    return ranks[0] if ranks else None


def load_tensors(
    model: SurgViVQAModel, tensors: dict[str, Tensor], where: Path, required: Collection[str]
) -> LoadReport:
    """Copies tensors into the model by name.

    Args:
        model: made for them.
        tensors: by this model's names; those of the text encoder's words may have fewer rows than the model's, and grow
            as the published resizing does it.
        where: their file, for messages.
        required: names of tensors that must be there.

    Raises:
        InputError: a name, shape or kind of number does not fit, or what must be there is not.
    """
    own = model.state_dict()
    tied = model.all_tied_weights_keys
    report = LoadReport(where, [])
    for name in [n for n in tensors if n not in own and n.endswith(_COMPUTED)]:
        report.ignored.append(name)
    given = {n: t for n, t in tensors.items() if n not in report.ignored}
    for name in [n for n in tied if n in given]:
        source = given.get(tied[name])
        if source is not None and not torch.equal(source, given[name]):
            raise InputError(
                f"{where} holds an output layer ({name}) that differs from the word embedding it is tied to in this "
                f"model; it is of another architecture."
            )
        if source is None:
            given[tied[name]] = given[name]
        del given[name]
    words = given.get(WORDS)
    if words is not None and WORDS in own and len(words) < len(own[WORDS]):
        given[WORDS] = resized_rows(words, len(own[WORDS]))
        report.notes.append(
            f"BLIP's word embedding grew from {len(words)} to {len(own[WORDS])} rows, as published resizing does it"
        )
    foreign = [n for n in given if n not in own]
    shapes = [n for n, t in given.items() if n in own and own[n].shape != t.shape]
    for problem, names in (("does not know", foreign), ("has another shape for", shapes)):
        if names:
            raise InputError(
                f"{where} does not fit the model: the model {problem} {len(names)} of its {len(tensors)} tensors "
                f"(first: {names[0]}); give the parts and settings it was made with."
            )
    absent = [n for n in own if n not in given and n not in tied]
    lacking = [n for n in absent if n in set(required)]
    if lacking or not given:
        raise InputError(
            f"{where} does not fit the model: it lacks {len(lacking)} tensors that must be there"
            f"{f' (first: {lacking[0]})' if lacking else ', it holds none'}; it is incomplete, or of another model."
        )
    numbers = [n for n, t in given.items() if own[n].is_floating_point() and t.dtype not in _FLOATS]
    if numbers:
        raise InputError(
            f"{where} holds {given[numbers[0]].dtype} where the model has weights (first: {numbers[0]}), so it is "
            f"quantized or no checkpoint; save it with weights in float32, float16 or bfloat16."
        )
    odd = [n for n, t in given.items() if t.is_floating_point() and not t.isfinite().all()]
    if odd:
        raise InputError(f"{where} holds values that are not finite (first: {odd[0]}); its run had failed.")
    report.changed = [n for n, t in given.items() if not torch.equal(own[n], t.to(own[n]))]
    model.load_state_dict(given, strict=False)
    report.loaded, report.kept = list(given), absent
    return report


def all_tensor_names(model: SurgViVQAModel) -> set[str]:
    """The names of all tensors but the tied ones."""
    return set(model.state_dict()) - set(model.all_tied_weights_keys)


def new_tensor_names(model: SurgViVQAModel) -> set[str]:
    """What no published part has, and so must come from a checkpoint: adapters and projections."""
    return {n for n in all_tensor_names(model) if "lora_" in n or "_projection." in n}


def saved_tensors(bundle: ModelBundle, *, everything: bool = False) -> dict[str, Tensor]:
    """The tensors that a checkpoint must hold, without tied ones such as GPT-2's output layer.

    They are those that train, with those that a checkpoint brought which the run started from; or all of them, where
    ``everything`` is asked for or the model has no published parts.
    """
    model = bundle.model
    complete = everything or bundle.settings.preset == "tiny"
    trained = {name for name, p in model.named_parameters() if p.requires_grad} | bundle.own
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
