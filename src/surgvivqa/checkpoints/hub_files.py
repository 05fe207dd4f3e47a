"""What a model's repository on the hub holds, and which of its files are needed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

from surgvivqa.checkpoints.hub_names import HubName
from surgvivqa.checkpoints.validation import is_plain_name
from surgvivqa.utils.errors import InputError, RunError

TIMEOUT = 5.0  # seconds for the hub's first answer; by default its library waits without a limit

Kind = Literal["video", "text", "decoder", "checkpoint"]

_SETTINGS = ("config.json", "generation_config.json")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
)
_SETTINGS_OF_KIND: dict[Kind, tuple[str, ...]] = {
    "video": _SETTINGS,
    "text": (*_SETTINGS, *_TOKENIZER),  # --text-embeddings aligned reads BLIP's tokenizer
    "decoder": (*_SETTINGS, *_TOKENIZER),
}
# In the order in which Transformers looks for weights: the first form that is there is the one that it reads.
_WEIGHTS = (
    re.compile(r"model\.safetensors"),
    re.compile(r"model(-\d{5}-of-\d{5}\.safetensors|\.safetensors\.index\.json)"),
    re.compile(r"pytorch_model\.bin"),
    re.compile(r"pytorch_model(-\d{5}-of-\d{5}\.bin|\.bin\.index\.json)"),
)
_CHECKPOINT = re.compile(r".*\.(json|safetensors|txt|model)")  # no pickle, no code


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: its name in the repository's top folder.
        size: its size in bytes.
        etag: its name in the hub's cache: the SHA-256 of a large file, the git blob's SHA-1 of a small one (hex).
    """

    name: str
    size: int
    etag: str


@dataclass(frozen=True)
class Repository:
    """A model's repository at one commit.

    Attributes:
        name: the name under which it was asked for.
        commit: the commit that the name leads to.
        files: the files of its top folder. Their size is -1 and their etag empty where the hub does not tell.
    """

    name: HubName
    commit: str
    files: tuple[RemoteFile, ...]


def read_repository(name: HubName) -> Repository:
    """Asks the hub for a model's commit and files.

    Raises:
        RunError: it tells a commit or an etag that could name a file outside the cache.
        Exception: those of the hub's library; ``hub_errors`` explains them.
    """
    info: Any = HfApi().model_info(name.repo, revision=name.revision, timeout=TIMEOUT, files_metadata=True)
    files = []
    for file in info.siblings or ():
        if is_plain_name(file.rfilename):
            etag = file.lfs.sha256 if file.lfs else file.blob_id
            size = file.lfs.size if file.lfs else file.size
            files.append(RemoteFile(file.rfilename, -1 if size is None else size, _plain(etag or "", name)))
    return Repository(name, _plain(str(info.sha), name), tuple(files))


def needed_files(repository: Repository, kind: Kind, flag: str) -> tuple[RemoteFile, ...]:
    """The files of a repository that are read, with sizes: settings, tokenizer and one form of the weights.

    Safetensors are preferred. PyTorch's ``.bin`` files, which are read without running code from them, are taken only
    for a part that has no safetensors; a checkpoint must have them. Weights of other frameworks, other precisions and
    other tools are left out.

    Args:
        repository: the repository.
        kind: the part that it is, or ``checkpoint``.
        flag: the flag that named it, for messages.

    Raises:
        InputError: it has no weights that can be read.
        Exception: those of the hub's library.
    """
    if kind == "checkpoint":
        files = [file for file in repository.files if _CHECKPOINT.fullmatch(file.name)]
        if not any(file.name.endswith(".safetensors") for file in files):
            raise InputError(
                f"{flag} {repository.name} has no safetensors; convert its weights, since pickles are not downloaded."
            )
    else:
        weights = next((found for form in _WEIGHTS if (found := _weights(repository.files, form))), [])
        if not weights:
            raise InputError(
                f"{flag} {repository.name} has no weights for PyTorch (model.safetensors or pytorch_model.bin); give "
                f"another model."
            )
        files = [file for file in repository.files if file.name in _SETTINGS_OF_KIND[kind]] + weights
    return tuple(_with_metadata(repository, file) for file in files)


def has_weights(kind: Kind, names: Sequence[str]) -> bool:
    """Whether these files of a model, which appear together, are enough to load it."""
    if kind == "checkpoint":
        return any(name.endswith(".safetensors") for name in names)
    return "config.json" in names and any(form.fullmatch(name) for form in _WEIGHTS for name in names)


def is_pickle(file: RemoteFile) -> bool:
    """Whether a file has PyTorch's own format."""
    return file.name.endswith(".bin")


def _weights(files: Sequence[RemoteFile], form: re.Pattern[str]) -> list[RemoteFile]:
    """The files of one form of weights; an index without shards is none."""
    found = [file for file in files if form.fullmatch(file.name)]
    return found if any(not file.name.endswith(".json") for file in found) else []


def _with_metadata(repository: Repository, file: RemoteFile) -> RemoteFile:
    """The file with its size and etag; a mirror may leave them out of its list, and tells them for one file."""
    if file.size >= 0 and file.etag:
        return file
    url = hf_hub_url(repository.name.repo, file.name, revision=repository.commit, endpoint=HfApi().endpoint)
    found = get_hf_file_metadata(url, timeout=TIMEOUT)
    etag = _plain(found.etag or "", repository.name)
    return RemoteFile(file.name, -1 if found.size is None else found.size, etag)


def _plain(value: str, name: HubName) -> str:
    """A commit or an etag, which becomes the name of a file or folder in the cache."""
    if value and not is_plain_name(value):
        raise RunError(
            f"The hub describes {name} by {value[:80]!r}, which is neither a commit nor a checksum; nothing of it is "
            f"fetched. Try without the mirror in HF_ENDPOINT."
        )
    return value
