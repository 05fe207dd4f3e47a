"""Checkpoints from and to the Hugging Face hub."""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from surgvivqa.checkpoints.hub_errors import explain_hub_error
from surgvivqa.checkpoints.hub_files import TIMEOUT
from surgvivqa.checkpoints.hub_models import locate_model
from surgvivqa.checkpoints.hub_names import parse_hub_name
from surgvivqa.checkpoints.public_settings import FILES_WITH_PATHS, hub_name, public_settings
from surgvivqa.config import PART_FLAGS, ModelConfig, option
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json
from surgvivqa.utils.secrets import SECRET, mask_secrets

log = logging.getLogger("surgvivqa")
PUSHED = (".json", ".safetensors", ".txt", ".model", ".md", ".jinja")  # .jinja: a tokenizer's chat template


def is_name(value: str) -> bool:
    """Whether a value has the form ``user/model`` of a model's name on the hub, with or without a revision."""
    name = parse_hub_name(value)
    return name is not None and "/" in name.repo


def fetch(name: str, flag: str) -> Path:
    """The folder in the hub's cache of a checkpoint on the hub, which is fetched unless it is there.

    Only JSON, safetensors and text files of the repository's top folder are fetched, no pickle and no code.

    Args:
        name: ``user/model``, or ``user/model@revision`` with a branch, tag or commit.
        flag: the flag that named it, for messages.

    Raises:
        InputError: the name is not a hub name; the hub cannot be reached or does not answer in time, has no such model
            or revision, or requires a login; or the model has no safetensors.
        RunError: what arrives is not what the hub describes.
    """
    found = parse_hub_name(name)
    if found is None or not is_name(name):
        raise InputError(
            mask_secrets(
                f"{flag} {name} is not a model name on the hub; a name looks like USER/MODEL or USER/MODEL@REVISION."
            )
        )
    return locate_model(found, "checkpoint", flag)


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
    if not is_name(repo) or "@" in repo:
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
        except Exception as error:  # the library raises many kinds; unknown ones are raised again
            reason = explain_hub_error(error)
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
