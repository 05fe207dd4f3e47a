"""The run folder: opened, gone on from or cleared of an older run, and given its checkpoints."""

import dataclasses
import fcntl
import itertools
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from surgvivqa.checkpoints.loading import export_pth, save_checkpoint
from surgvivqa.config import TrainConfig, plain_yaml, save_yaml
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.resume import Progress, find_state, save_state, step_folders
from surgvivqa.training.run_log import LogFile
from surgvivqa.utils.atomic_files import remove_folder, surviving_folder, write_text
from surgvivqa.utils.distributed import raise_on_all_ranks
from surgvivqa.utils.errors import InputError, RunError, first_line
from surgvivqa.utils.untrusted import refuse_odd_file

log = logging.getLogger("surgvivqa")
FINISHED = "finished.json"
# What says that a run is whole or can go on comes first: a kill while they are removed must leave nothing that lies.
RUN_FILES = (FINISHED, "checkpoints", "best", ".best.replaced", ".best.writing", "metrics.jsonl", "best_model.pth")
# Flags that change no number of a run, or that ``resume.fingerprint`` compares by what they come to.
_FREE = frozenset(
    "checkpoint_dir log_file overwrite resume max_hours workers keep_checkpoints save_every_steps log_interval "
    "ssgvqa_root image_root gradient_accumulation_steps on_bad_frame max_bad_frames".split()
)


_REMOVED = ".removed"
_JOB = ".job"  # the SLURM job that began the run


@dataclass(frozen=True)
class Start:
    """Where a run starts: anew, from a checkpoint of its own, or not at all, as it is finished."""

    folder: Path
    checkpoint: Path | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    finished: bool = False


def open_run_folder(config: TrainConfig, main: bool) -> Start:
    """Makes the run folder, opens its log, and says where the run starts.

    With ``--resume auto`` a run that is there goes on from its newest whole checkpoint if its flags are the same;
    ``--overwrite`` starts anew.

    Raises:
        InputError: the folder holds another run, or the run's own start, or cannot be written.
    """
    folder = config.checkpoint_dir
    start = Start(folder)
    # The folder may be a stranger's. A link in the place of checkpoints/ is somebody's larger disk; of a file, a trap.
    links = [n for n in (*RUN_FILES, "train.log", "config.yaml") if n != "checkpoints" and (folder / n).is_symlink()]
    if main and links:
        raise InputError(
            f"--checkpoint-dir {folder} has the link {links[0]}, which a run would write through; remove it."
        )
    pipes = [n for n in ("train.log", "metrics.jsonl") if (folder / n).exists() and not (folder / n).is_file()]
    if main and pipes:
        raise InputError(f"--checkpoint-dir {folder} has {pipes[0]}, which is no regular file; remove it.")
    if main and folder.is_dir() and os.access(folder, os.W_OK):
        _lock(folder)
    if main and _holds_run(folder):
        if config.overwrite:
            if config.pretrained_ckpt and config.pretrained_ckpt.resolve().is_relative_to(folder.resolve()):
                raise InputError(
                    f"--overwrite would remove {config.pretrained_ckpt}, which the run starts from; give another "
                    f"--checkpoint-dir."
                )
            if (folder / "checkpoints").is_symlink() and any((folder / "checkpoints").iterdir()):
                raise InputError(
                    f"--overwrite does not remove what lies behind the link {folder / 'checkpoints'}; empty the folder "
                    f"that it leads to, or remove the link."
                )
        elif config.resume == "never":
            raise InputError(f"--checkpoint-dir {folder} already holds a run; give another folder, or --overwrite.")
        else:
            _refuse_another_run(folder, config)
            checkpoint, progress = find_state(folder / "checkpoints") or (None, Progress())
            start = Start(
                folder,
                checkpoint,
                progress,
                finished=(folder / FINISHED).is_file() and surviving_folder(folder / "best").is_dir(),
            )
    try:
        if main and not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _lock(folder)
    except OSError as error:
        raise InputError(f"--checkpoint-dir {folder} cannot be written ({error.strerror}).") from None
    path = config.log_file or folder / "train.log"
    try:
        handler: logging.Handler = LogFile(path) if main else logging.NullHandler()
    except OSError as error:
        flag = "--log-file" if config.log_file else "The log"
        raise InputError(f"{flag} {path} cannot be written ({error.strerror}).") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for old in [h for h in log.handlers if isinstance(h, logging.FileHandler)]:
        log.removeHandler(old)
        old.close()
    log.addHandler(handler)
    return start


