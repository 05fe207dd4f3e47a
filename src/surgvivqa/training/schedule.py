"""The steps of a run: questions, learning rate and optimizer of each, a function of flags and seed alone."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from surgvivqa.config import TrainConfig
from surgvivqa.features.batches import EpochOrder, MicroBatch, plan_epoch


class EpochPlan(NamedTuple):
    """One process's part of an epoch.

    ``micro_batches`` lists its micro-batches in order; ``weights[step][micro]`` is the factor on the summed loss of
    each micro-batch of a step; ``window_starts`` lists micro-batches in which a window begins.
    """

    micro_batches: list[MicroBatch]
    weights: list[list[float]]
    epoch: int
    window_starts: list[int]


def step_plans(counts: Sequence[int], config: TrainConfig, world: int, rank: int, total: int) -> Iterator[EpochPlan]:
    """Yields the plan of each epoch until ``total`` steps are planned.

    A step takes ``world * accumulation`` micro-batches in order, and this process every ``world``-th of them. A weight
    is ``1 / questions in the step``, so that the losses of all processes sum to the mean over the step's questions.
    Where an epoch does not divide evenly, empty places repeat its first micro-batch with weight 0.

    Args:
        counts: number of questions of each frame.
        config: batch size, accumulation and seed are read.
        world: number of processes.
        rank: this process.
        total: number of steps of the run.
    """
    accumulation, done, epoch = config.gradient_accumulation_steps, 0, 0
    while done < total:
        plan, block_starts = _plan(counts, config, config.seed, epoch)
        mine: list[MicroBatch] = []
        weights: list[list[float]] = []
        for start in range(0, len(plan), world * accumulation):
            if done == total:
                break
            part = plan[start : start + world * accumulation]
            questions = sum(len(chosen) for batch in part for _, chosen in batch)
            places = [m * world + rank for m in range(accumulation)]
            mine += [part[place] if place < len(part) else plan[0] for place in places]
            weights.append([1 / questions if place < len(part) else 0.0 for place in places])
            done += 1
        yield EpochPlan(mine, weights, epoch, [start // world for start in block_starts])
        epoch += 1


def steps_per_epoch(counts: Sequence[int], config: TrainConfig, world: int) -> int:
    """Number of steps in an epoch of ``world`` processes; the last one may be smaller."""
    count = len(_plan(counts, config, 0, 0).micro_batches)
    return math.ceil(count / (world * config.gradient_accumulation_steps))


def _plan(counts: Sequence[int], config: TrainConfig, seed: int, epoch: int) -> EpochOrder:
    return plan_epoch(counts, config.batch_size, config.questions_per_frame, seed, epoch, config.shuffle_frames)


def seed_micro_batch(seed: int, epoch: int, position: int) -> None:
    """Seeds PyTorch so that dropout depends on a micro-batch's position in its epoch, not on the process it runs in."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, position]).generate_state(1)[0]))


def make_optimizer(model: nn.Module, lr: float, weight_decay: float, *, fused: bool = False) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, not on biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, fused=fused)


def rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of step ``step`` (from 0) as a fraction of ``--lr``: linear warm-up, then the schedule."""
    warmup = min(config.warmup_steps, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def is_due(step: int, every: int) -> bool:
    """Whether something done every ``every`` steps (0: never) is due after ``step``."""
    return every > 0 and step % every == 0
