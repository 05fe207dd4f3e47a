"""The flags of a run as a table, without local folders and with those that differ from the defaults marked."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgvivqa.checkpoints.public_settings import public_run
from surgvivqa.config import TrainConfig, option


@dataclass(frozen=True)
class Setting:
    """A flag.

    Attributes:
        flag: as it is written on the command line.
        value: its value.
        default: its default; empty if it has none.
        changed: whether the value differs from the default.
    """

    flag: str
    value: str
    default: str
    changed: bool


def settings_of(flags: Mapping[str, Any]) -> list[Setting]:
    """The flags of a training run, those that differ from the defaults first, without flags that name local folders.

    Args:
        flags: the content of ``config.yaml``.
    """
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(TrainConfig)
        if field.default is not dataclasses.MISSING
    }
    defaults["report_to"] = []  # the only default that is made, besides those of folders
    settings = []
    for name, value in public_run(flags).items():
        known = str(name) in defaults
        default = defaults.get(str(name))
        settings.append(
            Setting(option(str(name)), _show(value), _show(default) if known else "", known and value != default)
        )
    return sorted(settings, key=lambda setting: not setting.changed)


def _show(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)[:200]
