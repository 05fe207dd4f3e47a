"""Finds models of the hub on this machine, and fetches those that are not."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url

from surgvivqa.checkpoints.hub_errors import explain_hub_error, is_network
from surgvivqa.checkpoints.hub_files import Kind, RemoteFile, Repository, needed_files, read_repository
from surgvivqa.checkpoints.hub_names import HubName
from surgvivqa.checkpoints.hub_stores import (
    CacheStore,
    Store,
    cached_commit,
    cached_commits,
    copy_from_cache,
    free_space,
    is_complete,
    snapshot_folder,
)
from surgvivqa.checkpoints.transfer import download, matches
from surgvivqa.checkpoints.transfer_progress import TransferProgress, format_bytes
from surgvivqa.utils.errors import InputError, SurgViVQAError
from surgvivqa.utils.secrets import mask_secrets

log = logging.getLogger("surgvivqa")
_SPARE = 64_000_000  # bytes of a disk that a download leaves free


@dataclass(frozen=True)
class Download:
    """A model that is to be fetched.

    Attributes:
        repository: the model at its commit.
        files: the files that are needed.
        missing: those of them that are not there yet.
        left: the bytes that are still to be fetched.
        store: where they go.
        flag: the flag that named the model, for messages.
    """

    repository: Repository
    files: tuple[RemoteFile, ...]
    missing: tuple[RemoteFile, ...]
    left: int
    store: Store
    flag: str

    @property
    def size(self) -> int:
        """The size of all needed files in bytes."""
        return sum(max(0, file.size) for file in self.files)


def plan_download(repository: Repository, kind: Kind, store: Store, flag: str, *, verify: bool = False) -> Download:
    """Compares what is needed of a repository with what is there.

    Args:
        repository: the model.
        kind: what it is used as.
        store: where it goes.
        flag: the flag that named it, for messages.
        verify: also verify the files that are there; one that is damaged counts as missing, and is removed.

    Raises:
        InputError: the model has no weights that can be read.
        Exception: those of the hub's library.
    """
    files = needed_files(repository, kind, flag)
    missing = []
    for file in files:
        path = store.path(file)
        if verify and path.exists() and not matches(path, file):
            log.warning("%s of %s is damaged here, so it is fetched again.", file.name, repository.name)
            path.unlink()
        if not path.exists():
            missing.append(file)
    left = sum(max(0, file.size - _partial(store.path(file))) for file in missing)
    return Download(repository, files, tuple(missing), left, store, flag)


def check_space(downloads: Sequence[Download], folder: Path, advice: str) -> None:
    """Raises InputError if the disk of ``folder`` has no room for the downloads."""
    needed, free = sum(each.left for each in downloads), free_space(folder)
    if needed and needed + _SPARE > free:
        raise InputError(
            f"{folder} has {format_bytes(free)} free, but {format_bytes(needed)} are to be fetched; free some, or "
            f"{advice}."
        )


def carry_out(planned: Download) -> Path:
    """Fetches what is missing, verifies it, and returns the model's folder.

    A stopped download goes on where it was when it is called again.

    Raises:
        InputError: the folder holds other files.
        RunError: what arrives is not what the hub describes.
        Exception: those of the hub's library.
    """
    repository, store = planned.repository, planned.store
    store.begin()
    if planned.missing:
        endpoint = HfApi().endpoint
        with TransferProgress(repository.name.repo, planned.left) as progress:
            for file in sorted(planned.missing, key=lambda file: file.size):
                path = store.path(file)
                if not path.exists() and copy_from_cache(repository.name, file, path, matches):
                    progress.add(file.size)
                    continue
                url = hf_hub_url(repository.name.repo, file.name, revision=repository.commit, endpoint=endpoint)
                progress.add(-_partial(path))  # which ``download`` reports too
                download(url, file, path, progress.add)
    return store.finish(planned.files)


def locate_model(name: HubName, kind: Kind, flag: str) -> Path:
    """The folder of a model in the hub's cache, to which missing files are fetched.

    A name with a whole commit that the cache holds asks the hub nothing. Otherwise the hub is asked for the commit of
    the branch or tag. If it cannot be reached, the commit that the branch led to last is used, with a warning, or else
    the only one that the cache holds.

    Args:
        name: the model.
        kind: what it is used as.
        flag: the flag that named it, for messages.

    Raises:
        InputError: the hub cannot be reached or does not answer in time, has no such model or revision, or requires a
            login; or the model has no weights that can be read, or the disk no room.
        RunError: what arrives is not what the hub describes.
    """
    if name.commit and is_complete(found := snapshot_folder(name, name.commit), kind):
        return found
    try:
        repository = read_repository(name)
        planned = plan_download(repository, kind, CacheStore(repository), flag)
        if planned.missing:
            cache = Path(constants.HF_HUB_CACHE)
            check_space([planned], cache, "set HF_HOME to a folder on another disk")
            log.info("Fetching %s (%s) into %s.", name, format_bytes(planned.left), cache)
        return carry_out(planned)
    except SurgViVQAError:
        raise
    except Exception as error:  # the library raises many kinds; unknown ones are raised again
        reason = explain_hub_error(error)
        if reason is None:
            raise
        found_offline = _in_cache(name, kind) if is_network(error) else None
        if found_offline is not None:
            return found_offline
        raise InputError(mask_secrets(f"{flag} {name} {_cannot(reason, name, kind, flag)}")) from None


def resolve_commit(name: HubName, kind: Kind) -> str | None:
    """The commit that ``locate_model`` would use; None if the hub has none for it, or cannot be asked."""
    if name.commit:
        return name.commit
    try:
        return read_repository(name).commit
    except Exception as error:
        if explain_hub_error(error) is None:
            raise
        return _cached_commit(name, kind) if is_network(error) else None


def _cached_commit(name: HubName, kind: Kind) -> str | None:
    commit = cached_commit(name)
    if commit and is_complete(snapshot_folder(name, commit), kind):
        return commit
    commits = cached_commits(name, kind)
    return commits[0] if name.revision is None and len(commits) == 1 else None


def _in_cache(name: HubName, kind: Kind) -> Path | None:
    """The model's folder in the cache, with a warning unless the user keeps this process off the network."""
    commit = _cached_commit(name, kind)
    if commit is None:
        return None
    if not constants.HF_HUB_OFFLINE:
        log.warning("The hub cannot be reached; %s is taken from its cache, which may be older (%s).", name, commit)
    return snapshot_folder(name, commit)


def _cannot(reason: str, name: HubName, kind: Kind, flag: str) -> str:
    """The rest of the sentence about a model that cannot be fetched."""
    command = f"surgvivqa fetch {'--checkpoint' if kind == 'checkpoint' else flag} {name}"
    instead = "" if kind == "checkpoint" else ", or use --preset tiny, which needs none"
    return (
        f"is not a folder here and cannot be fetched from the hub: {reason}; or run `{command}` where there is a "
        f"network, or with `--to DIR` and give its folder with {flag}{instead}."
    )


def _partial(path: Path) -> int:
    part = path.with_name(f"{path.name}.partial")
    return part.stat().st_size if part.exists() else 0
