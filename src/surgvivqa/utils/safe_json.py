"""JSON from untrusted files: regular files of a bounded size and depth, read as data.

Each problem is a ``ValueError`` whose text says what is wrong with the file; the reader of the file names it.
"""

import json
import stat
from pathlib import Path
from typing import Any

_MAX_JSON_BYTES = 64_000_000  # bytes; an index of a large model's shards has a few hundred thousand


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, not a regular file, too large, or nested too deep.
    """
    check_regular_file(path)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {_MAX_JSON_BYTES:,} bytes")
    return parse_json(path.read_text(encoding="utf-8-sig"))


def check_regular_file(path: Path) -> None:
    """Raises ValueError where a file is a pipe or a device, to be read without end; OSError where there is none."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")


def parse_json(text: str | bytes) -> Any:
    """A JSON text's content.

    Raises:
        ValueError: it is not JSON, or nested so deep that the parser gives up.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
