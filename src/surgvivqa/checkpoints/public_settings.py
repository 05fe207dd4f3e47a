"""What of a run may leave the machine: no folder, no user name, no token."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgvivqa.config import PART_FLAGS, TrainConfig, flag_names

# Files of a checkpoint in which libraries note where they loaded from. A tokenizer's own files are none of them: a
# token may look like a path.
FILES_WITH_PATHS = (
    "surgvivqa.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_PATH_FLAGS = frozenset(flag_names(TrainConfig, lambda flag: flag.is_path))
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_CACHE = re.compile(r"models--([A-Za-z0-9][\w.-]*)[/\\]snapshots[/\\]")
_FOLDER = re.compile(r"^([/~]|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\)")


def hub_name(value: str) -> str | None:
    """The hub's name of a model given by its name or by its folder in the hub's cache; None for another folder."""
    cached = _HUB_CACHE.search(value + "/")
    if cached:
        return cached[1].replace("--", "/", 1)
    return value if _HUB_NAME.fullmatch(value) and not Path(value).exists() else None


def last_name(value: str) -> str:
    """The last name of a path, POSIX or Windows."""
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def part_name(value: str) -> str:
    """What to call a published part: its hub name, or a folder's last name."""
    return hub_name(value) or last_name(value)


def public_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's flags without those that name files and folders; published parts go by ``part_name``.

    ``train_videos`` stays: by it ``eval`` refuses videos that the model has seen.
    """
    kept = {k: v for k, v in run.items() if k not in _PATH_FLAGS}
    if isinstance(kept.get("dataset"), str):
        kept["dataset"] = last_name(kept["dataset"])
    return _public_values({k: part_name(v) if k in PART_FLAGS and isinstance(v, str) else v for k, v in kept.items()})


def public_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of one of the ``FILES_WITH_PATHS`` without paths.

    Folders become their last name, published parts ``part_name``, and ``run`` goes through ``public_run``.
    """
    content = dict(content)
    if isinstance(content.get("run"), dict):
        content["run"] = public_run(content["run"])
    if isinstance(content.get("settings"), dict):
        settings = content["settings"]
        content["settings"] = {
            k: part_name(v) if k in PART_FLAGS and isinstance(v, str) else v for k, v in settings.items()
        }
    return _public_values(content)


def _public_values(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _public_values(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_public_values(v, key) for v in value]
    if isinstance(value, Path):
        return last_name(str(value))
    if isinstance(value, str):
        if key.endswith("name_or_path"):
            return part_name(value)
        return last_name(value) if _FOLDER.match(value) and re.search(r"[/\\].", value) else value
    return value