def own_run_kept(config: TrainConfig) -> TrainConfig:
    """``config`` without ``--overwrite`` where SLURM has queued this very job again after it had begun its run: it is
    started with the same arguments, and must not replace what it has learned."""
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    path = config.checkpoint_dir / _JOB
    own = job and restarts != "0" and path.is_file() and path.read_text(encoding="utf-8", errors="replace") == job
    return dataclasses.replace(config, overwrite=False) if own else config


def _holds_run(folder: Path) -> bool:
    """Whether there is anything of a run; an empty ``checkpoints/`` was made for one (a link to a larger disk)."""
    checkpoints = folder / "checkpoints"
    if any((folder / name).exists() for name in RUN_FILES if name != checkpoints.name):
        return True
    return checkpoints.exists() and not (checkpoints.is_dir() and not any(checkpoints.iterdir()))


_held: list[Any] = []  # the open lock file of the run under way


def _lock(folder: Path) -> None:
    """Raises InputError where another process, on this machine or on another one, trains in the folder.

    The lock goes with the process, however it ends; processes forked from it do not hold it. File systems without locks
    are left alone.
    """
    try:  # never through a link, and never emptied: the folder may be a stranger's
        handle = os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
    except OSError as error:
        raise InputError(f"--checkpoint-dir {folder} cannot be locked (.lock: {error.strerror}).") from None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        handle.close()
        raise InputError(
            f"Another process is training in --checkpoint-dir {folder}; wait for it, or stop it."
        ) from None
    except OSError as error:
        log.debug("%s cannot be locked (%s)", folder, error)
    _held.append(handle)


def release_run_folder() -> None:
    """Lets others train in the run folder again."""
    while _held:
        _held.pop().close()


def _refuse_another_run(folder: Path, config: TrainConfig) -> None:
    """Raises InputError, with the differences, where a folder's run has other flags."""
    path = folder / "config.yaml"
    try:
        refuse_odd_file(path)
        saved = plain_yaml(path)
        was = {name: saved[name] for name in saved if name not in _FREE}
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        raise InputError(
            f"--checkpoint-dir {folder} holds a run whose config.yaml is not there or cannot be read; give another "
            f"folder, or --overwrite."
        ) from None
    now = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in _FREE}
    now = {name: str(value) if isinstance(value, Path) else value for name, value in now.items()}
    usual = {f.name: f.default for f in dataclasses.fields(config)}
    for values in (was, now):  # where the cache lies does not matter, whether there is one does: it rounds
        values["cache"] = values.get("cache") is not None
    changed = [name for name in now if was.get(name, usual[name]) != now[name]]
    if changed:
        shown = ", ".join(f"--{n.replace('_', '-')} was {was.get(n, usual[n])}, is {now[n]}" for n in changed)
        raise InputError(
            f"--checkpoint-dir {folder} holds a run with other flags ({shown}); give them as they were to go on, or "
            f"another folder, or --overwrite."
        )


