"""Checkpoints from and to the Hugging Face hub."""

import json
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from surgvivqa.checkpoints.public_settings import FILES_WITH_PATHS, hub_name, public_settings
from surgvivqa.config import PART_FLAGS, ModelConfig, option
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json
from surgvivqa.utils.secrets import SECRET, mask_secrets

log = logging.getLogger("surgvivqa")
TIMEOUT = 5.0  # seconds for the hub's first answer; by default its library waits without a limit
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model")  # no pickle, no code
PUSHED = (".json", ".safetensors", ".txt", ".model", ".md", ".jinja")  # .jinja: a tokenizer's chat template
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>\w[\w./-]*))?")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
# The library may use any HTTP client, each with its own exceptions.
_NETWORK = ("httpx", "httpcore", "requests", "urllib3")


def is_name(value: str) -> bool:
    """Whether a value has the form of a model's name on the hub."""
    return bool(_NAME.fullmatch(value))


def fetch(name: str, flag: str) -> Path:
    """Downloads a model of the hub into the hub's cache, unless it is there already.

    Only JSON, safetensors and text files of the repository's top folder are downloaded, no pickle and no code. If the
    hub cannot be reached, a complete copy in the cache is used, with a warning.

    Args:
        name: ``user/model``, or ``user/model@revision`` with a branch, tag or commit.
        flag: the flag that named it, for messages.

    Returns:
        The model's folder in the cache.

    Raises:
        InputError: the name is not a hub name; the hub cannot be reached or does not answer within ``TIMEOUT``
            seconds, has no such model or revision, or requires a login; or the model has no safetensors.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise InputError(
            mask_secrets(
                f"{flag} {name} is not a model name on the hub; a name looks like USER/MODEL or USER/MODEL@REVISION."
            )
        )
    api = HfApi()
    wanted: dict[str, Any] = {"repo_id": found["repo"], "revision": found["revision"]}
    wanted |= {"allow_patterns": list(FETCHED), "ignore_patterns": ["*/*"]}
    try:
        api.model_info(found["repo"], revision=found["revision"], timeout=TIMEOUT)
        folder = api.snapshot_download(**wanted, etag_timeout=TIMEOUT)
    except Exception as error:  # the library raises many kinds; unknown ones are raised again
        reason = _reason(error)
        if reason is None:
            raise
        cached = _cached(api, wanted) if _is_network(error) else None
        if cached is None:
            advice = f"; or download it on another machine, and give its folder with {flag}"
            raise InputError(mask_secrets(f"{flag} {name} cannot be fetched from the hub: {reason}{advice}.")) from None
        log.warning("The hub cannot be reached; %s is taken from its cache, which may be older.", name)
        folder = cached
    if not any(Path(folder).glob("*.safetensors")):
        raise InputError(f"{flag} {name} has no safetensors; convert its weights, since pickles are not downloaded.")
    return Path(folder)


def push(folder: Path, repo: str, private: bool) -> str:
    """Uploads a checkpoint folder to the hub as one commit, and creates the repository if it does not exist.

    Paths are removed from the uploaded settings (``public_settings``); the folder is not changed.

    Args:
        folder: a flat folder of JSON, safetensors, text and Markdown files with weights among them.
        repo: ``user/model``.
        private: creates the repository as a private one.

    Returns:
        The repository's address.

    Raises:
        InputError: the folder holds other files, a link, or a token; ``private`` is set and the repository is public;
            the hub cannot be reached, or refuses.
    """
    found = _NAME.fullmatch(repo)
    if not found or found["revision"]:
        raise InputError(mask_secrets(f"{repo} is not a repository name on the hub; a name looks like USER/MODEL."))
    files = _files(folder)
    api = HfApi()
    with tempfile.TemporaryDirectory() as staged:
        _stage(files, Path(staged))
        try:
            try:
                existing = api.model_info(repo, timeout=TIMEOUT)
            except RepositoryNotFoundError as error:
                if isinstance(error, GatedRepoError):
                    raise
            else:
                if private and not existing.private:
                    raise InputError(f"{repo} is public already; give another name, or make it private on its page.")
            address = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=staged, commit_message="Upload from surgvivqa")
        except InputError:
            raise
        except Exception as error:  # as in fetch
            reason = _reason(error)
            if reason is None:
                raise
            raise InputError(mask_secrets(f"{folder} cannot be pushed to {repo}: {reason}.")) from None
    return str(address)


def _files(folder: Path) -> list[Path]:
    """The files to upload. Raises InputError if the folder holds anything but a checkpoint."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a checkpoint folder such as a run's best/.")
    files = sorted(folder.iterdir())
    foreign = [f.name for f in files if f.is_symlink() or not f.is_file() or f.suffix not in PUSHED or f.name[0] == "."]
    if foreign:
        raise InputError(
            f"{folder} holds {', '.join(foreign[:5])}, which is not part of a checkpoint (files of the kinds "
            f"{' '.join(PUSHED)}, and no links); push a folder without it."
        )
    if not any(f.suffix == ".safetensors" for f in files):
        raise InputError(f"{folder} holds no safetensors; give a checkpoint folder such as a run's best/.")
    for file in files:
        if file.suffix != ".safetensors" and SECRET.search(file.read_bytes()):
            raise InputError(f"{file} holds what looks like a hub token; remove it before publishing.")
    return files


