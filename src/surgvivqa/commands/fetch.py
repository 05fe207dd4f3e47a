"""``surgvivqa fetch``: downloads the published weights, so that other commands need no network."""

import dataclasses
import difflib
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import constants

from surgvivqa.checkpoints.adapters import ADAPTER_CONFIG
from surgvivqa.checkpoints.backbones import assemble
from surgvivqa.checkpoints.hub_errors import explain_hub_error
from surgvivqa.checkpoints.hub_files import Kind, Repository, is_pickle, read_repository
from surgvivqa.checkpoints.hub_models import Download, carry_out, check_space, plan_download
from surgvivqa.checkpoints.hub_names import HubName, parse_hub_name
from surgvivqa.checkpoints.hub_stores import CacheStore, FolderStore, free_space
from surgvivqa.checkpoints.loading import is_on_hub, load_checkpoint
from surgvivqa.checkpoints.packaged import PACKAGED
from surgvivqa.checkpoints.settings import SETTINGS_FILE, read_settings
from surgvivqa.checkpoints.transfer_progress import format_bytes
from surgvivqa.config import ModelConfig, Preset, TrainConfig, flag
from surgvivqa.utils.errors import InputError, SurgViVQAError
from surgvivqa.utils.secrets import mask_secrets

log = logging.getLogger("surgvivqa")
PARTS: tuple[Kind, ...] = ("video", "text", "decoder")


@dataclass(kw_only=True)
class FetchConfig:
    """Downloads the published weights into the hub's cache or a folder, for machines without a network.

    Only the files that are read are fetched; a stopped download goes on with the same command. --config takes the file
    of a training run and uses the models that it names.
    """

    reads_flags_of: ClassVar[type] = TrainConfig

    preset: Preset = flag("The preset of the run. tiny needs nothing: it comes with the package.", "base")
    video_model: str = flag("Video encoder: a hub name, with @REVISION for a fixed one.", ModelConfig().video_model)
    text_model: str = flag("Text encoder: a hub name, with @REVISION for a fixed one.", ModelConfig().text_model)
    decoder_model: str = flag(
        "Decoder and tokenizer: a hub name, with @REVISION for a fixed one.", ModelConfig().decoder_model
    )
    checkpoint: str | None = flag(
        "A trained checkpoint's hub name, or its folder. The parts that it needs are fetched in place of those above, "
        "and under a hub name the checkpoint itself.",
        None,
    )
    pretrained_ckpt: str | None = flag("The same for train's --pretrained-ckpt.", None)
    to: Path | None = flag(
        "Folder for the files, with a folder for each part (video, text, decoder, checkpoint) to give to --video-model "
        "and so on. Default: the hub's cache, where every command finds them by name.",
        None,
    )
    revision: list[str] = flag(
        "PART=REVISION, a branch, tag or commit for one of video, text, decoder and checkpoint; several are separated "
        "by spaces. The same as NAME@REVISION.",
        default_factory=list,
    )
    dry_run: bool = flag("Print the files and their sizes, and fetch nothing.", False)
    trial_load: bool = flag("Load the model once at the end, which needs memory for it.", True)


def fetch(config: FetchConfig) -> int:
    """Fetches models, verifies them and prints how to use them.

    Files that are there already are verified too, and fetched again if they are damaged.

    Raises:
        InputError: a flag is wrong; the hub cannot be reached, or refuses; the disk has no room; or the model cannot be
            loaded.
        RunError: what arrives is not what the hub describes, or a file cannot be written.
    """
    names = _wanted(config)
    if not names:
        print("Nothing is to be fetched: the model is here already.")
        return 0
    done: dict[Kind, tuple[Repository, Path]] = {}
    if "checkpoint" in names:  # its settings name the parts that it needs
        done |= _fetch(config, {"checkpoint": names["checkpoint"]})
        if config.dry_run:
            print("The parts that the checkpoint needs are known when it is there, so they are not counted.")
            return 0
        names = _parts_of_checkpoint(config, done["checkpoint"][1])
    done |= _fetch(config, names)
    if config.dry_run:
        return 0
    if config.trial_load:
        _load_once(config, done)
    _print_use(config, done)
    return 0