def go_on(start: Start, of: dict[str, Any], main: bool) -> None:
    """Brings the folder to where its checkpoint is: what was written after it is written again.

    Raises:
        InputError: the data, the number of steps or the size of a step is not what the run began with.
    """
    was = start.progress.of
    changed = [name for name in of if was.get(name) != of[name]]
    if changed:
        shown = ", ".join(f"{name.replace('_', ' ')} {was.get(name)}, now {of[name]}" for name in changed)
        advice = " (processes times --gradient-accumulation-steps must stay the same)" if "micro" in shown else ""
        raise InputError(f"The run in {start.folder} was of something else: {shown}{advice}; it cannot go on.")
    if not main:
        return
    assert start.checkpoint is not None
    for folder in step_folders(start.folder / "checkpoints"):
        if folder == start.checkpoint:
            break
        # Damaged, and in the way of those that are made from here on.
        shutil.rmtree(folder.with_name(f"damaged-{folder.name}"), ignore_errors=True)
        folder.rename(folder.with_name(f"damaged-{folder.name}"))
    for left in (start.folder / "checkpoints").glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    path = start.folder / "metrics.jsonl"
    if path.is_file():
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values, step = json.loads(line), start.progress.step
                again = values["step"] == step and not start.progress.validated and "val_loss" in values
                if values["step"] <= step and not again:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a line that was cut off
        write_text(path, "".join(kept))


def clear_run_folder(config: TrainConfig, main: bool) -> None:
    """Writes ``config.yaml`` and takes away what an older run left, once nothing can refuse this one any more.

    ``--overwrite`` removes it. Without, what is there is of a run with the same flags that saved no checkpoint: it is
    made again, and the old files are kept in ``before-N``.

    Raises:
        RunError: the folder cannot be written.
    """
    if not main:
        return
    folder = config.checkpoint_dir
    old = [p for p in (*(folder / name for name in RUN_FILES), *folder.glob("eval-*")) if p.exists() or p.is_symlink()]
    if (folder / "checkpoints").is_symlink():  # to a larger disk, where the new ones go too
        old.remove(folder / "checkpoints")
    try:
        if old and not config.overwrite:
            aside = next(p for n in itertools.count(1) if not (p := folder / f"before-{n}").exists())
            aside.mkdir()
            log.warning("The run in %s saved no checkpoint and starts anew; its files are in %s.", folder, aside.name)
            for path in old:
                path.rename(aside / path.name)
        # Out of the way first: a kill in mid-removal would leave half a checkpoint, with which no run goes on.
        remove_folder(folder / _REMOVED)
        if config.overwrite:
            (folder / _REMOVED).mkdir()
            for path in old:
                path.rename(folder / _REMOVED / path.name)
        # Used up: the file starts the same run again, and must not replace it.
        save_yaml(dataclasses.replace(config, overwrite=False), folder / "config.yaml")
        (folder / _JOB).unlink(missing_ok=True)
        if os.environ.get("SLURM_JOB_ID"):
            write_text(folder / _JOB, os.environ["SLURM_JOB_ID"])
        remove_folder(folder / _REMOVED)
    except OSError as error:
        raise RunError(f"{folder} cannot be cleared of its older run ({first_line(error)}).") from error


def save_best(bundle: ModelBundle, folder: Path, main: bool) -> None:
    """The main process writes ``best/`` and ``best_model.pth``; all wait for it."""
    with raise_on_all_ranks():
        if main:
            save_checkpoint(bundle, folder / "best")
            export_pth(bundle, folder / "best_model.pth")


def save_step(
    bundle: ModelBundle, folder: Path, progress: Progress, optimizer: torch.optim.Optimizer, keep: int, main: bool
) -> None:
    """The main process writes ``checkpoints/step-N`` and then removes all but the newest ``keep``; all wait for it."""
    with raise_on_all_ranks():
        if main:
            checkpoints = folder / "checkpoints"
            save_checkpoint(
                bundle,
                checkpoints / f"step-{progress.step:07d}",
                also=lambda aside: save_state(aside, progress, bundle.model, optimizer),
            )
            for old in step_folders(checkpoints)[max(1, keep) :]:
                shutil.rmtree(old, ignore_errors=True)


def finish(folder: Path, steps: int, bad: BadFrames, main: bool) -> None:
    """Marks the run as finished, so that starting it again does nothing, and says what it skipped."""
    if main:
        write_text(folder / FINISHED, json.dumps({"steps": steps, "skipped_frames": bad.to_list()}, indent=2) + "\n")
