"""Steps of training: which questions each takes, its learning rate, its optimiser; of flags and seed alone."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from surgvivqa.config import TrainConfig
from surgvivqa.features.batches import MicroBatch, micro_batches


def step_plans(
    counts: list[int], config: TrainConfig, world: int, rank: int, total: int
) -> Iterator[tuple[list[MicroBatch], list[list[float]], int]]:
    """For each epoch until ``total`` steps: this process's micro-batches, and the loss weight of each by step.

    A step takes ``world * accumulation`` micro-batches in order, this process every ``world``-th of them. A weight is
    ``world / questions in the whole step`` (gradients are averaged over processes), so that a step's loss is the mean
    over its questions; where an epoch does not divide evenly, empty places repeat its first micro-batch at weight 0.
    """
    accumulation, done, epoch = config.gradient_accumulation_steps, 0, 0
    while done < total:
        plan = micro_batches(counts, config.batch_size, config.questions_per_frame, config.seed, epoch)
        mine: list[MicroBatch] = []
        weights: list[list[float]] = []
        for start in range(0, len(plan), world * accumulation):
            if done == total:
                break
            part = plan[start : start + world * accumulation]
            questions = sum(len(chosen) for batch in part for _, chosen in batch)
            places = [m * world + rank for m in range(accumulation)]
            mine += [part[place] if place < len(part) else plan[0] for place in places]
            weights.append([world / questions if place < len(part) else 0.0 for place in places])
            done += 1
        yield mine, weights, epoch
        epoch += 1


def seed_micro_batch(seed: int, epoch: int, place: int) -> None:
    """Makes dropout a function of the micro-batch's place in its epoch, whichever process has it."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, place]).generate_state(1)[0]))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what trains; weight decay on matrices alone, not on biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr)


def rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of step ``step`` (0 is the first) as a part of ``--lr``: linear warm-up, then the schedule."""
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
