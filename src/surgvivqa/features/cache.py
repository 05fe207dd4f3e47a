"""A store of frozen features on disk, by video, frame and tag, which any number of processes may fill.

On disk::

    DIR/<first 16 hex digits of the fingerprint>/
        manifest.json           the values that the fingerprint is made of
        VID01.safetensors       the items of one video (see features/cache_file.py)
        parts/*.safetensors     new items of any video; ``merge`` moves them into the files of the videos

Files are complete when they appear (by rename) and are never changed, and each process writes files under names that no
other uses, so no lock is needed. Features of other weights or settings are in another folder.
"""

import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid
import warnings
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgvivqa.features.cache_file import (
    DTYPES,
    FORMAT,
    CacheFile,
    IndexEntry,
    Key,
    read_identity,
    to_array,
    to_tensor,
    write_cache_file,
)
from surgvivqa.utils.atomic_files import atomic_path
from surgvivqa.utils.errors import FrameError, InputError, RunError

log = logging.getLogger("surgvivqa")
_VIDEO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_MAX_MAPS = 128  # a map holds a file descriptor
_ABANDONED_AFTER = 3600.0  # seconds without a write


_STORES: "weakref.WeakSet[FeatureCache]" = weakref.WeakSet()
_held: list[threading.RLock] = []  # during a fork


def _hold_locks() -> None:
    """Waits until no thread reads a store, so that a worker process is not forked with a lock that nobody releases."""
    _held[:] = [store._lock for store in _STORES]
    for lock in _held:
        lock.acquire()


def _release_locks() -> None:
    for lock in _held:
        lock.release()
    _held.clear()


os.register_at_fork(before=_hold_locks, after_in_parent=_release_locks, after_in_child=_release_locks)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of a state dict: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def compute_tag(*values: Any) -> int:
    """A signed 64-bit hash of plain values (numbers, strings, lists of them) that an item is computed from."""
    text = json.dumps(values, separators=(",", ":")).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