def _wanted(config: FetchConfig) -> dict[Kind, HubName]:
    """What to fetch: the checkpoint, the parts that a checkpoint of this machine needs, or the parts of the flags."""
    revisions = _revisions(config.revision)
    checkpoint = config.checkpoint or config.pretrained_ckpt
    wanted: dict[Kind, HubName] = {}
    if checkpoint is not None:
        if checkpoint != PACKAGED and is_on_hub(Path(checkpoint)):
            return {"checkpoint": _name("checkpoint", "--checkpoint", checkpoint, revisions)}
        if checkpoint != PACKAGED:
            wanted = _parts_of_checkpoint(config, _local_checkpoint(Path(checkpoint)))
    elif config.preset == "base":
        for kind in PARTS:
            value = getattr(config, f"{kind}_model")
            if Path(value).is_dir():
                log.info("--%s-model %s is a folder, so nothing is fetched for it.", kind, value)
                continue
            wanted[kind] = _name(kind, f"--{kind}-model", value, revisions)
    if unused := [kind for kind in revisions if kind not in wanted]:
        raise InputError(f"--revision {unused[0]}=... is given, but nothing is to be fetched for it; leave it out.")
    return wanted


def _local_checkpoint(path: Path) -> Path:
    """The folder of a checkpoint on this machine: a run folder's ``best/``, or the folder itself."""
    for folder in (path, path / "best"):
        if any((folder / name).is_file() for name in (SETTINGS_FILE, ADAPTER_CONFIG, "config.json")):
            return folder
    raise InputError(
        f"--checkpoint {path} is neither a checkpoint folder here nor of the form USER/MODEL of a name on the hub."
    )


def _name(kind: Kind, flag_name: str, value: str, revisions: dict[Kind, str]) -> HubName:
    name = parse_hub_name(value)
    if name is None or (kind == "checkpoint" and "/" not in name.repo):
        raise InputError(
            mask_secrets(f"{flag_name} {value} is not a model name on the hub; a name looks like USER/MODEL.")
        )
    revision = revisions.get(kind)
    if revision is None:
        return name
    pinned = parse_hub_name(f"{name.repo}@{revision}")
    if name.revision not in (None, revision) or pinned is None:
        raise InputError(f"--revision {kind}={revision} contradicts {flag_name} {value}, or is not a revision.")
    return pinned


def _revisions(given: Sequence[str]) -> dict[Kind, str]:
    """The values of ``--revision`` by part."""
    kinds: dict[str, Kind] = {kind: kind for kind in (*PARTS, "checkpoint")}
    kinds |= {f"{kind}-model": kind for kind in PARTS} | {f"{kind}_model": kind for kind in PARTS}
    revisions: dict[Kind, str] = {}
    for text in given:
        part, _, revision = text.partition("=")
        if not revision:
            raise InputError(f"--revision {text} is not of the form PART=REVISION, such as video=1f2e3d4.")
        if part not in kinds:
            nearest = difflib.get_close_matches(part, kinds, n=1, cutoff=0.0)[0]
            raise InputError(f"--revision {text} names the unknown part {part!r}; the nearest one is {nearest!r}.")
        revisions[kinds[part]] = revision
    return revisions


def _parts_of_checkpoint(config: FetchConfig, folder: Path) -> dict[Kind, HubName]:
    """The published parts that a checkpoint needs besides its own tensors."""
    if not (folder / SETTINGS_FILE).is_file():  # Hugging Face's form has all tensors; other adapters name no parts
        if (folder / ADAPTER_CONFIG).is_file():
            log.warning("The checkpoint does not name its parts; those of the flags are fetched.")
            return _wanted(dataclasses.replace(config, checkpoint=None, pretrained_ckpt=None))
        return {}
    saved = read_settings(folder)
    if saved.holds == "all" or saved.model.preset == "tiny":
        return {}
    revisions = _revisions(config.revision)
    named = {kind: getattr(saved.model, f"{kind}_model") for kind in PARTS}
    for kind, value in named.items():
        if parse_hub_name(value) is None:
            raise InputError(
                f"The checkpoint's {kind} model was a folder of another machine ({value[:100]}), so it cannot be "
                f"fetched; fetch the parts alone, and give their folders to the command that uses the checkpoint."
            )
    return {kind: _name(kind, f"the checkpoint's {kind} model", value, revisions) for kind, value in named.items()}


