"""The training state in a checkpoint: what a run needs, besides its weights, to resume bit for bit. No pickles.

The order of questions and dropout follow from (seed, epoch, position) alone (``schedule.step_plans``,
``schedule.seed_micro_batch``), so the number of steps says where they stand. What has a history is stored: the
optimizer's moments, the loss scaler, the best figure, and the losses since the last line of the log.

A checkpoint folder holds, besides the weights::

    training.json         Progress and the SHA-256 of each file
    training.safetensors  the optimizer's moments, named KEY.PARAMETER
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from surgvivqa.checkpoints.checksums import compute_checksums, hash_file, weight_files
from surgvivqa.checkpoints.folders import read_weights
from surgvivqa.checkpoints.published import load_safetensors, load_tensors, new_tensor_names
from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts, questions_checksum
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.utils.atomic_files import REPLACED
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.safe_json import read_json

log = logging.getLogger("surgvivqa")
STATE, OPTIMIZER_STATE = "training.json", "training.safetensors"
_KEYS_ON_DISK = {"fingerprint": "of"}  # fields whose key in training.json differs from their name


@dataclass
class Progress:
    """How far a run has come: the content of ``training.json``.

    ``losses`` and ``questions`` are those since the last line of the log; ``scaler`` is the state of fp16's loss
    scaler; ``fingerprint`` is what must not change when the run resumes (``compute_fingerprint``); ``bad`` lists the
    frames that could not be used; ``validated`` is False if the validation due after ``step`` is not complete.
    """

    step: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    questions: int = 0
    scaler: dict[str, Any] | None = None
    fingerprint: dict[str, int] = field(default_factory=dict)
    bad: list[BadFrame] = field(default_factory=list)
    validated: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the keys of ``training.json``."""
        return {_KEYS_ON_DISK.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Progress":
        """The inverse of ``to_dict``, for values from an untrusted file.

        Raises:
            TypeError, ValueError: a key is missing or unknown, or a value has the wrong type.
        """
        names = {key: name for name, key in _KEYS_ON_DISK.items()}
        progress = cls(**{names.get(key, key): value for key, value in values.items()})
        _check_types(progress)
        return progress


def compute_fingerprint(
    train: Sequence[FrameQuestions], validation: Sequence[FrameQuestions], micro_per_step: int, total: int
) -> dict[str, int]:
    """What identifies a run besides its flags: questions with their answers, micro-batches per step, and steps."""
    return {
        "questions": sum(question_counts(train)),
        "checksum_of_training_questions": questions_checksum(train),
        "checksum_of_validation_questions": questions_checksum(validation),
        "micro_batches_a_step": micro_per_step,
        "steps": total,
    }


def save_state(folder: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes the training state into a checkpoint folder that is being written and already holds the weights."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(tensors, folder / OPTIMIZER_STATE, {"format": "pt"})
    values = progress.to_dict()
    sums = compute_checksums(folder) | {STATE: _json_sum(values)}
    (folder / STATE).write_text(json.dumps({**values, "sha256": sums}, indent=2), encoding="utf-8")


def step_folders(checkpoints: Path) -> list[Path]:
    """A run's checkpoints, newest first."""
    found = [folder for folder in checkpoints.glob("step-*") if re.fullmatch("[0-9]{1,18}", folder.name[5:])]
    return sorted(found, key=lambda folder: int(folder.name[5:]), reverse=True)


def find_state(checkpoints: Path) -> tuple[Path, Progress] | None:
    """The newest complete checkpoint of a run with its progress, or None if the run has saved none.

    Damaged checkpoints are reported in the log and skipped.

    Raises:
        InputError: there are checkpoints, and none of them can be read.
    """
    for old in checkpoints.glob(f".step-*{REPLACED}"):  # a kill fell between the two renames that replace it
        if not (folder := old.with_name(old.name[1:].removesuffix(REPLACED))).exists():
            old.replace(folder)
    found = step_folders(checkpoints)
    for folder in found:
        try:
            return folder, _read_state(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged or incomplete (%s); trying an older checkpoint.", folder, error)
    if found:
        raise InputError(
            f"None of the {len(found)} checkpoints in {checkpoints} can be read (newest: {found[0].name}), so the run "
            f"cannot resume; repair the disk, give another folder, or start again with --overwrite."
        )
    return None


def _read_state(folder: Path) -> Progress:
    """Reads ``training.json`` and verifies the checksums; raises some error if anything is wrong."""
    saved = read_json(folder / STATE)
    sums = saved.pop("sha256")
    if _json_sum(saved) != sums.pop(STATE):
        raise ValueError(f"the checksum of {STATE} is wrong")
    progress = Progress.from_dict(saved)
    if folder.name != f"step-{progress.step:07d}":
        raise ValueError(f"it holds step {progress.step}")
    wrong = [path.name for path in weight_files(folder) if hash_file(path) != sums.pop(path.name, "")] or list(sums)
    if wrong:
        raise ValueError(f"the checksum of {wrong[0]} is wrong")
    return progress


def _check_types(progress: Progress) -> None:
    numbers = [progress.step, progress.questions, progress.best or 0.0]
    valid = (
        isinstance(progress.losses, list)
        and isinstance(progress.fingerprint, dict)
        and isinstance(progress.validated, bool)
        and isinstance(progress.scaler, dict | None)
        and all(len(bad) == 3 for bad in progress.bad)
        and isinstance(progress.step, int)
        and all(isinstance(value, int | float) for value in [*numbers, *progress.losses])
    )
    if not valid:
        raise ValueError(f"{STATE} has a value of the wrong type")


def load_weights(folder: Path, model: SurgViVQAModel) -> None:
    """Loads a checkpoint's weights into the model that the run started from.

    Raises:
        InputError: they do not fit the model.
    """
    load_tensors(model, read_weights(folder), folder, new_tensor_names(model))


def load_optimizer_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restores the optimizer's state that ``save_state`` wrote.

    Raises:
        InputError: it belongs to other parameters.
    """
    path = folder / OPTIMIZER_STATE
    tensors = load_safetensors(path)
    state: dict[Any, dict[str, Tensor]] = {}
    names = {p: n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            suffix = f".{names[parameter]}"
            mine = {key.removesuffix(suffix): t for key, t in tensors.items() if key.endswith(suffix)}
            mine = {key: t for key, t in mine.items() if "." not in key}
            if any(t.ndim and t.shape != parameter.shape for t in mine.values()):
                raise InputError(
                    f"{folder / OPTIMIZER_STATE} belongs to another model ({names[parameter]} has another shape)."
                )
            # A fused optimizer keeps the step counter on the device too.
            state[parameter] = {k: t.to(parameter.device) for k, t in mine.items()}
    if sum(map(len, state.values())) != len(tensors):
        raise InputError(
            f"{path} belongs to other parameters than this run trains; use the flags that the run began with."
        )
    optimizer.state.update({p: s for p, s in state.items() if s})


def _json_sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
