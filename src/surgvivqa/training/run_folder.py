"""The folder of a training run: locked, resumed or cleared of an older run, and filled with checkpoints.

::

    run/
      config.yaml               the flags; ``train --config`` on it starts the same run
      train.log  metrics.jsonl  the log, and the figures as JSON lines
      tensorboard/  wandb/      the figures for these trackers, with --report-to; trackers.json has the run's id there
      checkpoints/step-0000100  a checkpoint with the training state (``resume``)
      best/  best_model.pth     the best weights so far, as a checkpoint folder and in the published form
      finished.json             written at the end of the run
      .lock  .job               the lock, and the SLURM job that began the run
"""

import contextlib
import dataclasses
import errno
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
from filelock import FileLock, Timeout

from surgvivqa.checkpoints.saving import export_pth, save_checkpoint
from surgvivqa.config import TrainConfig, changed_flags, option, save_yaml
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.resume import Progress, find_state, save_state, step_folders
from surgvivqa.training.run_log import LogFile
from surgvivqa.training.trackers import TENSORBOARD_FOLDER, TRACKERS_FILE, WANDB_FOLDER
from surgvivqa.utils.atomic_files import remove_folder, surviving_folder, write_text
from surgvivqa.utils.distributed import raise_on_all_ranks
from surgvivqa.utils.errors import InputError, RunError, first_line
from surgvivqa.utils.safe_json import check_regular_file
from surgvivqa.utils.safe_yaml import plain_yaml

log = logging.getLogger("surgvivqa")
FINISHED = "finished.json"
OVERWRITE = ".overwrite"  # in a fold's folder: the run in it is to be replaced (``crossval --overwrite``)
# Removed in this order: what marks a run as finished or resumable comes first, so that a kill in between leaves no
# folder that claims more than it holds.
RUN_FILES = (
    *(FINISHED, "checkpoints", "best", ".best.replaced", ".best.writing", "metrics.jsonl", "best_model.pth"),
    *(TRACKERS_FILE, TENSORBOARD_FOLDER, OVERWRITE),
)
_REMOVED = ".removed"
_JOB = ".job"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # from file systems without locks


@dataclass(frozen=True)
class RunStart:
    """Where a run starts: at its beginning, at a checkpoint of its own, or not at all because it is finished."""

    checkpoint: Path | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)
    finished: bool = False