class FeatureCache:
    """Features by (video, frame, tag), each a tensor ``[n, width]``; ``n`` may differ between items.

    The tag is a 64-bit hash (``compute_tag``) of what the item is computed from, apart from the fingerprint: for video
    tokens the state of the image files, for text states also the token ids. An item with another tag is a miss.

    Args:
        root: the cache folder; nothing is written outside it.
        fingerprint_values: plain values that determine the features (hash of the weights, settings); the fingerprint
            is the hash of these, dtype, width and format.
        width: length of a row.
        dtype: ``fp16``, ``bf16`` or ``fp32``.
        flush_every: items kept in memory before they are written; bounds the memory, and what is lost when the process
            is killed.
        must_write: whether a folder that cannot be written is an error. Otherwise an existing folder is only read, and
            when the disk is full, writing stops with a warning.

    Raises:
        InputError: the folder cannot be created or read (with ``must_write``: or written), or a file in it is damaged.
    """

    def __init__(
        self,
        root: Path,
        fingerprint_values: Mapping[str, Any],
        width: int,
        dtype: str,
        *,
        flush_every: int = 64,
        must_write: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"cache dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.dtype, self.width, self.flush_every, self.must_write = dtype, width, flush_every, must_write
        values = dict(fingerprint_values) | {"dtype": dtype, "width": width, "format": FORMAT}
        self.fingerprint = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        self.folder = Path(root) / self.fingerprint[:16]
        self.writable = True
        self._pending: dict[Key, np.ndarray] = {}
        self._files: dict[Path, CacheFile] = {}
        self._index: dict[Key, CacheFile] = {}
        self._frames: set[tuple[str, int]] = set()
        self._mapped: dict[CacheFile, None] = {}
        self._dropped: set[Key] = set()
        self._folder_times: tuple[int, ...] = ()  # modification times of the folders at the last refresh
        self._lock = threading.RLock()  # a thread may read while this one adds items
        _STORES.add(self)
        self._writer, self._num_written = uuid.uuid4().hex[:12], 0
        self._create_folder(values)
        self.refresh()

    def _create_folder(self, values: dict[str, Any]) -> None:
        manifest = self.folder / "manifest.json"
        text = json.dumps({"fingerprint": self.fingerprint, "made_of": values}, indent=2) + "\n"
        try:
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            with atomic_path(manifest, durable=False, shared=True) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            if self.must_write or not manifest.is_file():
                raise InputError(f"--cache {self.folder.parent} cannot be written ({error.strerror}).") from None
            self._stop_writing(error)

    def _stop_writing(self, error: OSError) -> None:
        log.warning(
            "--cache %s cannot be written (%s); it is only read from now on.", self.folder.parent, error.strerror
        )
        self.writable = False
        self._pending.clear()

    def get(self, video: str, frame: int, tag: int) -> Tensor | None:
        """A copy of an item, ``[n, width]`` in the store's dtype on the CPU; None if it is not cached.

        Raises:
            InputError: a file is damaged.
        """
        rows = self._find((video, frame, tag))
        return None if rows is None else to_tensor(np.array(rows), self.dtype)

    def check(self, video: str, frame: int, tag: int) -> bool:
        """Whether an item is cached, without a copy of it; the first time its checksum is verified.

        Raises:
            FrameError: the item is damaged.
            InputError: a file is damaged as a whole.
        """
        return self._find((video, frame, tag)) is not None

    def num_rows(self, video: str, frame: int, tag: int) -> int:
        """An item's number of rows; 0 if it is not cached."""
        rows = self._find((video, frame, tag))
        return 0 if rows is None else len(rows)

    def copy_to(self, video: str, frame: int, tag: int, target: Tensor) -> bool:
        """Copies an item into ``target`` ``[n, width]``, of the store's dtype on the CPU; False if it is not cached.

        Raises:
            FrameError: the item is damaged, or has another number of rows.
            InputError: a file is damaged as a whole.
        """
        rows = self._find((video, frame, tag))
        if rows is None:
            return False
        if rows.shape != target.shape:
            raise FrameError(f"The cached features of {video} frame {frame} have another shape; remove {self.folder}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the map cannot be written, and is not
            target.copy_(to_tensor(rows, self.dtype))
        return True

    def _find(self, key: Key) -> np.ndarray | None:
        """An item's rows, in a map or in memory, not to be changed; None if it is not cached."""
        with self._lock:
            for _ in range(3):  # another process may merge and remove the file after the index was read
                if key in self._pending:
                    return self._pending[key]
                if key not in self._index:
                    self.refresh()
                file = self._index.get(key)
                if file is None:
                    return None
                try:
                    return self._view(file, key)
                except FileNotFoundError:
                    self._reload()
            return None

    def has(self, video: str, frame: int, tag: int) -> bool:
        """Whether an item is cached, as of the last ``refresh``."""
        return (video, frame, tag) in self._pending or (video, frame, tag) in self._index

    def is_stale(self, video: str, frame: int, tag: int) -> bool:
        """Whether the frame is cached only under other tags, because what it was computed from has changed."""
        return not self.has(video, frame, tag) and (video, frame) in self._frames

    def put(self, video: str, frame: int, tag: int, rows: Tensor) -> Tensor:
        """Adds an item ``[n, width]`` of any dtype and device, and returns it rounded to the store's dtype.

        Use the returned tensor, on the same device: then a miss and a later hit give the same values, bit for bit.

        Raises:
            RunError: a value is not finite, before or after rounding.
            InputError: the folder cannot be written (with ``must_write``).
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"an item must be [n, {self.width}], not {list(rows.shape)}")
        rounded = rows.detach().to(DTYPES[self.dtype])
        if not bool(rounded.isfinite().all()):
            cause = (
                "they overflow fp16, so use --cache-dtype bf16" if bool(rows.isfinite().all()) else "NaN or infinity"
            )
            raise RunError(f"The features of {video} frame {frame} are not finite ({cause}); they are not cached.")
        if self.writable:
            array = to_array(rounded)
            # On the CPU the array shares its memory with the returned tensor, which the caller may change.
            with self._lock:
                self._pending[video, frame, tag] = array.copy() if rounded.device.type == "cpu" else array
                if len(self._pending) >= self.flush_every:
                    self.flush()
        return rounded

    def flush(self) -> None:
        """Writes the items added since the last flush as one file in ``parts``.

        Raises:
            InputError: the folder cannot be written (with ``must_write``; otherwise a warning, and the store only
                reads).
        """
        if not self._pending:
            return
        path = self.folder / "parts" / f"{os.getpid()}-{self._writer}-{self._num_written:05d}.safetensors"
        items = [(k, IndexEntry(0, len(a), zlib.crc32(a.data))) for k, a in sorted(self._pending.items())]
        try:
            write_cache_file(
                path, self.fingerprint, self.dtype, self.width, items, (self._pending[k] for k, _ in items)
            )
        except OSError as error:
            if self.must_write:
                raise InputError(f"--cache {self.folder.parent} cannot be written ({error.strerror}).") from None
            self._stop_writing(error)
            return
        self._num_written += 1
        self._pending.clear()
        self._register(CacheFile(path))

    def refresh(self) -> None:
        """Finds files that other processes have written or merged since the last call.

        Raises:
            InputError: a file is damaged, or the folder cannot be read.
        """
        folders = (self.folder / "parts", self.folder)
        try:
            folder_times = tuple(f.stat().st_mtime_ns for f in folders)
            if folder_times == self._folder_times:
                return
            paths = [p for f in folders for p in f.glob("*.safetensors") if not p.name.startswith(".")]
        except OSError as error:
            raise InputError(f"--cache {self.folder.parent} cannot be read ({error.strerror}).") from None
        files: dict[Path, CacheFile] = {}
        for path in paths:  # parts first, so that an item in both is read from the video's file
            try:
                opened = self._files.get(path)
                files[path] = opened if opened and opened.identity == read_identity(path) else CacheFile(path)
            except FileNotFoundError:
                continue
        self._files, self._index, self._frames, self._folder_times = {}, {}, set(), folder_times
        for file in files.values():
            self._register(file)

    def _reload(self) -> None:
        """Refreshes even if the folders' modification times are the same."""
        self._folder_times = ()
        self.refresh()

    def _register(self, file: CacheFile) -> None:
        """Adds a file's items to the index."""
        if (file.fingerprint, file.format) != (self.fingerprint, FORMAT):
            return  # features of other weights or settings
        self._files[file.path] = file
        for key in file.entries:
            self._index[key] = file
            self._frames.add(key[:2])

    def _view(self, file: CacheFile, key: Key) -> np.ndarray:
        """An item's rows in the map of its file; closes the least recently used map if too many are open."""
        self._mapped.pop(file, None)
        self._mapped[file] = None
        if len(self._mapped) > _MAX_MAPS:
            oldest = next(iter(self._mapped))
            del self._mapped[oldest]
            oldest.close()
        return file.view(key)

    def merge(self, video: str, wanted: Mapping[int, int] | None = None) -> int:
        """Moves a video's items from ``parts`` into the video's file, and removes the parts that this empties.

        Args:
            video: name of the video.
            wanted: current tags by frame; items of these frames with other tags are dropped.

        Returns:
            Bytes of the video's items.

        Raises:
            InputError: an item's checksum is wrong, or the folder cannot be written.
        """
        if not _VIDEO_NAME.fullmatch(video):
            raise InputError(f"{video!r} is not a valid name of a video.")
        wanted = wanted or {}
        path = self.folder / f"{video}.safetensors"
        self.flush()
        for attempt in range(3):
            self._reload()
            keys = sorted(k for k in self._index if k[0] == video)
            kept = [k for k in keys if wanted.get(k[1], k[2]) == k[2]]
            self._dropped |= set(keys) - set(kept)
            merged = self._files.get(path)
            if list(merged.entries if merged else ()) == kept:
                break
            items = [(k, self._index[k].entries[k]) for k in kept]
            arrays = (self._view(self._index[k], k) for k in kept)
            try:
                write_cache_file(path, self.fingerprint, self.dtype, self.width, items, arrays)
            except FileNotFoundError:  # another process merged the same video meanwhile
                if attempt == 2:
                    raise InputError(f"--cache {self.folder.parent} is being changed by other processes.") from None
            except OSError as error:
                raise InputError(f"--cache {self.folder.parent} cannot be written ({error.strerror}).") from None
        self._remove_empty_parts()
        merged = self._files.get(path)
        return merged.data_bytes if merged else 0

    def _remove_empty_parts(self) -> None:
        """Removes parts whose items are all merged or dropped, and temporary files of killed processes."""
        self._reload()
        parts = [f for f in self._files.values() if f.path.parent.name == "parts"]
        merged = {k for f in self._files.values() if f.path.parent == self.folder for k in f.entries}
        for part in parts:
            if not set(part.entries) - merged - self._dropped:
                part.path.unlink(missing_ok=True)
        for folder in (self.folder, self.folder / "parts"):
            for leftover in folder.glob(".*.tmp"):
                try:
                    if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER:
                        leftover.unlink()
                except FileNotFoundError:
                    continue
        self._reload()

    def verify(self) -> Iterator[tuple[Path, int, int]]:
        """Reads every item and verifies its checksum. Yields for each file its path, number of items and bytes.

        Raises:
            InputError: a checksum is wrong; the message names the file.
        """
        for path, file in sorted(self._files.items()):
            for key, entry in file.entries.items():
                entry.checked = False
                self._view(file, key)
            yield path, len(file.entries), file.data_bytes

    def num_bytes(self) -> int:
        """Size of all items on disk in bytes."""
        return sum(file.data_bytes for file in self._files.values())

    def __getstate__(self) -> dict[str, Any]:
        # A worker process only reads; items that are not on disk yet stay with the process that writes them.
        return self.__dict__ | {"_pending": {}, "_mapped": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        _STORES.add(self)
