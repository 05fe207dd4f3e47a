"""Pins the published parts of a run to commits of the hub, so that its config.yaml repeats it exactly."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import yaml

from surgvivqa.checkpoints.hub_files import Kind
from surgvivqa.checkpoints.hub_models import resolve_commit
from surgvivqa.checkpoints.hub_names import HubName, is_pinned_form, parse_hub_name
from surgvivqa.config import TrainConfig, option
from surgvivqa.utils.safe_yaml import plain_yaml

log = logging.getLogger("surgvivqa")
KINDS: dict[str, Kind] = {"video_model": "video", "text_model": "text", "decoder_model": "decoder"}
"""The flags that name a part, with what they name."""


def pin_parts(config: TrainConfig) -> TrainConfig:
    """The config with ``@commit`` added to the parts that are named without a revision or by a branch or tag.

    A run that resumes keeps the commits that it began with. Parts stay as they are given if the run starts from a
    checkpoint or from the packaged base, if they are folders (loading one that ``surgvivqa fetch`` filled logs its
    commit), and if the hub does not tell a commit, which loading them explains.
    """
    if config.preset != "base" or config.pretrained_ckpt is not None:
        return config
    saved = {} if config.overwrite else _saved_parts(config.checkpoint_dir)
    pinned: dict[str, Any] = {name: _pin(name, getattr(config, name), saved.get(name)) for name in KINDS}
    return dataclasses.replace(config, **pinned)


def _pin(flag: str, given: str, saved: str | None) -> str:
    if Path(given).exists():
        return given
    name = parse_hub_name(given)
    if name is None or name.commit or saved == given:  # a run of a version that did not pin resumes as it began
        return given
    if saved is not None and (is_pinned_form(saved, given) or is_pinned_form(saved, name.repo)):
        return saved
    commit = resolve_commit(name, KINDS[flag])
    if commit is None:
        return given
    pinned = str(HubName(name.repo, commit))
    log.info("%s %s", option(flag), pinned)
    return pinned


def _saved_parts(run_folder: Path) -> dict[str, str]:
    """The parts in a run folder's ``config.yaml``; empty if there is none, or it cannot be read."""
    path = run_folder / "config.yaml"
    try:
        saved: Any = plain_yaml(path) if path.is_file() else {}
        return {name: saved[name] for name in KINDS if isinstance(saved.get(name), str)}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}  # opening the run folder reports it