class RunFolder:
    """The folder of one run. Only the main process writes; in the others the methods do nothing or wait.

    A context manager: on exit the lock is released.

    Args:
        path: ``--checkpoint-dir``.
        is_main: whether this is the main process.
    """

    def __init__(self, path: Path, is_main: bool) -> None:
        self.path, self.is_main = path, is_main
        self._lock = FileLock(path / ".lock", blocking=False, fallback_to_soft=False)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release(force=True)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, which may be a link to another disk."""
        return self.path / "checkpoints"

    def open(self, config: TrainConfig) -> RunStart:
        """Creates and locks the folder, opens the log, and finds where the run starts.

        With ``--resume auto`` a run that is already there resumes from its newest complete checkpoint if its flags are
        the same; with ``--overwrite`` it starts at its beginning.

        Raises:
            InputError: the folder holds another run, is in use, cannot be written, or has links in place of files.
        """
        start = RunStart()
        if self.is_main:
            self._check_files()
            if self.path.is_dir() and os.access(self.path, os.W_OK):
                self._acquire_lock()
            if self._holds_run():
                start = self._find_start(config)
            try:
                if not self.path.is_dir():
                    self.path.mkdir(parents=True, exist_ok=True)
                    self._acquire_lock()
            except OSError as error:
                raise InputError(f"--checkpoint-dir {self.path} cannot be written ({error.strerror}).") from None
        self._open_log(config)
        return start

    def _check_files(self) -> None:
        """Raises InputError where a run would write through a link or into a pipe: the folder may be untrusted."""
        for name in (*RUN_FILES, WANDB_FOLDER, "train.log", "config.yaml"):
            if name != "checkpoints" and (self.path / name).is_symlink():  # checkpoints/ may lie on a larger disk
                raise InputError(
                    f"--checkpoint-dir {self.path} has the link {name}, which a run would write through; remove it."
                )
        for name in ("train.log", "metrics.jsonl"):
            if (self.path / name).exists() and not (self.path / name).is_file():
                raise InputError(f"--checkpoint-dir {self.path} has {name}, which is not a regular file; remove it.")

    def _acquire_lock(self) -> None:
        """Locks the folder for this process until it ends, however it ends.

        Raises:
            InputError: another process, on this machine or on another one, trains in the folder; or ``.lock`` cannot be
                opened, for example because it is a link. File systems without locks are tolerated.
        """
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                f"Another process is training in --checkpoint-dir {self.path}; wait for it, or stop it."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise InputError(f"--checkpoint-dir {self.path} cannot be locked (.lock: {error.strerror}).") from None
            log.debug("%s cannot be locked (%s)", self.path, error)

    def _holds_run(self) -> bool:
        """Whether there is anything of a run; an empty ``checkpoints/``, which a user may have linked, is nothing."""
        if any((self.path / name).exists() for name in RUN_FILES if name != "checkpoints"):
            return True
        return self.checkpoints.exists() and not (self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()))

    def _find_start(self, config: TrainConfig) -> RunStart:
        """Where a run starts in a folder that already holds one."""
        if config.overwrite:
            if config.pretrained_ckpt and config.pretrained_ckpt.resolve().is_relative_to(self.path.resolve()):
                raise InputError(
                    f"--overwrite would remove {config.pretrained_ckpt}, which the run starts from; give another "
                    f"--checkpoint-dir."
                )
            if self.checkpoints.is_symlink() and any(self.checkpoints.iterdir()):
                raise InputError(
                    f"--overwrite does not remove what lies behind the link {self.checkpoints}; empty the folder that "
                    f"it leads to, or remove the link."
                )
            return RunStart()
        if config.resume == "never":
            raise InputError(f"--checkpoint-dir {self.path} already holds a run; give another folder, or --overwrite.")
        self._check_same_flags(config)
        checkpoint, progress = find_state(self.checkpoints) or (None, Progress())
        finished = (self.path / FINISHED).is_file() and surviving_folder(self.path / "best").is_dir()
        return RunStart(checkpoint, progress, finished)

    def _check_same_flags(self, config: TrainConfig) -> None:
        """Raises InputError, with the differences, where the folder's run has other flags."""
        path = self.path / "config.yaml"
        try:
            check_regular_file(path)
            saved = plain_yaml(path)
            changed = changed_flags(TrainConfig, saved, config)
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
            raise InputError(
                f"--checkpoint-dir {self.path} holds a run whose config.yaml is missing or cannot be read; give "
                f"another folder, or --overwrite."
            ) from None
        if changed:
            shown = ", ".join(f"{option(name)} was {was}, is {now}" for name, (was, now) in changed.items())
            raise InputError(
                f"--checkpoint-dir {self.path} holds a run with other flags ({shown}); give the same flags to resume "
                f"it, or another folder, or --overwrite."
            )

    def _open_log(self, config: TrainConfig) -> None:
        path = config.log_file or self.path / "train.log"
        try:
            handler: logging.Handler = LogFile(path) if self.is_main else logging.NullHandler()
        except OSError as error:
            flag = "--log-file" if config.log_file else "The log"
            raise InputError(f"{flag} {path} cannot be written ({error.strerror}).") from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for old in [h for h in log.handlers if isinstance(h, logging.FileHandler)]:
            log.removeHandler(old)
            old.close()
        log.addHandler(handler)

    def rewind(self, start: RunStart, fingerprint: dict[str, int]) -> None:
        """Brings the folder to the state of ``start``'s checkpoint: what was written after it is removed.

        Raises:
            InputError: the data, the number of steps or the size of a step differs from when the run began.
        """
        was = start.progress.fingerprint
        changed = [name for name in fingerprint if was.get(name) != fingerprint[name]]
        if changed:
            shown = ", ".join(f"{name.replace('_', ' ')} {was.get(name)}, now {fingerprint[name]}" for name in changed)
            advice = " (processes times --gradient-accumulation-steps must stay the same)" if "micro" in shown else ""
            raise InputError(
                f"The run in {self.path} cannot resume, because its data or steps differ: {shown}{advice}."
            )
        if not self.is_main:
            return
        for folder in step_folders(self.checkpoints):
            if folder == start.checkpoint:
                break
            # Newer than the checkpoint, so damaged, and in the way of those that follow.
            damaged = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(damaged, ignore_errors=True)
            folder.rename(damaged)
        for left in self.checkpoints.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)
        self._cut_metrics(start.progress)

    def _cut_metrics(self, progress: Progress) -> None:
        """Keeps the lines of ``metrics.jsonl`` that the resumed run will not write again."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # a line that was cut off
                values = json.loads(line)
                again = values["step"] == progress.step and not progress.validated and "val_loss" in values
                if values["step"] <= progress.step and not again:
                    kept.append(line + "\n")
        write_text(path, "".join(kept))

    def clear(self, config: TrainConfig) -> None:
        """Writes ``config.yaml`` and takes away an older run's files. Called after all checks have passed.

        With ``--overwrite`` the files are removed. Without it they belong to a run with the same flags that saved no
        checkpoint; they are kept in ``before-N``.

        Raises:
            RunError: the folder cannot be written.
        """
        if not self.is_main:
            return
        paths = (*(self.path / name for name in RUN_FILES), *self.path.glob("eval-*"))
        old = [path for path in paths if path.exists() or path.is_symlink()]
        if self.checkpoints.is_symlink():  # to another disk, where the new checkpoints go too
            old.remove(self.checkpoints)
        removed = self.path / _REMOVED
        try:
            if old and not config.overwrite:
                aside = next(p for n in itertools.count(1) if not (p := self.path / f"before-{n}").exists())
                aside.mkdir()
                log.warning(
                    "The run in %s saved no checkpoint and starts again; its files are in %s.", self.path, aside.name
                )
                for path in old:
                    path.rename(aside / path.name)
            # Moved before they are removed: a kill during removal would leave half a checkpoint, which blocks a resume.
            remove_folder(removed)
            if config.overwrite:
                removed.mkdir()
                for path in old:
                    path.rename(removed / path.name)
            # The saved flags resume this run, so they must not overwrite it.
            save_yaml(dataclasses.replace(config, overwrite=False), self.path / "config.yaml")
            (self.path / _JOB).unlink(missing_ok=True)
            if os.environ.get("SLURM_JOB_ID"):
                write_text(self.path / _JOB, os.environ["SLURM_JOB_ID"])
            remove_folder(removed)
        except OSError as error:
            raise RunError(f"{self.path} cannot be cleared of its older run ({first_line(error)}).") from error

    def save_best(self, bundle: ModelBundle) -> None:
        """Writes ``best/`` and ``best_model.pth``; all wait for the main process."""
        with raise_on_all_ranks():
            if self.is_main:
                save_checkpoint(bundle, self.path / "best")
                export_pth(bundle, self.path / "best_model.pth")

    def save_step(self, bundle: ModelBundle, progress: Progress, optimizer: torch.optim.Optimizer, keep: int) -> None:
        """Writes ``checkpoints/step-N`` and removes all but the newest ``keep``; all wait for the main process."""
        with raise_on_all_ranks():
            if self.is_main:
                save_checkpoint(
                    bundle,
                    self.checkpoints / f"step-{progress.step:07d}",
                    write_extra=lambda folder: save_state(folder, progress, bundle.model, optimizer),
                )
                for old in step_folders(self.checkpoints)[max(1, keep) :]:
                    shutil.rmtree(old, ignore_errors=True)

    def mark_finished(self, steps: int, bad: BadFrames) -> None:
        """Writes ``finished.json``: the number of steps and the skipped frames. Starting the run again does nothing."""
        if self.is_main:
            content: dict[str, Any] = {"steps": steps, "skipped_frames": bad.to_list()}
            write_text(self.path / FINISHED, json.dumps(content, indent=2) + "\n")


def without_overwrite_if_requeued(config: TrainConfig) -> TrainConfig:
    """``config`` without ``--overwrite`` if SLURM has requeued the very job that began the run in the folder.

    Such a job starts with the same arguments and must resume its run instead of replacing it.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    path = config.checkpoint_dir / _JOB
    own = job and restarts != "0" and path.is_file() and path.read_text(encoding="utf-8", errors="replace") == job
    return dataclasses.replace(config, overwrite=False) if own else config
