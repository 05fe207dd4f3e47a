"""Where files of the hub are kept: in the hub's cache, or in a folder of the user's.

The cache has the layout of the hub's library, so that every program that uses it finds the files::

    models--USER--MODEL/
      blobs/ETAG                   the content; ETAG.partial while it arrives
      snapshots/COMMIT/NAME        links to blobs; they appear when all files are there
      refs/REVISION                the commit that a branch or tag led to
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import constants

from surgvivqa.checkpoints.checksums import hash_file
from surgvivqa.checkpoints.hub_files import Kind, RemoteFile, Repository, has_weights
from surgvivqa.checkpoints.hub_names import HubName, parse_hub_name
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError, RunError
from surgvivqa.utils.safe_json import read_json

FETCHED = "fetched.json"
"""In a folder that ``surgvivqa fetch --to`` filled: the model's name, its commit, and its files' checksums."""
_FORMAT = 1


class Store(Protocol):
    """A place for the files of one commit."""

    def path(self, file: RemoteFile) -> Path:
        """Where a file's content is, or will be."""

    def begin(self) -> None:
        """Makes the folders."""

    def finish(self, files: Sequence[RemoteFile]) -> Path:
        """Makes the files, which are all there, visible together, and returns the model's folder."""


@dataclass(frozen=True)
class CacheStore:
    """The hub's cache."""

    repository: Repository

    def path(self, file: RemoteFile) -> Path:
        """Where a file's content is, or will be."""
        # A mirror without etags: the commit and the name say which content it is.
        return _cache_folder(self.repository.name) / "blobs" / (file.etag or f"{self.repository.commit}-{file.name}")

    def begin(self) -> None:
        """Makes the folders."""
        (_cache_folder(self.repository.name) / "blobs").mkdir(parents=True, exist_ok=True)

    def finish(self, files: Sequence[RemoteFile]) -> Path:
        """Links the files, weights last, and records the commit of a branch or tag."""
        snapshot = snapshot_folder(self.repository.name, self.repository.commit)
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in sorted(files, key=lambda file: file.size):
            if not (snapshot / file.name).exists():
                _link(self.path(file), snapshot / file.name)
        name, commit = self.repository.name, self.repository.commit
        if name.commit is None and cached_commit(name) != commit:
            with contextlib.suppress(OSError, RunError):  # a cache that this user may only read
                _reference(name).parent.mkdir(parents=True, exist_ok=True)
                write_text(_reference(name), commit, durable=False)
        return snapshot


@dataclass(frozen=True)
class FolderStore:
    """A folder with the files under their names, and ``fetched.json``."""

    repository: Repository
    folder: Path

    def path(self, file: RemoteFile) -> Path:
        """Where a file's content is, or will be."""
        return self.folder / file.name

    def begin(self) -> None:
        """Makes the folder, and marks it as unfinished.

        Raises:
            InputError: the folder holds something else.
        """
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            found = read_fetched(self.folder)
            if found is None:
                raise InputError(f"{self.folder} holds other files; give an empty or a new folder with --to.")
            if (found.name.repo, found.commit) != (self.repository.name.repo, self.repository.commit):
                raise InputError(
                    f"{self.folder} holds {found.name.repo} at commit {found.commit}, not {self.repository.name.repo} "
                    f"at {self.repository.commit}; give another folder with --to, or the same commit with --revision."
                )
            if found.complete:
                return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._record([], complete=False)

    def finish(self, files: Sequence[RemoteFile]) -> Path:
        """Writes ``fetched.json`` with the checksums."""
        for left in self.folder.glob("*.lock"):
            left.unlink(missing_ok=True)
        self._record(files, complete=True)
        return self.folder

    def _record(self, files: Sequence[RemoteFile], *, complete: bool) -> None:
        content = {
            "format": _FORMAT,
            "model": self.repository.name.repo,
            "revision": self.repository.name.revision or constants.DEFAULT_REVISION,
            "commit": self.repository.commit,
            "complete": complete,
            "sha256": {file.name: hash_file(self.path(file)) for file in files},
        }
        write_text(self.folder / FETCHED, json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True)
class Fetched:
    """What ``fetched.json`` says.

    Attributes:
        name: the model, with the revision that was asked for.
        commit: the commit that it led to.
        complete: whether all files have arrived.
    """

    name: HubName
    commit: str
    complete: bool

    @property
    def pinned(self) -> str:
        """The model's name with its commit."""
        return f"{self.name.repo}@{self.commit}"


def read_fetched(folder: Path) -> Fetched | None:
    """What a folder's ``fetched.json`` says; None without one, or if it is not one of ours."""
    try:
        content: Any = read_json(folder / FETCHED)
        name = parse_hub_name(f"{content['model']}@{content['revision']}")
        commit, complete = content["commit"], content["complete"]
        if name and isinstance(commit, str) and parse_hub_name(f"{name.repo}@{commit}") and isinstance(complete, bool):
            return Fetched(name, commit, complete)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def snapshot_folder(name: HubName, commit: str) -> Path:
    """The folder of a model's commit in the cache."""
    return _cache_folder(name) / "snapshots" / commit


def cached_commit(name: HubName) -> str | None:
    """The commit of a name in the cache: its revision, or what a branch or tag led to when it was last fetched."""
    if name.commit:
        return name.commit
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _reference(name).read_text(encoding="utf-8").strip() or None
    return None


def cached_commits(name: HubName, kind: Kind) -> list[str]:
    """All commits of a model that the cache holds completely."""
    folders = sorted((_cache_folder(name) / "snapshots").glob("*"))
    return [folder.name for folder in folders if is_complete(folder, kind)]


def is_complete(folder: Path, kind: Kind) -> bool:
    """Whether a folder of the cache holds a model: its settings, and its weights with all shards of an index."""
    try:
        names = [path.name for path in folder.iterdir() if path.exists()]  # not a link whose target was removed
        shards = [
            str(name) for index in folder.glob("*.index.json") for name in read_json(index)["weight_map"].values()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return has_weights(kind, names) and set(shards) <= set(names)


def free_space(folder: Path) -> int:
    """Free bytes of the disk that a folder, which may not exist yet, is on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def copy_from_cache(name: HubName, file: RemoteFile, path: Path, check: Callable[[Path, RemoteFile], bool]) -> bool:
    """Copies a file that the cache has to ``path``, if it is the right one; returns whether it did."""
    blob = _cache_folder(name) / "blobs" / file.etag
    if not file.etag or not blob.is_file() or not check(blob, file):
        return False
    part = path.with_name(f"{path.name}.copying")
    shutil.copyfile(blob, part)
    part.replace(path)
    return True


def _cache_folder(name: HubName) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{name.repo.replace('/', '--')}"


def _reference(name: HubName) -> Path:
    return _cache_folder(name) / "refs" / (name.revision or constants.DEFAULT_REVISION)


def _link(content: Path, link: Path) -> None:
    """A relative link, so that the cache can be moved; a copy where the file system has no links."""
    link.unlink(missing_ok=True)  # a link whose target was removed
    try:
        link.symlink_to(os.path.relpath(content, link.parent))
    except OSError:
        shutil.copyfile(content, link)
