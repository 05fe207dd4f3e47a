"""Splits files."""

import json
from collections.abc import Sequence
from pathlib import Path


def write_splits(folder: Path, *, train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> None:
    """Writes the three files of a splits folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, videos in (("train", train), ("val", val), ("test", test)):
        (folder / f"{name}_videos.json").write_text(json.dumps(list(videos)))
