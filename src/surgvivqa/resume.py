"""What a run needs to go on as if it had never been stopped, beside its weights; written and read without pickles.

Order and dropout follow from (seed, epoch, place) alone (``training.step_plans``, ``training.seed_micro_batch``), so
a number of steps says where they stand. What has a history is here: the optimiser's moments, the loss scaler, the best
figure so far, and the losses since the last line of the log.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from surgvivqa.errors import InputError
from surgvivqa.model.checkpoints import WEIGHTS, read_weights
from surgvivqa.model.published import load_safetensors, new_of, put

log = logging.getLogger("surgvivqa")
STATE, MOMENTS = "training.json", "training.safetensors"


@dataclass
class Progress:
    """How far a run has come. ``scaler`` is fp16's loss scaler; ``losses`` and ``questions`` are those since the last
    line of the log; ``of`` is what the run is of (``fingerprint``), which must not have changed when it goes on."""

    step: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    questions: int = 0
    scaler: dict[str, Any] | None = None
    of: dict[str, Any] = field(default_factory=dict)


def fingerprint(counts: Sequence[int], micro_per_step: int, total: int) -> dict[str, Any]:
    """What a run is of, beside its flags: its questions by frame, micro-batches in a step, and how many steps."""
    return {
        "frames": len(counts),
        "questions": int(sum(counts)),
        "questions_by_frame": zlib.crc32(np.asarray(counts, np.int64).tobytes()),
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
    sums = {name: _sum(folder / name) for name in (MOMENTS, WEIGHTS)}
    (folder / STATE).write_text(json.dumps({**asdict(progress), "sha256": sums}, indent=2), encoding="utf-8")


def find_state(checkpoints: Path) -> tuple[Path, Progress] | None:
    """The newest whole checkpoint of a run with its progress; a damaged one is told of and passed over."""
    for folder in sorted(checkpoints.glob("step-*[0-9]"), reverse=True):
        try:
            saved = json.loads((folder / STATE).read_text(encoding="utf-8"))
            sums = saved.pop("sha256")
            progress = Progress(**saved)
            bad = [name for name in (MOMENTS, WEIGHTS) if _sum(folder / name) != sums[name]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is no whole checkpoint (%s); an older one is looked for.", folder, error)
            continue
        if not bad:
            return folder, progress
        log.warning("%s is damaged (%s does not have its checksum); an older one is looked for.", folder, bad[0])
    return None


def load_weights(folder: Path, model: Any) -> None:
    """Puts a checkpoint's weights into the model that the run started from.

    Raises:
        InputError: they do not belong to it.
    """
    put(model, read_weights(folder), folder, new_of(model))


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


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
