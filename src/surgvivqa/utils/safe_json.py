"""Reads JSON from untrusted files: regular files of limited size and depth.

The message of a ``ValueError`` says what is wrong with "it"; the caller adds the file's name.
"""

import json
import stat
from pathlib import Path
from typing import Any

_MAX_JSON_BYTES = 64_000_000  # the index of a large model's shards has a few hundred thousand bytes


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, not a regular file, too large, or nested too deeply.
    """
    check_regular_file(path)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {_MAX_JSON_BYTES:,} bytes")
    return parse_json(path.read_text(encoding="utf-8-sig"))


def check_regular_file(path: Path) -> None:
    """Checks that a path is a regular file; reading a pipe or a device might never end.

    Raises:
        OSError: the file does not exist or cannot be accessed.
        ValueError: it is not a regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: it is not JSON, or nested too deeply for the parser.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
