"""Sends a run's figures to experiment trackers, besides ``metrics.jsonl``. None of them can stop or change a run.

The trackers are Accelerate's. The run folder holds TensorBoard's files (``tensorboard/``), those of Weights & Biases
(``wandb/``), and ``trackers.json``: the id under which a resumed run continues its runs there.
"""

import importlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from surgvivqa.checkpoints.public_settings import last_name, public_run
from surgvivqa.config import TrainConfig, plain_values
from surgvivqa.training.resume import Progress
from surgvivqa.utils.atomic_files import write_text
from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import read_json
from surgvivqa.utils.secrets import mask_secrets

log = logging.getLogger("surgvivqa")
TRACKERS_FILE, TENSORBOARD_FOLDER, WANDB_FOLDER = "trackers.json", "tensorboard", "wandb"
# What is imported to find out whether a tracker can be used.
_MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb"}
_PROJECT_VARIABLES = {"trackio": "TRACKIO_PROJECT", "wandb": "WANDB_PROJECT"}
_NOT_SENT = ("step", "chance")  # the step is the axis; the loss of a guess is a constant
# Weights & Biases also records the console, the command line, the host and the user name; a run sends its figures and
# public flags only. A run does not wait long for a login or an upload: what is not sent stays in wandb/.
_WANDB_SETTINGS = {
    "quiet": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "login_timeout": 60,
    "finish_timeout": 60,
}


