"""Checks of the content of a checkpoint's files: types of flags, LoRA numbers, model sizes, no code from the hub.

Each check raises ``ValueError`` with a text that says what is wrong; the caller adds the name of the file.
``docs/decisions.md`` lists the guards and their threats.
"""

import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from surgvivqa.config import flags_of
from surgvivqa.utils.safe_json import read_json


def validate_flags(cls: type, values: Any) -> dict[str, Any]:
    """Those of ``values`` that are flags of a config class, after checking their types. Paths are text, as in JSON.

    Raises:
        ValueError: ``values`` is not a mapping, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError("its settings are not a mapping")
    hints, flags = get_type_hints(cls), flags_of(cls)
    for name in flags.keys() & values.keys():
        value = values[name]
        if not _fits(value, hints[name]) and not (flags[name].accepts_fraction and _is_finite(value)):
            raise ValueError(f"its {name} is {_short(value)}, which is not a valid value")
    return {name: values[name] for name in values if name in flags}


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is list:
        return isinstance(value, list) and all(_fits(v, get_args(kind)[0]) for v in value)
    if kind is float:
        # Infinity is a value: --max-grad-norm inf, --max-hours inf.
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    if kind in (str, Path):
        return isinstance(value, str | Path) and "\0" not in str(value)
    return isinstance(value, kind) if isinstance(kind, type) else False


def _is_finite(value: Any) -> bool:
    return _fits(value, float) and math.isfinite(value)


def validate_names(value: Any) -> list[str]:
    """A list of names.

    Raises:
        ValueError: ``value`` is not a list of strings.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{_short(value)} is not a list of names")
    return list(value)


def is_plain_name(value: str) -> bool:
    """Whether a value names a file in the same folder, on any operating system."""
    return bool(value) and value not in (".", "..") and not any(c in "/\\:\0" for c in value)


def check_no_remote_code(config: Any) -> None:
    """Checks that a configuration does not make Transformers fetch and run code.

    An attention implementation may name a repository on the hub (``user/name``). ``auto_map``, which names Python
    files, is harmless, since it is never followed (``trust_remote_code=False``).

    Raises:
        ValueError: the configuration names such an implementation, at any depth.
    """
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            for key, inner in value.items():
                # Transformers fetches "user/name" from the hub, and "flash..." too where it is not installed.
                if "_implementation" in str(key) and any("/" in t or "flash" in t for t in _texts(inner)):
                    raise ValueError(f"it asks for code from the hub ({key}), which is never run")
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value


def check_model_folder(folder: Path) -> None:
    """Checks that a model's folder names no file outside itself and no code on the hub.

    Raises:
        OSError: a file cannot be read.
        ValueError: an index names weights outside the folder, or ``config.json`` names code on the hub.
    """
    for index in folder.glob("*.index.json"):
        files = read_json(index)["weight_map"].values()
        outside = [name for name in validate_names(list(files)) if not is_plain_name(name)]
        if outside:
            raise ValueError(f"{index.name} names a file outside the folder ({outside[0][:60]}), which is not read")
    if (folder / "config.json").is_file():
        check_no_remote_code(read_json(folder / "config.json"))


def _texts(value: Any) -> list[str]:
    """Every string in a value, at any depth: Transformers hands ``{"part": {"": "user/name"}}`` down to the part."""
    found, stack = [], [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, str):
            found.append(inner)
        elif isinstance(inner, Mapping):
            stack += inner.values()
        elif isinstance(inner, list | tuple):
            stack += inner
    return found


def validate_lora(value: Any) -> dict[str, Any]:
    """``{"r", "alpha", "dropout"}`` of adapters.

    Raises:
        ValueError: a number is missing, or outside its range.
    """
    if not isinstance(value, Mapping):
        raise ValueError("its LoRA settings are not a mapping")
    rank: Any = value.get("r")
    alpha: Any = value.get("alpha")
    dropout: Any = value.get("dropout")
    good = _fits(rank, int) and _is_finite(alpha) and _is_finite(dropout)
    if not good or rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"its LoRA settings are impossible (r {_short(rank)}, alpha {_short(alpha)}, "
                         f"dropout {_short(dropout)})")  # fmt: skip
    return {"r": rank, "alpha": alpha, "dropout": float(dropout)}


def check_model_size(config: Any, tensors: Mapping[str, Any]) -> None:
    """Checks that a configuration asks for no more weights than a checkpoint holds, before memory is allocated.

    A ``config.json`` that belongs to a larger model would otherwise end the process for lack of memory.

    Args:
        config: ``SurgViVQAConfig``.
        tensors: the checkpoint's, by name.

    Raises:
        ValueError: the model would be larger than the file.
    """
    held = sum(t.numel() for t in tensors.values())
    for part in (config.video_config, config.text_config, config.decoder_config):
        layers, width, words = (_count(part, n) for n in ("num_hidden_layers", "hidden_size", "vocab_size"))
        # Decoders with rotary positions have no table of them.
        positions = _count(part, "max_position_embeddings" if part is config.text_config else "n_positions")
        # A layer has at least one square matrix.
        if layers > len(tensors) or max(layers * width, words, positions) * width > held:
            raise ValueError(
                f"its config.json asks for {layers:,} layers of width {width:,} in {part.model_type}, more than its "
                f"{held:,} weights can be"
            )


def _count(part: Any, name: str) -> int:
    value = getattr(part, name, None)
    if value is None:
        return 0
    if not _fits(value, int) or value < 0:
        raise ValueError(f"its config.json has the {name} {_short(value)}")
    return int(value)


def _short(value: Any) -> str:
    # A list of lists may be far longer as text than it is in memory.
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