def _fetch(config: FetchConfig, names: dict[Kind, HubName]) -> dict[Kind, tuple[Repository, Path]]:
    """Prints what is to be fetched, checks the disk, and fetches it, unless this is a dry run."""
    planned: dict[Kind, Download] = {}
    for kind, name in names.items():
        with _HubErrors(kind, name):
            repository = read_repository(name)
            store = CacheStore(repository) if config.to is None else FolderStore(repository, config.to / kind)
            planned[kind] = plan_download(repository, kind, store, _flag(kind), verify=not config.dry_run)
            _print_plan(kind, planned[kind])
    target = Path(constants.HF_HUB_CACHE) if config.to is None else config.to
    left = sum(each.left for each in planned.values())
    if planned:
        print(f"{format_bytes(left)} to fetch into {target}, which has {format_bytes(free_space(target))} free")
    check_space(list(planned.values()), target, "choose another disk with --to or HF_HOME")
    if config.dry_run:
        return {}
    done: dict[Kind, tuple[Repository, Path]] = {}
    for kind, each in planned.items():
        with _HubErrors(kind, names[kind]):
            done[kind] = (each.repository, carry_out(each))
    return done


def _print_plan(kind: Kind, planned: Download) -> None:
    repository = planned.repository
    print(f"{kind:<10} {repository.name.repo} at commit {repository.commit}, {format_bytes(planned.size)}")
    for file in planned.files:
        state = "to fetch" if file in planned.missing else "there"
        pickle = ", PyTorch's format, read without running code" if is_pickle(file) else ""
        size = format_bytes(file.size) if file.size >= 0 else "unknown size"
        print(f"  {file.name:<36} {size:>12}  {state}{pickle}")


def _load_once(config: FetchConfig, done: dict[Kind, tuple[Repository, Path]]) -> None:
    """Loads what was fetched from its folders."""
    parts: dict[str, Any] = {f"{kind}_model": str(folder) for kind, (_, folder) in done.items() if kind in PARTS}
    checkpoint = done["checkpoint"][1] if "checkpoint" in done else config.checkpoint or config.pretrained_ckpt
    if checkpoint is not None:
        load_checkpoint(Path(checkpoint), ModelConfig(**parts))
        return
    given = {f"{kind}_model": getattr(config, f"{kind}_model") for kind in PARTS}
    assemble(ModelConfig(**given | parts), None)


def _print_use(config: FetchConfig, done: dict[Kind, tuple[Repository, Path]]) -> None:
    """Prints the flags with which other commands use what was fetched."""
    loaded = " and loaded once" if config.trial_load else ""
    print(f"verified by checksum{loaded}; without a network, set HF_HUB_OFFLINE=1 and use these flags:")
    words = []
    for kind, (repository, folder) in done.items():
        pinned = str(HubName(repository.name.repo, repository.commit))
        words.append(f"{_flag(kind)} {shlex.quote(str(folder) if config.to is not None else pinned)}")
    print("  " + " ".join(words))
    if config.to is None and all(repository.name.revision is None for repository, _ in done.values()):
        print("The names without @COMMIT lead to the same files, until a newer version is fetched.")


def _flag(kind: Kind) -> str:
    return "--checkpoint" if kind == "checkpoint" else f"--{kind}-model"


class _HubErrors:
    """Turns the errors of the hub's library into one sentence."""

    def __init__(self, kind: Kind, name: HubName) -> None:
        self.kind, self.name = kind, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, SurgViVQAError):
            return
        reason = explain_hub_error(error)
        if reason is not None:
            sentence = f"{_flag(self.kind)} {self.name} cannot be fetched from the hub: {reason}."
            raise InputError(mask_secrets(sentence)) from None
