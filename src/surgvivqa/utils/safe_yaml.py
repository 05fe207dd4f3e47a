"""Reads YAML from untrusted files: of limited size and depth, without aliases and without tags of Python objects."""

from pathlib import Path
from typing import Any

import yaml

from surgvivqa.utils.safe_json import check_regular_file

_MAX_YAML_BYTES = 1_000_000


class _NoAliases:
    """A few lines of nested aliases can expand to more text than fits in memory."""

    def compose_node(self: Any, parent: Any, index: Any) -> Any:
        """Composes a node as the other base class does, but raises an error for an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        return super().compose_node(parent, index)  # type: ignore[misc]


class _Loader(_NoAliases, yaml.SafeLoader):
    """Plain values."""


class _TextLoader(_NoAliases, yaml.BaseLoader):
    """All values as texts."""


def plain_yaml(path: Path, *, as_texts: bool = False) -> Any:
    """The content of a YAML file of flags or of a data set's description.

    Args:
        path: the file.
        as_texts: keep all values as they are written. YAML reads an unquoted 12:00:00 as the number 43200.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, is too large or nested too deeply, or is not text.
        yaml.YAMLError: the file is not YAML, holds several documents, or has an alias.
    """
    check_regular_file(path)
    if path.stat().st_size > _MAX_YAML_BYTES:
        raise ValueError(f"it is larger than {_MAX_YAML_BYTES:,} bytes, so it is not a file of flags")
    loader = _TextLoader if as_texts else _Loader
    try:
        return loader(path.read_text(encoding="utf-8")).get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply to be a file of flags") from None
