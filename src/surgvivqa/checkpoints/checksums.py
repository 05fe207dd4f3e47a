"""Checksums of a checkpoint's weights: computed when it is written, verified before it is used."""

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import check_regular_file, read_json

log = logging.getLogger("surgvivqa")
TRAINING_STATE = "training.json"  # holds the checksums in checkpoints that are older than those of surgvivqa.json


def hash_file(path: Path) -> str:
    """SHA-256 of a file (hex).

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder that hold weights, and the indices of their shards."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.index.json")])


def compute_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each of a folder's ``weight_files``, by name."""
    return {path.name: hash_file(path) for path in weight_files(folder)}


def verify_checksums(folder: Path, recorded: Mapping[str, str]) -> None:
    """Compares a folder's weights with the checksums that it records.

    A folder without checksums, such as one of another tool, is reported in the log.

    Args:
        folder: the checkpoint folder.
        recorded: SHA-256 (hex) by file name, from ``surgvivqa.json``; empty for a folder that is older.

    Raises:
        InputError: a file cannot be read, or its checksum is another one. A missing file is not an error here.
    """
    recorded = recorded or _training_checksums(folder)
    if not recorded:
        log.info("%s records no checksums, so its weights are used without verification.", folder)
        return
    for name, checksum in recorded.items():
        path = folder / name
        try:
            is_equal = hash_file(path) == checksum
        except FileNotFoundError:  # whoever reads the weights reports it
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"Checkpoint {folder} is damaged: {name} cannot be read ({reason}).") from None
        if not is_equal:
            raise InputError(
                f"Checkpoint {folder} is damaged: {name} is not the file that was saved (its checksum differs); copy "
                f"it again, or load it anyway with --no-verify."
            )


def check_archive(path: Path) -> None:
    """Verifies the checksums (CRC-32) in a file that ``torch.save`` wrote.

    Raises:
        InputError: the content of the file is not what was saved.
    """
    if not zipfile.is_zipfile(path):  # an older form, without checksums, or not such a file
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        damaged = path.name
    if damaged is not None:
        raise InputError(
            f"{path} is damaged or cut off (the checksum of its content is wrong); copy it again, or load it anyway "
            f"with --no-verify."
        )


def _training_checksums(folder: Path) -> dict[str, str]:
    try:
        sums = read_json(folder / TRAINING_STATE)["sha256"]
        return {name: sums[name] for name in sums if isinstance(sums[name], str) and name.endswith(".safetensors")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