def _stage(files: list[Path], folder: Path) -> None:
    """Fills the folder to upload: settings without paths, and links to all other files."""
    for file in files:
        if file.name in FILES_WITH_PATHS:
            try:
                content = dict(read_json(file))
            except (ValueError, TypeError):
                raise InputError(f"{file} is not a JSON mapping; the checkpoint is damaged.") from None
            if file.name == "surgvivqa.json":
                _warn_of_folders(content.get("settings") or {})
            (folder / file.name).write_text(json.dumps(public_settings(content), indent=2), encoding="utf-8")
            continue
        try:
            (folder / file.name).symlink_to(file.resolve())
        except OSError:  # a file system without links
            shutil.copyfile(file, folder / file.name)


def _warn_of_folders(settings: dict[str, Any]) -> None:
    defaults = ModelConfig()
    for name in PART_FLAGS:
        value = str(settings.get(name, getattr(defaults, name)))
        if settings.get("preset", defaults.preset) == "base" and hub_name(value) is None:
            log.warning(
                "%s was a folder of this machine, so nobody else can load the model; write the hub's name of that part "
                "into surgvivqa.json (settings: %s) and push again.",
                option(name),
                name,
            )


def _cached(api: HfApi, wanted: dict[str, Any]) -> str | None:
    try:
        return str(api.snapshot_download(**wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _is_network(error: BaseException) -> bool:
    """Whether the hub could not be reached: no network, a timeout, offline mode, or a server error."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | TimeoutError | ConnectionError):
        return True
    return any(cls.__module__.startswith(_NETWORK) for cls in type(error).__mro__)


def _reason(error: BaseException) -> str | None:
    """What went wrong and what to do; None for an error that has nothing to do with the hub."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    for kind, sentence in (
        (GatedRepoError, f"the model is gated; accept its conditions on the model's page, and {_LOGIN}"),
        (RepositoryNotFoundError, f"the hub has no such model, or it is private; check the name, or {_LOGIN}"),
        (RevisionNotFoundError, "the model has no such revision; check the part after the @"),
        (LocalTokenNotFoundError, f"that needs a login; {_LOGIN}"),
        (OfflineModeIsEnabled, "HF_HUB_OFFLINE keeps this process off the network; unset it"),
        (HFValidationError, f"the name is not valid on the hub ({text}); give another"),
    ):
        if isinstance(error, kind):
            return sentence
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        if code == 401:
            return f"the hub requires a valid login; {_LOGIN}"
        if code == 403:
            return f"this login lacks the permission ({text}); use a token that has it, and {_LOGIN}"
        if code == 429 or code >= 500:
            return f"the hub answers {code}, so it is busy or down; try again later"
        return f"the hub refuses ({text}); fix that and try again"
    if _is_network(error):
        return f"the hub cannot be reached ({text}); check the network"
    if isinstance(error, OSError):
        return f"a file cannot be read or written ({error.strerror or text}); HF_HOME sets the folder of the cache"
    return None
