"""One file of cached features: safetensors, read by memory map, with a checksum for every item.

A file is a valid safetensors file of one tensor, ``rows`` ``[n, width]``: the items' rows one after another, starting
at a multiple of 64 bytes (the header is padded with spaces, as the format allows). It is written and mapped here and
not by the safetensors library, because items are streamed into it one by one, and each has a key and a checksum. Keys
and checksums are in the header's ``__metadata__``: ``index`` is JSON, ``index_crc32`` its checksum.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgvivqa.utils.atomic_files import atomic_path
from surgvivqa.utils.errors import FrameError, InputError
from surgvivqa.utils.safe_json import parse_json

FORMAT = 1
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_EXPONENT = {"fp16": 0x7C00, "bf16": 0x7F80, "fp32": 0x7F800000}  # all ones: infinity or NaN
_STORED = {"fp16": ("F16", "<f2"), "bf16": ("BF16", "<u2"), "fp32": ("F32", "<f4")}  # numpy has no bfloat16
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors

Key = tuple[str, int, int]  # video, frame, tag


@dataclass
class IndexEntry:
    """The place of an item in a file.

    Attributes:
        start: its first row.
        rows: its number of rows.
        crc: CRC-32 of the rows.
        checked: whether the rows have been compared with ``crc`` in this process.
    """

    start: int
    rows: int
    crc: int
    checked: bool = False


def to_array(rows: Tensor) -> np.ndarray:
    """Converts ``[n, width]`` float16, bfloat16 or float32 to the array that is stored (bfloat16 as bits in uint16)."""
    rows = rows.detach().cpu().contiguous()
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


def to_tensor(rows: np.ndarray, dtype: str) -> Tensor:
    """The inverse of ``to_array`` for ``dtype`` ``fp16``, ``bf16`` or ``fp32``; shares the array's memory."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if dtype == "bf16" else tensor


def is_finite(rows: np.ndarray, dtype: str) -> bool:
    """Whether an array from ``to_array`` holds neither NaN nor infinity."""
    kind = np.uint32 if dtype == "fp32" else np.uint16
    exponent = kind(_EXPONENT[dtype])
    return not bool((np.bitwise_and(rows.view(kind), exponent) == exponent).any())


def write_cache_file(
    path: Path,
    fingerprint: str,
    dtype: str,
    width: int,
    items: Sequence[tuple[Key, IndexEntry]],
    data: Iterable[np.ndarray],
) -> None:
    """Writes items to a file, atomically.

    Args:
        path: the file; an existing one is replaced.
        fingerprint: the fingerprint of the features' settings and weights.
        dtype: ``fp16``, ``bf16`` or ``fp32``.
        width: length of a row.
        items: keys with their number of rows and CRC-32, in the order of the file; ``start`` is ignored.
        data: the arrays ``[rows, width]`` of the items, in that order; consumed one by one.

    Raises:
        OSError: the folder cannot be written, or the disk is full; no partial file is left.
    """
    index = json.dumps(
        {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "dtype": dtype,
            "width": width,
            "items": [[*key, entry.rows, entry.crc] for key, entry in items],
        }
    )
    header = json.dumps(
        {
            "__metadata__": {"index": index, "index_crc32": str(zlib.crc32(index.encode()))},
            "rows": _tensor_header(dtype, sum(entry.rows for _, entry in items), width),
        }
    ).encode()
    header += b" " * (-(8 + len(header)) % _ALIGNMENT)
    with atomic_path(path, shared=True) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for array in data:
            file.write(np.ascontiguousarray(array).data)


