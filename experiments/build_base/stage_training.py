"""The training loop of a stage, with its saved state."""

import json
import logging
import math
import time
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.build_base.config import BuildConfig
from experiments.build_base.stages import Stage
from surgvivqa.training.progress_bar import Pace, ProgressBar
from surgvivqa.utils.atomic_files import write_file
from surgvivqa.utils.errors import RunError
from surgvivqa.utils.signals import StopSignals

log = logging.getLogger("surgvivqa")


def run_stage(stage: Stage, config: BuildConfig, stop: StopSignals) -> bool:
    """Runs a stage from its saved state to its end; returns False if a signal stopped it.

    Raises:
        RunError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(stage.trained, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    state = config.out / f"{stage.name}.safetensors"
    step = _restore(stage, optimizer, state)
    if step == stage.steps:
        return True
    stage.set_trainable()
    began, sums, counted = time.monotonic(), defaultdict[str, float](float), 0
    pace = Pace(stage.steps, "steps")
    with ProgressBar(stage.steps, True) as bar:
        while step < stage.steps:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _rate(step, stage.steps)
            loss, metrics = stage.loss(step)
            value = loss.item()
            if not math.isfinite(value):
                raise RunError(f"The loss of step {step + 1} of the {stage.name} stage is {value}; use a lower --lr.")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(stage.trained, 1.0)
            optimizer.step()
            step, counted = step + 1, counted + 1
            pace.add(step, 1, value)
            bar.show(step, pace.describe())
            for name, metric in (metrics | {"loss": value}).items():
                sums[name] += metric
            if step % config.save_every == 0 or step == stage.steps or stop.caught:
                means = {name: round(value / counted, 5) for name, value in sums.items()}
                if step % (4 * config.save_every) == 0 or step == stage.steps:
                    means |= {name: round(value, 4) for name, value in stage.validate().items()}
                line = {"stage": stage.name, "step": step, **means, "seconds": round(time.monotonic() - began, 1)}
                with (config.out / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                log.info("%s", json.dumps(line))
                sums, counted = defaultdict(float), 0
                if step < stage.steps:
                    _save(stage, optimizer, state, step)
            if stop.caught and step < stage.steps:
                return False
    stage.finish()
    _save(stage, None, state, step)
    return True


def _rate(step: int, total: int) -> float:
    """Factor of the peak rate: linear warmup over a twentieth of the steps, then a cosine to 0."""
    warm = max(1, total // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _save(stage: Stage, optimizer: torch.optim.Optimizer | None, path: Path, step: int) -> None:
    """Writes the weights and, within a stage, the optimizer's moments."""
    tensors = {
        f"{m}.{k}": v.contiguous() for m, module in stage.modules.items() for k, v in module.state_dict().items()
    }
    tensors = {k: v.clone() for k, v in tensors.items()}  # safetensors rejects tied weights
    if optimizer is not None:
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v.clone() for k, v in moments.items()}
    write_file(path, lambda aside: save_file(tensors, aside, {"step": str(step)}))


def _restore(stage: Stage, optimizer: torch.optim.Optimizer, path: Path) -> int:
    """Loads the stage's saved state, if there is one; returns the step to resume from."""
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    for name, module in stage.modules.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, moment = key.split(".")
            state[int(number)][moment] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(state)})
    return step
