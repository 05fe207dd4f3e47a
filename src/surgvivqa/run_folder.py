"""The run folder: opened, cleared of an older run, and given its checkpoints."""

import logging
import shutil
from pathlib import Path

from surgvivqa.config import TrainConfig, save_yaml
from surgvivqa.errors import InputError
from surgvivqa.model.bundle import Bundle
from surgvivqa.model.checkpoints import export_pth, save_checkpoint
from surgvivqa.processes import together

log = logging.getLogger("surgvivqa")
RUN_FILES = ("best", "checkpoints", "metrics.jsonl", "best_model.pth")


def open_run_folder(config: TrainConfig, main: bool) -> Path:
    """Makes the run folder and opens its log; a run that is there is refused unless ``--overwrite``.

    Raises:
        InputError: the folder holds a run, or the run's own start, or cannot be written.
    """
    folder = config.checkpoint_dir
    if main and any((folder / name).exists() for name in RUN_FILES):
        if not config.overwrite:
            raise InputError(f"--checkpoint-dir {folder} already holds a run; give another folder, or --overwrite.")
        if config.pretrained_ckpt and config.pretrained_ckpt.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"--overwrite would remove {config.pretrained_ckpt}, which the run starts from; give another "
                f"--checkpoint-dir."
            )
    try:
        if main:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--checkpoint-dir {folder} cannot be written ({error.strerror}).") from None
    path = config.log_file or folder / "train.log"
    try:
        handler: logging.Handler = logging.FileHandler(path) if main else logging.NullHandler()
    except OSError as error:
        flag = "--log-file" if config.log_file else "The log"
        raise InputError(f"{flag} {path} cannot be written ({error.strerror}).") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for old in [h for h in log.handlers if isinstance(h, logging.FileHandler)]:
        log.removeHandler(old)
        old.close()
    log.addHandler(handler)
    return folder


def clear_run_folder(config: TrainConfig, main: bool) -> None:
    """Writes ``config.yaml`` and removes what an older run left, once nothing can refuse this one any more."""
    if not main:
        return
    folder = config.checkpoint_dir
    for path in [*(folder / name for name in RUN_FILES), *folder.glob("eval-*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    save_yaml(config, folder / "config.yaml")


def save_best(bundle: Bundle, folder: Path, main: bool) -> None:
    """The main process writes ``best/`` and ``best_model.pth``; all wait for it."""
    with together():
        if main:
            save_checkpoint(bundle, folder / "best")
            export_pth(bundle, folder / "best_model.pth")


def save_step(bundle: Bundle, folder: Path, step: int, keep: int, main: bool) -> None:
    """The main process writes ``checkpoints/step-N`` and removes all but the newest ``keep``; all wait for it."""
    with together():
        if main:
            save_checkpoint(bundle, folder / "checkpoints" / f"step-{step:07d}")
            for old in sorted((folder / "checkpoints").glob("step-*[0-9]"))[: -max(1, keep)]:
                shutil.rmtree(old, ignore_errors=True)