class CacheFile:
    """A file that ``write_cache_file`` wrote. The header is read at once, the rows by memory map on first use.

    Raises:
        InputError: the file is damaged (no header, cut off, or a wrong checksum of the header).
        FileNotFoundError: the file does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: np.memmap | None = None
        try:
            with path.open("rb") as file:
                self.identity = _identity(os.fstat(file.fileno()))
                size = self.identity[1]
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(size, _MAX_HEADER_BYTES):
                    raise ValueError("its header is too long")
                header = parse_json(file.read(length))
            metadata = header["__metadata__"]
            if zlib.crc32(metadata["index"].encode()) != int(metadata["index_crc32"]):
                raise ValueError("the checksum of its header is wrong")
            index = parse_json(metadata["index"])
            self.fingerprint, self.dtype = str(index["fingerprint"]), str(index["dtype"])
            self.width, self.format = int(index["width"]), int(index["format"])
            self.entries, num_rows = _parse_items(index["items"])
            self.shape, self.data_start = (num_rows, self.width), 8 + length
            tensor = _tensor_header(self.dtype, num_rows, self.width)
            if header["rows"] != tensor:
                raise ValueError("its header contradicts itself")
            self.data_bytes = tensor["data_offsets"][1]
            if self.data_start + self.data_bytes != size:
                raise ValueError(f"it has {size} bytes, but its header says {self.data_start + self.data_bytes}")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise InputError(
                f"Cache file {path} is damaged ({str(error)[:120]}); remove it, and its features are computed again."
            ) from None

    def read(self, key: Key) -> np.ndarray:
        """A copy of an item's rows ``[rows, width]``; as ``view``."""
        return np.array(self.view(key))

    def view(self, key: Key) -> np.ndarray:
        """An item's rows ``[rows, width]`` in the memory map; the checksum is verified the first time.

        CRC-32 of the 2.4 MB of a frame at full size in fp16 takes 0.7 ms (one core of an x86-64 server, zlib).

        Raises:
            FrameError: the checksum is wrong, or a value is not finite.
            FileNotFoundError: the file was removed or replaced since its header was read.
        """
        entry = self.entries[key]
        if self._map is None:
            self._map = self._open_map()
        rows: np.ndarray = self._map[entry.start : entry.start + entry.rows]
        if not entry.checked:
            fault = None
            if zlib.crc32(rows.data) != entry.crc:
                fault = f"the checksum of {key[0]} frame {key[1]} is wrong"
            elif not is_finite(rows, self.dtype):
                fault = f"the features of {key[0]} frame {key[1]} are not all finite"
            if fault:
                raise FrameError(
                    f"Cache file {self.path} is damaged: {fault}; remove the file, and its features are computed again."
                )
        entry.checked = True
        return rows

    def close(self) -> None:
        """Closes the memory map; the next ``read`` opens it again."""
        self._map = None

    def _open_map(self) -> np.memmap:
        with self.path.open("rb") as file:
            # Another process may have replaced the file.
            if _identity(os.fstat(file.fileno())) != self.identity:
                raise FileNotFoundError(self.path)
            dtype = np.dtype(_STORED[self.dtype][1])
            return np.memmap(file, dtype=dtype, mode="r", offset=self.data_start, shape=self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}  # a worker process maps the file itself


def _parse_items(items: Iterable[Any]) -> tuple[dict[Key, IndexEntry], int]:
    """The entries of a header's items, and the total number of their rows.

    Raises:
        ValueError: something is not an item.
    """
    entries: dict[Key, IndexEntry] = {}
    start = 0
    for video, frame, tag, rows, crc in items:
        if not isinstance(video, str) or not all(type(n) is int for n in (frame, tag, rows, crc)):
            raise ValueError("its header lists something that is not an item")
        if rows < 0:
            raise ValueError("its header lists an item with a negative number of rows")
        entries[video, frame, tag] = IndexEntry(start, rows, crc)
        start += rows
    return entries, start


def _tensor_header(dtype: str, rows: int, width: int) -> dict[str, Any]:
    """The header entry of the tensor."""
    name, stored = _STORED[dtype]
    size = rows * width * np.dtype(stored).itemsize
    return {"dtype": name, "shape": [rows, width], "data_offsets": [0, size]}


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and modification time, which change when a file is replaced."""
    return _identity(path.stat())
