"""What a run needs to go on as if it had never been stopped, beside its weights; written and read without pickles.

Order and dropout follow from (seed, epoch, place) alone (``steps.step_plans``, ``steps.seed_micro_batch``), so
a number of steps says where they stand. What has a history is here: the optimiser's moments, the loss scaler, the best
figure so far, and the losses since the last line of the log.
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

from surgvivqa.checkpoints.folders import read_weights
from surgvivqa.checkpoints.published import load_safetensors, load_tensors, new_of
from surgvivqa.data.frames import BadFrame
from surgvivqa.data.index import question_counts, questions_checksum
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.utils.atomic_files import REPLACED
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.untrusted import read_json

log = logging.getLogger("surgvivqa")
STATE, MOMENTS = "training.json", "training.safetensors"


@dataclass
class Progress:
    """How far a run has come. ``scaler`` is fp16's loss scaler; ``losses`` and ``questions`` are those since the last
    line of the log; ``of`` is what the run is of (``fingerprint``), which must not have changed when it goes on;
    ``bad`` are the frames that could not be used, and ``validated`` is False where the validation after the step did
    not come to its end."""

    step: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    questions: int = 0
    scaler: dict[str, Any] | None = None
    of: dict[str, Any] = field(default_factory=dict)
    bad: list[BadFrame] = field(default_factory=list)
    validated: bool = True


def fingerprint(
    train: Sequence[FrameQuestions], validation: Sequence[FrameQuestions], micro_per_step: int, total: int
) -> dict[str, Any]:
    """What a run is of, beside its flags: its questions with their answers, micro-batches in a step, how many steps."""
    return {
        "questions": sum(question_counts(train)),
        "checksum_of_training_questions": questions_checksum(train),
        "checksum_of_validation_questions": questions_checksum(validation),
        "micro_batches_a_step": micro_per_step,
        "steps": total,
    }


def save_state(folder: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes the state into a checkpoint folder that is being made and already holds its weights."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(tensors, folder / MOMENTS, {"format": "pt"})
    values = asdict(progress)
    sums = {path.name: _sum(path) for path in _summed(folder)} | {STATE: _sum_of(values)}
    (folder / STATE).write_text(json.dumps({**values, "sha256": sums}, indent=2), encoding="utf-8")


def step_folders(checkpoints: Path) -> list[Path]:
    """A run's checkpoints, newest first."""
    found = [folder for folder in checkpoints.glob("step-*") if re.fullmatch("[0-9]{1,18}", folder.name[5:])]
    return sorted(found, key=lambda folder: int(folder.name[5:]), reverse=True)


def find_state(checkpoints: Path) -> tuple[Path, Progress] | None:
    """The newest whole checkpoint of a run with its progress, or None where the run has saved none.

    A damaged one is told of and passed over.

    Raises:
        InputError: there are some, and none of them can be read.
    """
    for old in checkpoints.glob(f".step-*{REPLACED}"):  # a kill fell between the two renames that replace it
        if not (folder := old.with_name(old.name[1:].removesuffix(REPLACED))).exists():
            old.replace(folder)
    found = step_folders(checkpoints)
    for folder in found:
        try:
            saved = read_json(folder / STATE)
            sums = saved.pop("sha256")
            if _sum_of(saved) != sums.pop(STATE):
                raise ValueError(f"{STATE} does not have its checksum")
            progress = Progress(**saved)
            _refuse_odd(progress)
            bad = [p.name for p in _summed(folder) if _sum(p) != sums.pop(p.name, "")] or list(sums)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is no whole checkpoint (%s); an older one is looked for.", folder, error)
            continue
        if not bad:
            return folder, progress
        log.warning("%s is damaged (%s does not have its checksum); an older one is looked for.", folder, bad[0])
    if found:
        raise InputError(
            f"None of the {len(found)} checkpoints in {checkpoints} can be read (newest: {found[0].name}), so the run "
            f"cannot go on; mend the disk, or give another folder, or --overwrite to start anew."
        )
    return None


def _refuse_odd(progress: Progress) -> None:
    """Raises ValueError where a value is of another kind than ``save_state`` writes."""
    numbers = [progress.step, progress.questions, progress.best or 0.0]
    kinds = isinstance(progress.losses, list) and isinstance(progress.of, dict) and isinstance(progress.validated, bool)
    kinds = kinds and all(len(bad) == 3 for bad in progress.bad)
    if not kinds or not isinstance(progress.scaler, dict | None):
        raise ValueError(f"{STATE} is not as it was written")
    if not all(isinstance(v, int | float) for v in [*numbers, *progress.losses]) or not isinstance(progress.step, int):
        raise ValueError(f"{STATE} has something else in the place of a number")


def load_weights(folder: Path, model: Any) -> None:
    """Puts a checkpoint's weights into the model that the run started from.

    Raises:
        InputError: they do not belong to it.
    """
    load_tensors(model, read_weights(folder), folder, new_of(model))


def load_moments(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts the optimiser's state of ``save_state`` back.

    Raises:
        InputError: it is of other parameters.
    """
    tensors = load_safetensors(folder / MOMENTS)
    state: dict[Any, dict[str, Tensor]] = {}
    names = {p: n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            suffix = f".{names[parameter]}"
            mine = {key.removesuffix(suffix): t for key, t in tensors.items() if key.endswith(suffix)}
            mine = {key: t for key, t in mine.items() if "." not in key}
            if any(t.ndim and t.shape != parameter.shape for t in mine.values()):
                raise InputError(f"{folder / MOMENTS} is of another model ({names[parameter]} has another shape).")
            # The count of steps stays on the CPU, as AdamW keeps it.
            state[parameter] = {k: t.to(parameter.device) if t.ndim else t for k, t in mine.items()}
    if sum(map(len, state.values())) != len(tensors):
        raise InputError(
            f"{folder / MOMENTS} is of other parameters than this run trains; use the flags it began with."
        )
    optimizer.state.update({p: s for p, s in state.items() if s})


def _summed(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.index.json")])


def _sum_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