def parse_trackers(values: Sequence[str]) -> tuple[str, ...]:
    """The trackers of ``--report-to``: words, or several separated by commas as in Hugging Face's ``Trainer``.

    Raises:
        InputError: a word is not a tracker, or ``none`` stands beside one.
    """
    names = [name.strip().lower() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if name not in (*_MODULES, "none"):
            raise InputError(f"--report-to {name} is not one of {', '.join(_MODULES)} or none.")
    if "none" in names and len(set(names)) > 1:
        raise InputError("--report-to none cannot stand beside other trackers; leave one of them out.")
    return tuple(dict.fromkeys(name for name in names if name != "none"))


def check_importable(names: Sequence[str]) -> None:
    """Checks that the trackers' packages can be imported; an installed one may be broken.

    Raises:
        InputError: one cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(_MODULES[name])
        except Exception as error:  # a broken package raises anything
            raise InputError(
                f"--report-to {name} needs a package that cannot be imported ({first_line(error)}); install it with "
                f'`pip install "surgvivqa[{name}]"`, or leave {name} out.'
            ) from None


class SafeTracker(GeneralTracker):
    """One of Accelerate's trackers, whose first failure is one warning and its end, and never reaches the run.

    Args:
        inner: the tracker.
        first_step: reads from the started tracker the first step that it still takes; earlier figures are not sent,
            because a resumed run has sent them before.
    """

    requires_logging_directory = False

    def __init__(self, inner: Any, first_step: Callable[[Any], int]) -> None:
        self.inner, self.name, self.failed, self.first_step = inner, inner.name, False, 0
        self._read_first_step = first_step
        super().__init__()

    @property
    def tracker(self) -> Any:
        """The tracker's own run."""
        return self.inner.tracker

    def start(self) -> None:
        """Starts the tracker's run."""
        self._try(self.inner.start)
        if not self.failed:
            self._try(lambda: setattr(self, "first_step", self._read_first_step(self.inner.tracker)))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Stores the flags."""
        self._try(self.inner.store_init_configuration, values)

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        """Sends figures at a step."""
        if step is None or step >= self.first_step:
            self._try(self.inner.log, values, step=step, **more)

    def finish(self) -> None:
        """Ends the tracker's run."""
        self._try(self.inner.finish)

    def _try(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        if self.failed:
            return
        try:
            call(*arguments, **more)
        except Exception as error:  # whatever it is, the run is worth more than its curves
            self.failed = True
            log.warning("--report-to %s failed (%s); the run goes on without it.", self.name, first_line(error))


class RunTrackers:
    """The trackers of one run; all do nothing but in the main process. A context manager that ends them.

    A run that resumes continues its runs in the trackers. One that a tracker joins later sends the figures of
    ``metrics.jsonl`` first.

    Args:
        accelerator: its trackers are set.
        folder: the run folder, at the state of the checkpoint that the run resumes from.
        config: the flags.
        progress: how far the run has come.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, config: TrainConfig, progress: Progress) -> None:
        self.accelerator, self.folder = accelerator, folder
        names = parse_trackers(config.report_to)
        if not names or not accelerator.is_main_process:
            return
        self.run, known = self._read_state()
        if not self.run:
            self.run = f"{_plain_name(folder.resolve().name)}-{uuid.uuid4().hex[:8]}"
        trackers = {name: self._build(name, progress if name in known else None) for name in names}
        accelerator.log_with = list(trackers.values())
        accelerator.init_trackers("surgvivqa")
        for name, tracker in trackers.items():
            # TensorBoard's form of the flags is a run of its own, so they are stored once; others replace them.
            if name not in known or name != "tensorboard":
                tracker.store_init_configuration(public_flags(config))
            self._send_earlier(tracker, progress, is_known=name in known)
        reached = {name for name, tracker in trackers.items() if not tracker.failed}
        content = {"run": self.run, "reported_to": sorted({*known, *reached})}
        write_text(folder / TRACKERS_FILE, json.dumps(content, indent=2) + "\n")

    def report(self, values: Mapping[str, float | None]) -> None:
        """Sends one line of ``metrics.jsonl``."""
        self.accelerator.log(_named(values), step=values["step"])

    def __enter__(self) -> "RunTrackers":
        return self

    def __exit__(self, *_: object) -> None:
        # Not Accelerate's end_training, which also ends the process group, while this process may go on to evaluate.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _read_state(self) -> tuple[str, list[str]]:
        """The run's id in the trackers and the trackers that have its figures; nothing for a run that begins."""
        try:
            content = read_json(self.folder / TRACKERS_FILE)
            return _plain_name(content["run"]), [str(name) for name in content["reported_to"]]
        except FileNotFoundError:
            return "", []
        except (OSError, ValueError, KeyError, TypeError) as error:
            path = self.folder / TRACKERS_FILE
            log.warning("%s cannot be read (%s); the trackers begin another run.", path, first_line(error))
            return "", []

    def _build(self, name: str, resumed_from: Progress | None) -> SafeTracker:
        """A tracker that is not started yet.

        Args:
            name: its name.
            resumed_from: the progress of a run that it knows already.
        """
        project = os.environ.get(_PROJECT_VARIABLES.get(name, ""), "surgvivqa")
        if name == "tensorboard":
            more = {} if resumed_from is None else {"purge_step": _first_step_again(resumed_from)}
            return SafeTracker(TensorBoardTracker(TENSORBOARD_FOLDER, self.folder, **more), lambda _: 0)
        if name == "trackio":
            # Trackio takes every step at any time; the newest one that it has may be incomplete after a kill.
            tracker = TrackioTracker(project, name=self.run, resume="allow")
            return SafeTracker(tracker, lambda run: run._next_step - 1)
        known = importlib.import_module("wandb").Settings.model_fields
        settings = {key: value for key, value in _WANDB_SETTINGS.items() if key in known}
        tracker = WandBTracker(
            project, id=self.run, name=self.run, resume="allow", dir=str(self.folder), settings=settings
        )
        return SafeTracker(tracker, lambda run: run.step)

    def _send_earlier(self, tracker: SafeTracker, progress: Progress, *, is_known: bool) -> None:
        """Sends the figures that ``metrics.jsonl`` has and the tracker has not, or has hidden."""
        first = 0
        if is_known:
            first = _first_step_again(progress) if tracker.name == "tensorboard" else progress.step + 1
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for values in map(json.loads, lines):
            if values["step"] >= first:
                tracker.log(_named(values), step=values["step"])


def public_flags(config: TrainConfig) -> dict[str, str | int | float | bool]:
    """The flags that are given and may leave the machine, as values that every tracker accepts.

    Paths are left out, as in published checkpoints, and secrets are masked.
    """
    flags: dict[str, str | int | float | bool] = {}
    for name, value in public_run(plain_values(config)).items():
        if value is not None:
            flags[name] = value if isinstance(value, bool | int | float) else mask_secrets(_as_text(value))
    return flags


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _first_step_again(progress: Progress) -> int:
    """The first step of which a resumed run writes figures: a validation that is not complete is repeated."""
    return progress.step + 1 if progress.validated else progress.step


def _named(values: Mapping[str, float | None]) -> dict[str, float]:
    """A line's finite figures under their names in the trackers: ``train/loss``, ``val/acc``."""
    names = {key: f"val/{key[4:]}" if key.startswith("val_") else f"train/{key}" for key in values}
    return {names[k]: value for k, value in values.items() if k not in _NOT_SENT and value is not None}


def _plain_name(name: str) -> str:
    """A name of letters, digits and ``_.-``, as all trackers accept it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", last_name(name))[:100] or "run"
